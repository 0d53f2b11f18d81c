"""A conversation with a model on the terminal."""

from __future__ import annotations

from rlhf.hub import download, parse
from rlhf.models.causal_lm import read_model_config
from rlhf.models.tokenizer import load_tokenizer

MAX_NEW_TOKENS = 512


def run(model_path: str) -> None:
    """Answer each line of standard input, until an empty line."""
    source = parse("model", model_path, "model")
    if source is not None:
        model_path = str(download(source)[0])
    read_model_config(model_path)
    tokenizer = load_tokenizer(model_path)
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype="auto")
    messages: list[dict[str, str]] = []
    while line := read_line():
        messages.append({"role": "user", "content": line})
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        output = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS)
        answer = tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        messages.append({"role": "assistant", "content": answer})
        print(answer, flush=True)  # noqa: T201  the answer is the output


def read_line() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
