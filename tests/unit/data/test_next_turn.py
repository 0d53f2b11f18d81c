"""Messages after a turn of the model's: appended to its own tokens, they are the dialogue the template renders."""

import copy

import pytest

from rlhf.data.next_turn import dialogue_ids, next_turn_ids
from rlhf.types import InputError

ASKED = [{"role": "system", "content": "Let me think."}, {"role": "user", "content": "what is 12 + 30?"}]
ANSWER = "the answer is 7"
HINT = [{"role": "user", "content": "think about the question: 今天"}]
TOOL = [{"role": "tool", "content": "42"}, {"role": "user", "content": "what is 12 + 30?"}]

# As GLM-4: a turn ends where the next one opens, an assistant's with a tool call by <|observation|>.
OPENERS = (
    "{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# As Phi-3: the end of sequence stands after the very last turn alone.
ENDS_ONCE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% else %}<|endoftext|>{% endif %}"
)
# No token ends a turn: the model's own end of sequence does, which the template does not write.
OPEN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)
# As Qwen3 with thinking off: the generation prompt has a block that dialogues lack.
THINKS_NOT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)


def ids_of(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture
def openers(byte_level):
    tokenizer = byte_level(OPENERS)
    names = ["<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": names})
    return tokenizer


@pytest.mark.parametrize("messages", [HINT, TOOL])
@pytest.mark.parametrize("name", ["bytes", "trimming", "chars", "thinking", "ends_once", "openers"])
def test_the_row_is_the_dialogue_that_the_template_renders(request, byte_level, name, messages):
    if name == "ends_once":
        tokenizer, end = byte_level(ENDS_ONCE), "<|im_end|>"
    elif name == "openers":
        tokenizer = request.getfixturevalue(name)
        end = "<|observation|>" if messages is TOOL else "<|user|>"
    else:
        tokenizer, end = request.getfixturevalue(f"{name}_tokenizer"), "<|im_end|>"
    said = {"role": "assistant", "content": ANSWER}
    whole = dialogue_ids(tokenizer, [*ASKED, said, *messages])
    cut = [*dialogue_ids(tokenizer, ASKED), *ids_of(tokenizer, ANSWER)]
    assert (*cut, *next_turn_ids(tokenizer, messages, closed=False)) == whole
    closed = [*cut, tokenizer.convert_tokens_to_ids(end)]
    assert (*closed, *next_turn_ids(tokenizer, messages, closed=True)) == whole


def test_where_the_template_ends_no_turn_the_end_of_sequence_stays(byte_level):
    tokenizer = byte_level(OPEN)
    following = next_turn_ids(tokenizer, HINT, closed=True)
    assert tokenizer.decode(following) == f"\n<|im_start|>user: {HINT[0]['content']}\n<|im_start|>assistant:"
    assert next_turn_ids(tokenizer, HINT, closed=False) == (tokenizer.eos_token_id, *following)


def test_a_generation_prompt_with_more_than_dialogues_have_opens_the_next_turn(byte_level):
    following = next_turn_ids(tokenizer := byte_level(THINKS_NOT), HINT, closed=True)
    assert tokenizer.decode(following) == (
        f"\n<|im_start|>user\n{HINT[0]['content']}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_earlier_thinking_is_dropped_from_a_dialogue_that_is_encoded_anew(thinking_tokenizer):
    said = {"role": "assistant", "content": ANSWER}
    assert "<think>" not in thinking_tokenizer.decode(dialogue_ids(thinking_tokenizer, [*ASKED, said, *HINT]))


def test_a_character_without_a_token_is_refused(chars_tokenizer):
    tokenizer = copy.deepcopy(chars_tokenizer)
    tokenizer.unk_token = "<unk>"
    for encode in (dialogue_ids, lambda *given: next_turn_ids(*given, closed=True)):
        with pytest.raises(InputError, match="has no token for a character"):
            encode(tokenizer, [{"role": "user", "content": "ж"}])
