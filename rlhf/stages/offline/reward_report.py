"""Report of a reward model on held-out pairs: metrics, all scores, and their calibration."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from rlhf.data.split import prompt_groups
from rlhf.evaluation.preference import preference_report, reliability_plot
from rlhf.train.offline import columns_of_rows

if TYPE_CHECKING:
    from rlhf.stages.offline.rank import OfflineRank

SCORES, RELIABILITY = "scores.jsonl", "reliability.png"
ROWS_PER_BATCH = 256


def report_on_rank(rank: OfflineRank) -> dict[str, float]:
    """Score every held-out pair; the first rank writes scores and plot. Every rank calls it."""
    reports = {}
    lines = []
    for name, corpus in rank.corpora.held_out.items():
        rows = [row for pair in corpus.units for row in pair]
        columns = columns_of_rows(rank.learner, rows, rank.packing, rows_per_batch=ROWS_PER_BATCH)
        scores = np.array([column.sum() for column in columns], dtype=np.float64).reshape(-1, 2)
        lengths = np.array([row.num_tokens for row in rows]).reshape(-1, 2)
        graded = np.array([row.score for row in rows]).reshape(-1, 2)
        known = bool(np.ptp(graded))
        reports[name] = preference_report(
            scores[:, 0],
            scores[:, 1],
            lengths[:, 0],
            lengths[:, 1],
            np.array(prompt_groups(corpus.units)),
            graded_chosen=graded[:, 0] if known else None,
            graded_rejected=graded[:, 1] if known else None,
        )
        lines += [
            {"set": name, "source": pair[0].source, "chosen": float(chosen), "rejected": float(rejected)}
            for pair, (chosen, rejected) in zip(corpus.units, scores, strict=True)
        ]
    if rank.is_first and reports:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (rank.folder.root / SCORES).write_text(text, encoding="utf-8")
        reliability_plot(reports, rank.folder.root / RELIABILITY)
    return {f"{name}/{key}": value for name, report in reports.items() for key, value in report.figures().items()}
