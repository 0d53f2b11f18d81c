"""Pairs in every form that public data sets have them, as policies learn them and as reward models read them."""

import re

import numpy as np
import pytest
from tokenizers.processors import TemplateProcessing

from rlhf.data.preferences import PairFormat, Pairing, PreferenceDataConfig, RankingDataConfig
from rlhf.types import InputError
from tests.unit.data.conftest import build_byte_level


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def load(path, tokenizer, kind=PreferenceDataConfig, **settings):
    config = kind(path=path, **settings)
    return config.load(tokenizer, context_tokens=200, quarantine=config.quarantine())


def text(tokenizer, token_ids):
    return tokenizer.decode(token_ids, clean_up_tokenization_spaces=False)


def learned(tokenizer, row):
    return text(tokenizer, row.token_ids[row.loss_mask])


def before(tokenizer, row):
    return text(tokenizer, row.token_ids[: row.loss_mask.argmax()])


def chatml(*turns):
    return "".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)


QUESTION = chatml(("user", "你好?")) + "<|im_start|>assistant\n"
HH = "\n\nHuman: {}\n\nAssistant: {}"
FORMS = {
    "texts": {"prompt": "你好?", "chosen": "您好", "rejected": "no"},
    "messages": {"prompt": [user("你好?")], "chosen": [assistant("您好")], "rejected": [assistant("no")]},
    "dialogues": {"chosen": [user("你好?"), assistant("您好")], "rejected": [user("你好?"), assistant("no")]},
    "ultrafeedback": {
        "prompt": "你好?", "chosen": [user("你好?"), assistant("您好")], "rejected": [user("你好?"), assistant("no")],
        "messages": [user("你好?"), assistant("您好")], "score_chosen": 8.5, "score_rejected": 3,
    },
    "hh": {"chosen": HH.format("你好?", "您好"), "rejected": HH.format("你好?", "no")},
    "graded": {"prompt": "你好?", "completions": [{"response": "no", "overall_score": 2},
                                                  {"response": "您好", "overall_score": 4.5}]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_pair_it_means(write_rows, bytes_tokenizer, form):
    ((chosen, rejected),) = load(write_rows(FORMS[form]), bytes_tokenizer)
    assert before(bytes_tokenizer, chosen) == before(bytes_tokenizer, rejected) == QUESTION
    assert (learned(bytes_tokenizer, chosen), learned(bytes_tokenizer, rejected)) == ("您好<|im_end|>", "no<|im_end|>")
    assert (chosen.score, rejected.score) == ((4.5, 2.0) if form == "graded" else (0.0, 0.0))
    assert chosen.source == rejected.source
    assert chosen.source.endswith("rows.jsonl:1")
    assert chosen.prompt_id == rejected.prompt_id != ""


def test_scores_where_the_data_has_them(write_rows, bytes_tokenizer):
    path = write_rows(FORMS["ultrafeedback"])
    keys = {"chosen_score_key": "score_chosen", "rejected_score_key": "score_rejected"}
    ((chosen, rejected),) = load(path, bytes_tokenizer, **keys)
    assert (chosen.score, rejected.score) == (8.5, 3.0)
    with pytest.raises(InputError, match=r":1: the field 'prompt' is text, not a finite number: correct or remove"):
        load(path, bytes_tokenizer, chosen_score_key="prompt", rejected_score_key="score_rejected")
    with pytest.raises(InputError, match=r"^chosen_score_key=a, rejected_score_key=None: set both, or neither"):
        PreferenceDataConfig(chosen_score_key="a")


def test_a_dialogue_of_hh(write_rows, bytes_tokenizer):
    start = HH.format("what is 12?", "twelve: Human: no")
    path = write_rows({"chosen": start + HH.format("再来", "好\n\n的"), "rejected": start + HH.format("再来", "不")})
    ((chosen, rejected),) = load(path, bytes_tokenizer)
    shared = chatml(("user", "what is 12?"), ("assistant", "twelve: Human: no"), ("user", "再来"))
    assert before(bytes_tokenizer, rejected) == shared + "<|im_start|>assistant\n"
    assert (learned(bytes_tokenizer, chosen), learned(bytes_tokenizer, rejected)) == (
        "好\n\n的<|im_end|>", "不<|im_end|>",
    )  # fmt: skip


def test_comparisons_of_summaries(write_rows, bytes_tokenizer):
    info = {"id": "t3", "post": "A long post.", "title": "标题", "subreddit": "tifu", "article": None}
    summaries = [{"text": " 短 ", "policy": "sup1"}, {"text": "long", "policy": "ref"}]
    path = write_rows({"info": info, "summaries": summaries, "choice": 1, "worker": "w"})
    ((chosen, rejected),) = load(path, bytes_tokenizer)
    asked = "SUBREDDIT: r/tifu\n\nTITLE: 标题\n\nPOST: A long post.\n\nTL;DR:"
    assert before(bytes_tokenizer, chosen) == chatml(("user", asked)) + "<|im_start|>assistant\n"
    assert (learned(bytes_tokenizer, chosen), learned(bytes_tokenizer, rejected)) == ("long<|im_end|>", "短<|im_end|>")


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        (Pairing.best, [("4", "3"), ("4", "2"), ("4", "二")]),
        (Pairing.all, [("4", "3"), ("4", "2"), ("4", "二"), ("3", "2"), ("3", "二")]),
    ],
)
def test_graded_completions(write_rows, bytes_tokenizer, pairing, expected):
    grades = {"2": 2, "4": 4.0, "二": 2.0, "3": 3}
    completions = [{"text": text, "rating": grade, "model": "m"} for text, grade in grades.items()]
    path = write_rows({"instruction": "q", "outputs": completions})
    keys = {"prompt_key": "instruction", "completions_key": "outputs", "completion_key": "text", "grade_key": "rating"}
    units = load(path, bytes_tokenizer, pairing=pairing, **keys)
    pairs = [tuple(learned(bytes_tokenizer, row).removesuffix("<|im_end|>") for row in unit) for unit in units]
    assert pairs == expected
    assert [(chosen.score, rejected.score) for chosen, rejected in units] == [
        (grades[better], grades[worse]) for better, worse in expected
    ]


def test_a_reward_model_reads_through_the_end_of_the_answer(write_rows, bytes_tokenizer):
    path = write_rows(FORMS["dialogues"])
    for row, answer in zip(load(path, bytes_tokenizer, RankingDataConfig)[0], ("您好", "no"), strict=True):
        assert text(bytes_tokenizer, row.token_ids) == f"{QUESTION}{answer}<|im_end|>"
        assert row.loss_mask.sum() == 1
        assert row.loss_mask[-1]
        assert dict(row.columns) == {}


@pytest.fixture(scope="module")
def pair_tokenizer():
    """As BERT's: no chat template, [CLS] prompt [SEP] answer [SEP], the answer of another type."""
    tokenizer = build_byte_level(None)
    ids = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    special = list(zip(["<|im_start|>", "<|im_end|>"], ids, strict=True))
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        pair="<|im_start|> $A <|im_end|> $B:1 <|im_end|>:1",
        special_tokens=special,
    )
    return tokenizer


def test_an_encoder_reads_prompt_and_answer_as_a_pair(write_rows, pair_tokenizer):
    start = HH.format("what is 12?", "十二")
    path = write_rows({"chosen": start + HH.format("再来", "好的"), "rejected": start + HH.format("再来", "不")})
    for row, answer in zip(load(path, pair_tokenizer, RankingDataConfig)[0], ("好的", "不"), strict=True):
        assert text(pair_tokenizer, row.token_ids) == f"<|im_start|>what is 12?\n十二\n再来<|im_end|>{answer}<|im_end|>"
        types = row.columns["token_types"]
        assert (types.dtype, types.shape) == (np.float32, row.token_ids.shape)
        assert text(pair_tokenizer, row.token_ids[types == 1]) == f"{answer}<|im_end|>"
        assert np.flatnonzero(row.loss_mask).tolist() == [row.num_tokens - 1]
    with pytest.raises(InputError, match=r"^models/bytes has no chat template"):
        load(path, pair_tokenizer, PreferenceDataConfig)


BAD = [
    ({"prompt": "q", "chosen": "a", "rejected": "a"}, "the fields 'chosen' and 'rejected' are the same: remove the"),
    ({"prompt": "q", "chosen": "a", "rejected": " "}, "the field 'rejected' is empty: fill it in, or remove the row"),
    ({"prompt": "q", "chosen": "a"}, "the row has no field 'rejected', its fields are 'prompt', 'chosen': set "
     "rejected_key to the field that holds it"),
    ({"chosen": "a", "rejected": "b"}, "the row has no field 'prompt', its fields are 'chosen', 'rejected': set pr"),
    ({"prompt": "q", "chosen": "<|im_end|>", "rejected": "b"},
     "the field 'chosen' has an answer that tokenises to nothing: correct or remove the row"),
    ({"prompt": "q", "chosen": "b", "rejected": "很" * 200}, "the row has "),
    ({"chosen": [user("q"), assistant("a")], "rejected": [user("r"), assistant("b")]},
     "the prompts of 'chosen' and 'rejected' differ, only their last turns may: correct or remove the row"),
    ({"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b"), user("r")]},
     "the field 'rejected' ends with a user's turn: end it with the assistant's, or remove the row"),
    ({"prompt": "q", "chosen": [assistant("a"), user("b")], "rejected": "b"},
     "the field 'chosen' has 2 messages after the prompt: give the last turn alone"),
    ({"chosen": [user("q"), user("r"), assistant("a")], "rejected": [user("q"), user("r"), assistant("b")]},
     "messages 1 and 2 of 'chosen' are two user turns in a row: join them, or remove the row"),
    ({"prompt": "q", "chosen": 1, "rejected": "b"}, "the field 'chosen' is a number, not text: write text, or"),
]  # fmt: skip
BAD_HH = [
    ({"chosen": "hello", "rejected": HH.format("q", "a")},
     "the field 'chosen' does not begin with 'Human:' or 'Assistant:': correct or remove the row"),
    ({"chosen": HH.format("q", "a"), "rejected": HH.format("q", "")}, "turn 2 of 'rejected' is empty: fill it in"),
    ({"chosen": HH.format("q", "a"), "rejected": HH.format("q", "a")}, "the fields 'chosen' and 'rejected' are the"),
    ({"chosen": HH.format("q", "a"), "rejected": HH.format("r", "b")}, "the prompts of 'chosen' and 'rejected' differ"),
    ({"chosen": "\n\nAssistant: a", "rejected": "\n\nAssistant: b"},
     "the dialogue starts with the assistant's turn: put a user message before it"),
]  # fmt: skip
POST, TWO = {"post": "p"}, [{"text": "a"}, {"text": "b"}]
BAD_COMPARISONS = [
    ({"info": {"post": " "}, "summaries": TWO, "choice": 0}, "the field 'info.post' is empty: fill it in, or remove"),
    ({"info": "p", "summaries": TWO, "choice": 0}, "the field 'info' is text, not an object: give 'info', 'summaries'"),
    ({"info": POST, "summaries": TWO[:1], "choice": 0}, "the field 'summaries' is a list, not a list of two: give"),
    ({"info": POST, "summaries": TWO, "choice": 2}, "the field 'choice' is 2, not 0 or 1: correct or remove the row"),
    ({"info": POST, "summaries": [{"text": "a"}, {}], "choice": 0}, "summary 2 has no text 'text': give it one, or"),
    ({"info": POST, "summaries": [{"text": "a"}] * 2, "choice": 0}, "the fields 'chosen' and 'rejected' are the same"),
]  # fmt: skip
GRADED = {"response": "a", "overall_score": 1}
BAD_GRADED = [
    ({"prompt": "q", "completions": [GRADED, {"response": "b", "overall_score": 1.0}]},
     "all completions have the grade 1.0: remove the row"),
    ({"prompt": "q", "completions": [GRADED]}, "the field 'completions' is a list, not a list of at least two"),
    ({"prompt": "q", "completions": [GRADED, {"response": "b"}]},
     "completion 2 has a 'overall_score' that is null, not a finite number: correct or remove the row"),
    *(({"prompt": "q", "completions": [{**GRADED, "overall_score": grade}, GRADED]}, f"completion 1 has a {sentence}")
      for grade, sentence in [
          (10**400, "'overall_score' that is a number of more than 300 digits, not a finite number: correct or remove"),
          (0, "'overall_score' of 0, and grades go from 1 to 10: correct or remove the row, or set grade_range"),
          (11.5, "'overall_score' of 11.5, and grades go from 1 to 10: correct or remove the row, or set grade_range"),
      ]),
    ({"prompt": "q", "completions": [GRADED, {"response": "", "overall_score": 2}]}, "completion 2 is empty: fill it"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "row", "sentence"),
    [
        (form, *case)
        for form, cases in [
            (PairFormat.pairs, BAD), (PairFormat.hh, BAD_HH), (PairFormat.comparisons, BAD_COMPARISONS),
            (PairFormat.graded, BAD_GRADED),
        ]
        for case in cases
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [PreferenceDataConfig, RankingDataConfig])
def test_a_bad_row_is_named(write_rows, bytes_tokenizer, kind, form, row, sentence):
    path = write_rows(row)
    with pytest.raises(InputError, match=re.escape(f"{path}:1: {sentence}")):
        load(path, bytes_tokenizer, kind, format=form)


def test_a_form_is_told_without_guessing_or_not_at_all(write_rows, bytes_tokenizer):
    sentence = (
        "the row's fields prompt, chosen, rejected, completions are those of pairs and graded: set format, and the"
    )
    with pytest.raises(InputError, match=f":1: {sentence}"):
        load(write_rows({**FORMS["texts"], **FORMS["graded"]}), bytes_tokenizer)
    with pytest.raises(InputError, match=":1: the row's fields text are of no known format: set format, and the keys"):
        load(write_rows({"text": "q"}), bytes_tokenizer)
