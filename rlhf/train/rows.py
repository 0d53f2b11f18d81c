"""Digests of a run's training rows, kept in its checkpoints, so that a continued run detects changed rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf.train.artifact import MANIFEST
from rlhf.train.offline import Corpus
from rlhf.train.run_folder import RunFolder
from rlhf.types import InputError, Prompt, TrainingRow

ROWS = "rows"
"""Key of the digests in a manifest."""
Digest = dict[str, Any]
"""`number` of rows and their `sha256`."""


def digest_of_prompts(prompts: Sequence[Prompt]) -> Digest:
    """Digest ids, which seed rollouts, tokens, and all fields that rewards read, but not the file's path."""
    return digest(
        f"{prompt.id}\n".encode()
        + np.array(prompt.token_ids, dtype=np.int32).tobytes()
        + json.dumps(prompt.meta, sort_keys=True, ensure_ascii=False, default=str).encode()
        for prompt in prompts
    )


def digest_of_corpus(corpus: Corpus) -> Digest:
    """Digest tokens, loss masks, grades and columns of all rows, in order."""
    return digest(b"".join(map(bytes_of, unit)) for unit in corpus.units)


def bytes_of(row: TrainingRow) -> bytes:
    head = f"{row.num_tokens} {row.score!r} {sorted(row.columns)}\n".encode()
    columns = b"".join(row.columns[name].tobytes() for name in sorted(row.columns))
    return head + row.token_ids.tobytes() + row.loss_mask.tobytes() + columns


def digest(rows: Iterable[bytes]) -> Digest:
    sha, number = hashlib.sha256(), 0
    for row in rows:
        sha.update(len(row).to_bytes(8, "little") + row)
        number += 1
    return {"number": number, "sha256": sha.hexdigest()}


def check_rows(folder: RunFolder, now: Mapping[str, Digest], keys: Mapping[str, str]) -> None:
    """Compare the rows of each part with those that the newest checkpoint, or the model, was trained on.

    `keys` has the configuration's key of each part. Raises InputError if a part has changed.
    """
    made = next((each for each in (*folder.checkpoints(), folder.model) if (each / MANIFEST).is_file()), None)
    if made is None:
        return
    try:
        before = json.loads((made / MANIFEST).read_text(encoding="utf-8")).get(ROWS, {})
    except ValueError:
        return  # the verification of the checkpoint raises the error
    for name in sorted({*before, *now} if before else ()):
        one, other = before.get(name), now.get(name)
        if one != other:
            counts = f"{one['number'] if one else 'no'} rows then, {other['number'] if other else 'none'} now"
            if one and other and one["number"] == other["number"]:
                counts += ", other tokens"
            raise InputError(
                f"output={folder.root}: {keys.get(name, f'the held-out set {name}')} gives other rows than {made.name} "
                f"was made with ({counts}); restore them to continue, or set another output for a run on the new rows"
            )
