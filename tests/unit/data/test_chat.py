import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.data.chat import loss_mask, render, through_last_turn, tokenize_texts, turn_end_id
from rlhf.data.turns import special_ids
from rlhf.types import InputError
from tests.oracles.chat import tokenize_prompt
from tests.unit.data.conftest import CHATML

USER = {"role": "user", "content": "你好 🙂, what is 12 + 30?"}
DIALOGUE = [
    {"role": "system", "content": "Be brief."},
    USER,
    {"role": "assistant", "content": "答案是 42 😀。"},
    {"role": "user", "content": "谢谢"},
    {"role": "assistant", "content": "  You are welcome! "},
]
TOKENIZERS = ["bytes_tokenizer", "trimming_tokenizer", "chars_tokenizer"]


def learned(tokenizer, messages, *, last_turn_only=False) -> str:
    token_ids, mask = loss_mask(tokenizer, messages, last_turn_only=last_turn_only)
    assert token_ids.dtype == np.int32
    assert mask.dtype == bool
    assert token_ids.shape == mask.shape
    return tokenizer.decode(token_ids[mask], clean_up_tokenization_spaces=False)


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return request.getfixturevalue(request.param)


def test_render_and_tokenize_prompt(tokenizer):
    text = render(tokenizer, [USER], add_generation_prompt=True)
    assert text == f"<|im_start|>user\n{USER['content']}<|im_end|>\n<|im_start|>assistant\n"
    token_ids = tokenize_prompt(tokenizer, [USER])
    assert isinstance(token_ids, tuple)
    assert token_ids == tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_texts_in_batches_are_texts_one_by_one(bytes_tokenizer):
    texts = [f"text {i} 你好" for i in range(1500)]
    assert tokenize_texts(bytes_tokenizer, texts) == [tokenize_texts(bytes_tokenizer, [text])[0] for text in texts]


def test_special_ids_count_unnamed_special_tokens(bytes_tokenizer):
    assert bytes_tokenizer.all_special_tokens == ["<|im_end|>"]
    assert bytes_tokenizer.convert_ids_to_tokens(sorted(special_ids(bytes_tokenizer))) == [
        "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    ]  # fmt: skip


def test_loss_is_on_the_assistants_text_and_its_end(bytes_tokenizer, trimming_tokenizer):
    for tokenizer in (bytes_tokenizer, trimming_tokenizer):
        assert learned(tokenizer, DIALOGUE) == "答案是 42 😀。<|im_end|>  You are welcome! <|im_end|>"
        assert learned(tokenizer, DIALOGUE, last_turn_only=True) == "  You are welcome! <|im_end|>"


def test_the_dialogue_is_tokenised_as_a_whole(tokenizer):
    token_ids, mask = loss_mask(tokenizer, DIALOGUE, last_turn_only=False)
    text = render(tokenizer, DIALOGUE, add_generation_prompt=False)
    assert tuple(token_ids) == tokenize_texts(tokenizer, [text])[0]
    assert not mask[0]
    assert not mask[-1], "the newline after the last end of turn"


def test_before_the_loss_stands_the_prompt(tokenizer):
    token_ids, mask = loss_mask(tokenizer, DIALOGUE, last_turn_only=True)
    assert tuple(token_ids[: mask.argmax()]) == tokenize_prompt(tokenizer, DIALOGUE[:-1])


CONTENT = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<"), min_size=1).filter(
    lambda text: not text[0].isspace()  # a leading blank may share a token with the template's newline
)


@given(contents=st.lists(CONTENT, min_size=2, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_text_is_learned_exactly(bytes_tokenizer, trimming_tokenizer, contents):
    roles = ["user", "assistant"] * 2
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    expected = "".join(f"{text}<|im_end|>" for text in contents[1::2])
    assert learned(bytes_tokenizer, messages) == expected
    assert learned(trimming_tokenizer, messages) == expected


def test_an_answer_begins_after_the_tokens_of_its_prompt(byte_level):
    tokenizer = byte_level("{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
                           "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    messages = [{"role": "user", "content": "so"}, {"role": "assistant", "content": "the answer"}]
    whole = tokenize_texts(tokenizer, [render(tokenizer, messages, add_generation_prompt=False)])[0]
    asked = tokenize_prompt(tokenizer, messages[:-1])
    assert whole[: len(asked)] != asked, "the blank before the answer is a part of its first word's token"
    for each in (tokenizer, byte_level(tokenizer.chat_template, trim_offsets=True)):
        token_ids, mask = loss_mask(each, messages, last_turn_only=False)
        assert learned(each, messages) == "the answer<|im_end|>"
        assert tuple(token_ids[: mask.argmax()]) == asked, "a rollout has these tokens"


def test_an_open_last_turn_is_closed_with_the_end_of_sequence(byte_level):
    tokenizer = byte_level("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}"
                           "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")  # fmt: skip
    assert learned(tokenizer, DIALOGUE) == "答案是 42 😀。  You are welcome! <|im_end|>"
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"models/bytes leaves the assistant's turn open .*: set eos_token in"):
        loss_mask(tokenizer, DIALOGUE, last_turn_only=False)


def test_the_first_closing_token_ends_the_turn(bytes_tokenizer, byte_level):
    tokenizer = byte_level(
        bytes_tokenizer.chat_template + "{% if not add_generation_prompt %}<|endoftext|>{% endif %}"
    )  # as Phi-3
    assert learned(tokenizer, DIALOGUE, last_turn_only=True) == "  You are welcome! <|im_end|>"


def test_a_template_that_drops_thinking(thinking_tokenizer):
    assert learned(thinking_tokenizer, DIALOGUE, last_turn_only=True) == (
        "<think>\n\n</think>\n\n  You are welcome! <|im_end|>"
    )
    sentence = (
        r"^the chat template of models/bytes renders message 3, an assistant's, differently once later messages follow "
        r"\(Qwen3 drops earlier thinking\): set last_turn_only=true and end the dialogue with its last assistant "
        r"message, or split it into one row per assistant message$"
    )
    with pytest.raises(InputError, match=sentence):
        loss_mask(thinking_tokenizer, DIALOGUE, last_turn_only=False)
    with pytest.raises(InputError, match="renders message 3, an assistant's, differently once later messages follow"):
        loss_mask(thinking_tokenizer, DIALOGUE[:4], last_turn_only=True)


def test_a_generation_prompt_that_the_turn_does_not_begin_with(bytes_tokenizer, byte_level):
    tokenizer = byte_level(
        bytes_tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    )
    sentence = (
        r"renders message 3, an assistant's, differently from how its generation prompt begins it \('<think>\\n'\)"
    )
    with pytest.raises(InputError, match=sentence):
        loss_mask(tokenizer, DIALOGUE, last_turn_only=False)
    assert turn_end_id(tokenizer) == tokenizer.eos_token_id, "reinforcement learning needs no more than this"


# As R1-Distill: thinking is taken out of every turn, but the generation prompt opens it.
OPENS_THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def test_an_answer_that_goes_on_where_the_generation_prompt_ends(byte_level):
    tokenizer = byte_level(OPENS_THINKING)
    messages = [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n42"}]
    token_ids, mask = loss_mask(tokenizer, messages, last_turn_only=True)
    assert learned(tokenizer, messages) == "hm\n</think>\n\n42<|im_end|>"
    assert tuple(token_ids[: mask.argmax()]) == tokenize_prompt(tokenizer, [USER])
    assert through_last_turn(tokenizer, messages)[0].ids.tolist() == token_ids.tolist()
    with pytest.raises(InputError, match=r"renders message 2, .* \('<think>\\n'\): begin the last message with that"):
        loss_mask(tokenizer, [USER, {"role": "assistant", "content": "42"}], last_turn_only=True)


def test_thinking_that_the_template_leaves_out(byte_level):
    tokenizer = byte_level(OPENS_THINKING.replace("<think>\n{% endif %}", "{% endif %}"))
    messages = [USER, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n42"}]
    with pytest.raises(
        InputError, match=r"^message 2 has thinking, which the chat template of models/bytes leaves out"
    ):
        loss_mask(tokenizer, messages, last_turn_only=True)


def test_the_end_of_sequence_after_a_whole_dialogue_is_no_other_rendering(byte_level):
    tokenizer = byte_level(
        CHATML.replace("{% if add_gen", "{% if not add_generation_prompt %}<|endoftext|>{% endif %}{% if add_gen")
    )  # fmt: skip  as Phi-3
    assert learned(tokenizer, DIALOGUE) == "答案是 42 😀。<|im_end|>  You are welcome! <|im_end|>"


def with_special(byte_level, template, *tokens):
    tokenizer = byte_level(template)
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.chat_template = template
    return tokenizer


def test_a_turn_that_the_next_role_ends(byte_level):
    tokenizer = with_special(
        byte_level,
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|system|>",
        "<|user|>",
        "<|assistant|>",
        "<|tool|>",
    )  # fmt: skip  as GLM-4.5
    assert learned(tokenizer, DIALOGUE) == "答案是 42 😀。<|user|>  You are welcome! <|user|>"
    assert tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer)) == "<|user|>"
    assert through_last_turn(tokenizer, DIALOGUE)[0].ids[-1] == turn_end_id(tokenizer)
    call = {"role": "assistant", "content": "f()", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert learned(tokenizer, [USER, call]) == "f()<|tool|>"


def test_tags_that_are_special_tokens_end_no_turn(byte_level):
    tokenizer = with_special(byte_level, CHATML, "<tool_call>", "</tool_call>", "<think>", "</think>")
    answer = "<think>hm</think><tool_call>f()</tool_call>"
    assert learned(tokenizer, [USER, {"role": "assistant", "content": answer}]) == f"{answer}<|im_end|>"


def test_refusals(bytes_tokenizer, byte_level):
    with pytest.raises(InputError, match=r"^models/bytes has no chat template: set chat_template to a jinja file, add"):
        render(byte_level(None), [USER], add_generation_prompt=True)
    with pytest.raises(InputError, match=r"refuses a dialogue of the roles \(none\) \(.*\): change the messages, or"):
        render(bytes_tokenizer, [], add_generation_prompt=True)
    strict = byte_level("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match=r"refuses a dialogue of the roles user, user \(roles must alternate\)"):
        render(strict, [USER, USER], add_generation_prompt=True)
    with pytest.raises(InputError, match=r"^the dialogue starts with the assistant's turn: put a user message before"):
        loss_mask(bytes_tokenizer, DIALOGUE[2:], last_turn_only=False)


def test_a_tokenizer_that_cannot_map_tokens_to_text(bytes_tokenizer):
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer(chat_template=bytes_tokenizer.chat_template)
    with pytest.raises(InputError, match=r"has no fast tokenizer, which maps tokens to text: add tokenizer.json"):
        loss_mask(tokenizer, DIALOGUE, last_turn_only=False)


def test_a_dialogue_without_the_assistant_has_no_loss(bytes_tokenizer):
    assert not loss_mask(bytes_tokenizer, [USER], last_turn_only=False)[1].any()
