import pytest

from rlhf.data.chat import render
from rlhf.models.chat_template import load_chat_tokenizer
from rlhf.models.tokenizer import load_tokenizer
from rlhf.types import InputError

ASKED = [{"role": "user", "content": "1+1="}]
SWITCHED = (
    "\n{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "own.jinja"
    file.write_text(SWITCHED, encoding="utf-8")
    return file


def test_a_file_takes_the_place_of_the_models_template(models, file, tmp_path):
    tokenizer = load_chat_tokenizer(str(models["tied"]), str(file), {})
    assert render(tokenizer, ASKED, add_generation_prompt=True) == "\n<user>1+1=<assistant>"
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = load_tokenizer(str(tmp_path / "saved"))
    assert render(saved, ASKED, add_generation_prompt=True) == "\n<user>1+1=<assistant>"


def test_switches_reach_every_rendering_and_are_saved(models, file, tmp_path):
    tokenizer = load_chat_tokenizer(str(models["tied"]), str(file), {"enable_thinking": False})
    assert render(tokenizer, ASKED, add_generation_prompt=True) == "\n<user>1+1=<assistant><think></think>"
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = load_tokenizer(str(tmp_path / "saved"))
    rendered = saved.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False)
    assert rendered == "\n<user>1+1=<assistant><think></think>"
    asked = saved.apply_chat_template(ASKED, add_generation_prompt=True, tokenize=False, enable_thinking=True)
    assert asked == "\n<user>1+1=<assistant>", "a request may say otherwise"
    again = load_chat_tokenizer(str(tmp_path / "saved"), None, {"enable_thinking": False})
    assert again.chat_template == saved.chat_template
    turned = load_chat_tokenizer(str(tmp_path / "saved"), None, {"enable_thinking": True})
    assert render(turned, ASKED, add_generation_prompt=True) == "\n<user>1+1=<assistant>"


@pytest.mark.parametrize("value", [True, None, 3, 1e-5, 'it\'s "é" 🙂 %}\n', ["a", 1], {"a": {"b": False}}])
def test_any_value_is_the_one_that_is_read(models, tmp_path, value):
    file = tmp_path / "own.jinja"
    file.write_text("{% for m in messages %}{{ m.content }}{% endfor %}{{ value | tojson }}", encoding="utf-8")
    tokenizer = load_chat_tokenizer(str(models["tied"]), str(file), {"value": value})
    expected = tokenizer.apply_chat_template(ASKED, tokenize=False, value=value)
    assert render(tokenizer, ASKED, add_generation_prompt=False) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{% for m in messages %}", r"it is no chat template \(.*\); give a jinja file that writes `messages`"),
        ("# Read me\nThis is text.", "it omits the user's message, so it is no chat template; give a jinja file"),
        ("", "it omits the user's message"),
        (b"\xff\xfe\x00", "it is not UTF-8 text"),
        (None, r"it cannot be read \(No such file or directory\); give a jinja file"),
    ],
)
def test_files_that_are_no_template(models, tmp_path, text, sentence):
    file = tmp_path / "own.jinja"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"^chat_template={file}: {sentence}"):
        load_chat_tokenizer(str(models["tied"]), str(file), {})


def test_switches_that_nothing_reads(models, file):
    sentence = r"^chat_template_kwargs.enable_thinkng: the chat template of .* does not read it; correct the name"
    with pytest.raises(InputError, match=sentence):
        load_chat_tokenizer(str(models["tied"]), str(file), {"enable_thinkng": False})
    with pytest.raises(InputError, match=r"^chat_template_kwargs.messages: it is no switch of a template"):
        load_chat_tokenizer(str(models["tied"]), str(file), {"messages": []})
