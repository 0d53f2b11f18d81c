"""Every published layout, from rows written here in that form."""

import json
from pathlib import Path
from typing import Any

import pytest

from rlhf.evaluation.forms import Form
from rlhf.evaluation.items import Item
from rlhf.evaluation.layouts.choosing import MMLU_COLUMNS
from rlhf.evaluation.suite import SuiteConfig, load_suite
from rlhf.types import InputError


def items_of(path: Path, layout: str, template: str = "{question}", **keys: Any) -> list[Item]:
    config = SuiteConfig(path=str(path), layout=layout, template=template, **keys)
    return list(load_suite("mine", config, None).items)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def lines(path: Path, *rows: Any) -> Path:
    return write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


CONTEXT_TEMPLATE = "{context}\n问：{question}"


ANSWER = {"text": "北京", "answer_start": 0}
QUESTIONS = [
    {"id": "P_1", "question": "首都？", "answers": [ANSWER, ANSWER]},
    {"id": "P_2", "question": "哪里？", "answers": []},
]
OTHER_QUESTIONS = [{"query_id": "P_1", "query_text": "首都？", "answers": ["北京"]}]
FLAT = {"id": "P_1", "question": "首都？", "answers": {"text": ["北京"], "answer_start": [0]}}


@pytest.mark.parametrize(
    "content",
    [
        {"version": "1", "data": [{"paragraphs": [{"id": "P", "context": "北京是首都。", "qas": QUESTIONS}]}]},
        [{"context_id": "P", "context_text": "北京是首都。", "qas": OTHER_QUESTIONS}],
        [{**FLAT, "context": "北京是首都。"}],
    ],
    ids=["SQuAD and CMRC 2018", "CMRC's other form", "flat"],
)
def test_questions_on_passages(tmp_path, content):
    (item,) = items_of(write(tmp_path / "dev.json", content), "squad", CONTEXT_TEMPLATE)
    assert item.id == "P_1"
    assert item.messages == ({"role": "user", "content": "北京是首都。\n问：首都？"},)
    assert item.references == ("北京",)
    assert item.meta["context"] == "北京是首都。"


def test_questions_on_one_passage_are_a_cluster(tmp_path):
    qas = [{"id": f"{i}", "question": f"{i}?", "answers": [{"text": "a"}]} for i in range(3)]
    article = {"data": [{"paragraphs": [{"context": "a b", "qas": qas[:2]}, {"context": "c", "qas": qas[2:]}]}]}
    clusters = [item.cluster for item in items_of(write(tmp_path / "dev.json", article), "squad", CONTEXT_TEMPLATE)]
    assert clusters[0] == clusters[1] != clusters[2]


def test_web_questions_have_the_first_evidence_with_an_answer(tmp_path):
    first = {"answer": ["no_answer"], "evidence": "无关。"}
    second = {"answer": ["曹雪芹"], "evidence": "曹雪芹写了。"}
    row = {"q_key": "Q1", "question": "谁写了《红楼梦》？", "evidences": {"e1": first, "e2": second}}
    (item,) = items_of(lines(tmp_path / "qa.jsonl", row), "webqa", CONTEXT_TEMPLATE)
    assert (item.references, item.meta["context"]) == (("曹雪芹",), "曹雪芹写了。")


LETTERED = "{question}\n{choices}"


def test_mmlu_files_have_no_header_and_name_the_subject(tmp_path):
    write(tmp_path / "law_test.csv", '"Who, then?",w,x,"y, z",v,C\n')
    write(tmp_path / "art_test.csv", "What?,1,2,3,4,A\n")
    art, law = items_of(tmp_path, "lettered_choices", LETTERED, files="*_test.csv", columns=list(MMLU_COLUMNS))
    assert law.messages[0]["content"] == "Who, then?\nA. w\nB. x\nC. y, z\nD. v"
    assert (law.right, law.references, law.meta["subject"]) == ((2,), ("C",), "law")
    assert (art.id, law.id) == ("art/art_test.csv:1", "law/law_test.csv:1")


def test_c_eval_has_a_header(tmp_path):
    write(tmp_path / "law_val.csv", "id,question,A,B,C,D,answer,explanation\n0,谁？,甲,乙,丙,丁,B,因为\n")
    (item,) = items_of(tmp_path, "lettered_choices", LETTERED, files="*_val.csv")
    assert (item.choices, item.right, item.id) == (("甲", "乙", "丙", "丁"), (1,), "law/0")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "?", "choices": ["a", "b"], "answer": 1, "subject": "art"},
        {
            "question_id": 7,
            "question": "?",
            "options": ["a", "b", "N/A"],
            "answer": "B",
            "answer_index": 1,
            "category": "art",
        },
    ],
    ids=["MMLU", "MMLU-Pro"],
)
def test_choices_as_lists(tmp_path, row):
    (item,) = items_of(lines(tmp_path / "test.jsonl", row), "listed_choices", LETTERED)
    assert (item.choices, item.right, item.meta["subject"]) == (("a", "b"), (1,), "art")


def test_gpqa_has_an_order_that_follows_from_the_question(tmp_path):
    header = "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Subdomain,Record ID\n"
    rows = "".join(f"Q{i}?,right,w1,w2,w3,physics,r{i}\n" for i in range(20))
    items = items_of(write(tmp_path / "gpqa.csv", header + rows), "gpqa", LETTERED)
    assert all(item.choices[item.right[0]] == "right" for item in items)
    assert len({item.right for item in items}) == 4
    assert [item.right for item in items] == [item.right for item in items_of(tmp_path / "gpqa.csv", "gpqa", LETTERED)]


@pytest.mark.parametrize(
    "target", [{"Yes": 0, "No": 1, "Never": 1}, {"choices": ["Yes", "No", "Never"], "labels": [0, 1, 1]}]
)
def test_truthful_qa_may_have_several_right_choices(tmp_path, target):
    path = write(tmp_path / "mc.json", [{"question": "?", "mc2_targets": target}])
    (item,) = items_of(path, "truthful_qa", form=Form.likelihood, layout_options={"targets": "mc2_targets"})
    assert (item.choices, item.right) == (("Yes", "No", "Never"), (1, 2))


def test_classes_may_be_numbers(tmp_path):
    path = write(tmp_path / "news.tsv", "text\tlabel\n股市上涨\t1\n球队夺冠\t0\n")
    options = {"labels": ["体育", "财经"]}
    items = items_of(path, "classification", "分类（{labels_zh}）：{text}", layout_options=options)
    assert [item.references for item in items] == [("财经",), ("体育",)]
    assert items[0].messages[0]["content"] == "分类（体育、财经）：股市上涨"


def test_bias_pairs_have_the_stereotype_first(tmp_path):
    header = "sent_more,sent_less,stereo_antistereo,bias_type\n"
    path = write(tmp_path / "pairs.csv", header + "a,b,stereo,age\nc,d,antistereo,age\n")
    items = items_of(path, "bias_pairs", form=Form.likelihood)
    assert [item.choices for item in items] == [("a", "b"), ("c", "d")]
    assert items[0].messages == ()


def test_endings_are_choices(tmp_path):
    row = {"ind": 3, "ctx": "He opens", "endings": ["the door", "a sea"], "label": "0"}
    (item,) = items_of(lines(tmp_path / "h.jsonl", row), "endings", form=Form.likelihood)
    assert (item.right, item.choices) == ((0,), ("the door", "a sea"))


def test_final_answers_of_gsm8k(tmp_path):
    row = {"question": "2 × 600?", "answer": "It is <<2*600=1200>>1200.\n#### 1,200"}
    (item,) = items_of(lines(tmp_path / "test.jsonl", row), "gsm8k")
    assert item.references == ("1200",)


def test_math_problems_have_their_answer_in_a_box(tmp_path):
    row = {
        "problem": "?",
        "level": "Level 5",
        "type": "Algebra",
        "solution": r"So $\boxed{1}$, or $\boxed{\frac{1}{2}}$.",
    }
    (item,) = items_of(write(tmp_path / "1.json", row), "math")
    assert item.references == (r"\frac{1}{2}",)
    assert item.meta["level"] == "Level 5"


@pytest.mark.parametrize("row", [{"Problem": "?", "Answer": 73, "ID": "2024-I-1"}, {"question": "?", "answer": "073"}])
def test_aime_answers_are_whole_numbers(tmp_path, row):
    (item,) = items_of(lines(tmp_path / "aime.jsonl", row), "aime")
    assert item.references == ("73",)


def test_arguments_of_instructions_that_are_none_are_left_out(tmp_path):
    row = {"key": 1, "prompt": "Write.", "instruction_id_list": ["punctuation:no_comma", "keywords:existence"],
           "kwargs": [{"keywords": None}, {"keywords": ["a"], "num_words": None}]}  # fmt: skip
    (item,) = items_of(lines(tmp_path / "if.jsonl", row), "if_eval")
    assert item.meta["kwargs"] == [{}, {"keywords": ["a"]}]


def test_function_calls_have_their_schemas_and_answers(tmp_path):
    row = {
        "id": "simple_0",
        "question": [[{"role": "user", "content": "Area of 3 x 4?"}]],
        "function": [{"name": "area", "parameters": {}}],
        "ground_truth": [{"area": {"a": [3], "b": [4]}}],
    }
    (item,) = items_of(lines(tmp_path / "bfcl.jsonl", row), "bfcl", "{functions}\n{question}")
    assert '"name": "area"' in item.messages[0]["content"]
    assert (item.meta["category"], item.meta["ground_truth"]) == ("simple", row["ground_truth"])


def test_summaries_by_the_first_field_that_the_row_has(tmp_path):
    path = lines(tmp_path / "s.jsonl", {"article": "long", "highlights": "short"})
    (item,) = items_of(path, "summaries", "{document}")
    assert (item.messages[0]["content"], item.references) == ("long", ("short",))


def test_texts_have_a_likelihood_of_their_own(tmp_path):
    (item,) = items_of(lines(tmp_path / "t.jsonl", {"text": "天地玄黄"}), "texts", form=Form.likelihood)
    assert (item.messages, item.choices) == ((), ("天地玄黄",))


def test_own_rows_may_be_dialogues(tmp_path):
    dialogue = [{"role": "user", "content": "1+1?"}]
    path = lines(tmp_path / "r.jsonl", {"q": dialogue, "a": ["2", "two"], "kind": "sum", "id": 5})
    (item,) = items_of(path, "rows", layout_options={"question": "q", "answer": "a"})
    assert (item.messages, item.references, item.id) == (tuple(dialogue), ("2", "two"), "5")
    assert item.meta["kind"] == "sum"


@pytest.mark.parametrize(
    ("layout", "row", "sentence"),
    [
        ("gsm8k", {"question": "?", "answer": "5"}, "rows.jsonl:1: the field answer has no '####'"),
        ("math", {"problem": "?", "solution": "5"}, "rows.jsonl:1: the field solution has no"),
        ("aime", {"problem": "?", "answer": "1000"}, "not a whole number from 0 to 999"),
        ("listed_choices", {"question": "?", "choices": ["a"], "answer": 1}, "there are 1 choices"),
        ("lettered_choices", {"question": "?", "answer": "A"}, "has no columns A and B"),
        ("squad", {"context": "c", "question": "?", "answers": 3}, "not a list of answers"),
        ("rows", {"question": "?", "answer": "2"}, "has no field 'prompt'"),
        ("if_eval", {"prompt": "?", "instruction_id_list": ["a:b"], "kwargs": []}, "has 1 entries and kwargs 0"),
        ("classification", {"text": "?", "label": [1]}, "rows.jsonl:1: the field label is [1], not a text"),
    ],
)
def test_a_file_in_another_layout_is_refused_with_its_line(tmp_path, layout, row, sentence):
    with pytest.raises(InputError, match=r"suite\.mine: ") as raised:
        items_of(lines(tmp_path / "rows.jsonl", row), layout)
    assert sentence in str(raised.value)
