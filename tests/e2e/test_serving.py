"""The service as its clients meet it: a real gateway, a real engine, the stock OpenAI client."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from rlhf.ports import free_port
from serve.store.store import Store
from tests.conftest import ALPHABET

DEADLINE_S = 600
CONTEXT = 8192
CALLS = '\n<>/_{}"ADN'
"""What JSON and tool calls need beside the alphabet."""
NO_END = {"1": -100.0}
"""A bias that keeps answers going: token 1 ends them."""


@dataclass(frozen=True)
class Service:
    """Where it is, and how it is asked."""

    url: str
    folder: Path

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=DEADLINE_S)

    @property
    def store(self) -> Store:
        return Store(f"sqlite:///{self.folder / 'store.sqlite'}")

    def operate(self, method: str, path: str, **body: str) -> httpx.Response:
        key = (self.folder / "operator.key").read_text()
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, self.url + path, headers=headers, json=body or None, timeout=DEADLINE_S)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with a long context, an adapter of it, the two merged, and another model."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from rlhf.models.tiny import build_tiny_model

    root = tmp_path_factory.mktemp("served")
    for seed, name in enumerate(("base", "other")):
        build_tiny_model(root / name, alphabet=ALPHABET + CALLS, hidden_size=64, context_tokens=CONTEXT, seed=seed)
    torch.manual_seed(7)
    settings = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(root / "base"), settings)
    adapted.save_pretrained(root / "adapter")
    adapted.merge_and_unload().save_pretrained(root / "merged")
    return {name: root / name for name in ("base", "other", "adapter", "merged")}


@pytest.fixture(scope="module")
def service(cluster: None, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One engine; a candidate stays in shadow, as there are never enough requests."""
    from rlhf.config import compose
    from serve.config import ServeConfig
    from serve.local import serving

    folder = tmp_path_factory.mktemp("service")
    overrides = [
        f"+models.base={folders['base']}", f"+models.adapter={folders['adapter']}", "production=base",
        f"output={folder}", f"http.port={free_port()}", "engine.precision=fp32", f"engine.context_tokens={CONTEXT}",
        "engine.kv_cache_bytes=67108864", "engine.max_num_seqs=4", "engine.max_adapters=2",
        "engine.tool_call_parser=hermes",
        f"limits.max_tokens={CONTEXT - 64}", "release.interval_s=0.5", "store.consent_by_default=true",
    ]  # fmt: skip
    conf = Path(__file__).parents[2] / "conf"
    with serving(compose(conf, "serve", overrides, ServeConfig)) as url:
        yield Service(url, folder)


def wait_for(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + DEADLINE_S
    while not (found := condition()):
        assert time.monotonic() < end, condition
        time.sleep(0.1)
    return found


def asked(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "assistant", "messages": [{"role": "user", "content": text}], "max_tokens": 12, **more}


def test_the_stock_client_lists_and_chats(service: Service) -> None:
    assert {model.id for model in service.client.models.list()} >= {"assistant", "base", "adapter"}
    answer = service.client.chat.completions.create(
        **asked("7+5=", logprobs=True, top_logprobs=2, temperature=0, logit_bias=NO_END)
    )
    assert answer.model == "assistant"
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    tokens = choice.logprobs.content
    assert "".join(token.token for token in tokens) == choice.message.content
    assert len(tokens) == 12
    assert all(token.logprob == max(top.logprob for top in token.top_logprobs) <= 0 for token in tokens)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (4, 12, 16)


def test_completions(service: Service) -> None:
    answer = service.client.completions.create(
        model="base", prompt="7+5=", max_tokens=5, n=3, logprobs=1, logit_bias=NO_END, seed=3
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert all(len(choice.logprobs.tokens) == 5 for choice in answer.choices)
    assert answer.usage.completion_tokens == 15


def function(name: str) -> dict[str, Any]:
    form = {
        "type": "object",
        "properties": {"a": {"enum": ["x", "y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": form, "strict": True}}


TOOLS = [function("add"), function("sub")]


@pytest.mark.parametrize(
    ("choice", "reason"), [("required", "tool_calls"), ({"type": "function", "function": {"name": "sub"}}, "stop")]
)
def test_tools_are_called_whole_and_streamed_and_calls_are_recorded(service: Service, choice: Any, reason: str) -> None:
    """Its grammar makes even an untrained model call them; the other turn sends the calls back with their results."""
    chat = service.client.chat.completions
    body = asked("7+5=", tools=TOOLS, tool_choice=choice, max_tokens=500, temperature=0, parallel_tool_calls=False)
    whole = chat.create(**body)
    with chat.stream(**body) as stream:
        streamed = stream.get_final_completion()
    for answer in (whole, streamed):
        (said,) = answer.choices
        (call,) = said.message.tool_calls
        assert said.finish_reason == reason
        assert call.function.name in (["sub"] if reason == "stop" else ["add", "sub"])
        assert json.loads(call.function.arguments) in ({"a": "x"}, {"a": "y"})
        request, _ = service.store.requests.dialogue(answer.id)
        (response,) = request.responses
        assert [called["function"]["name"] for called in response.tool_calls] == [call.function.name]
        assert json.loads(response.tool_calls[0]["function"]["arguments"]) == json.loads(call.function.arguments)
    call = whole.choices[0].message.tool_calls[0]
    turns = [*body["messages"], whole.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "12"}]
    assert chat.create(**asked("", tools=TOOLS) | {"messages": turns}).choices


def test_tools_by_choice_or_not_at_all_leave_an_untrained_model_its_text(service: Service) -> None:
    for choice in ("auto", "none"):
        answer = service.client.chat.completions.create(**asked("7+5=", tools=TOOLS, tool_choice=choice))
        assert not answer.choices[0].message.tool_calls
    unknown = {"type": "function", "function": {"name": "divide"}}
    with pytest.raises(openai.BadRequestError, match="does not match any of the specified `tools`"):
        service.client.chat.completions.create(**asked("7+5=", tools=TOOLS, tool_choice=unknown))


def test_answers_are_as_the_published_document_says(service: Service) -> None:
    document = httpx.get(f"{service.url}/openapi.json").json()
    prompts = {"model": "assistant", "prompt": [[5, 6], [7]], "logprobs": 1, "max_tokens": 1}
    answers = {
        "ChatCompletion": ("chat/completions", asked("7+5=", logprobs=True, top_logprobs=2)),
        "Completion": ("completions", prompts),
    }
    for name, (path, body) in answers.items():
        answer = httpx.post(f"{service.url}/v1/{path}", json=body, timeout=DEADLINE_S).json()
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        jsonschema.validate(answer, schema)
    refused = httpx.post(f"{service.url}/v1/completions", json={**prompts, "echo": True}, timeout=DEADLINE_S)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "logprobs")


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1, "seed": 11}], ids=str)
def test_a_stream_has_the_text_of_the_whole_answer_token_by_token(service: Service, sampling: dict[str, Any]) -> None:
    body = asked("3*4=", logit_bias=NO_END, **{**sampling, "max_tokens": 64})
    whole = service.client.chat.completions.create(**body)
    pieces, ends = [], []
    with service.client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            assert chunk.model == "assistant"
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            ends += [choice.finish_reason for choice in chunk.choices if choice.finish_reason]
            usage = chunk.usage
    assert "".join(pieces) == whole.choices[0].message.content
    # A busy machine hands on several tokens at once.
    assert len(pieces) > 4, "tokens arrive as they are made"
    assert ends == ["length"]
    assert usage == whole.usage


def test_chunks_arrive_one_by_one(service: Service) -> None:
    """Each in a read of its own: no proxy in between gathers them."""
    reads, lines = 0, []
    body = asked("3*4=", stream=True, temperature=0, logit_bias=NO_END, max_tokens=64)
    with httpx.stream("POST", f"{service.url}/v1/chat/completions", json=body, timeout=DEADLINE_S) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for part in answer.iter_raw():
            reads += 1
            lines += part.decode().splitlines()
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    ids = {json.loads(event)["id"] for event in events[:-1]}
    assert len(ids) == 1
    assert reads > 4


BAD = [
    ({"model": "nobody"}, 404, "there is no 'nobody'"),
    ({"messages": []}, 400, "messages"),
    ({"n": 5}, 400, "n: 5"),
    ({"n": 0}, 400, "n:"),
    ({"max_tokens": 1 << 40}, 400, "max_tokens"),
    ({"messages": [{"role": "user", "content": "1" * 2 * CONTEXT}]}, 400, str(CONTEXT)),
    ({"logit_bias": {"100000": 1.0}}, 400, "logit_bias"),
    ({"logit_bias": {"one": 1.0}}, 400, "logit_bias"),
    ({"temperature": 3}, 400, "temperature"),
    ({"stop": ["a"] * 1000}, 400, "stop"),
    ({"top_logprobs": 3}, 400, "logprobs"),
    ({"tools": []}, 400, "tools"),
]


@pytest.mark.parametrize(("change", "status", "words"), BAD, ids=[next(iter(case[0])) for case in BAD])
def test_a_bad_request_gets_one_sentence_and_the_engine_lives(
    service: Service, change: Mapping[str, Any], status: int, words: str
) -> None:
    url = f"{service.url}/v1/chat/completions"
    answer = httpx.post(url, json={**asked("1+1="), **change}, timeout=DEADLINE_S)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert error["code"] == status
    assert httpx.post(url, json=asked("1+1="), timeout=DEADLINE_S).status_code == 200


JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"temperature": NaN}', b"[" * 2000, b"[]"], ids=range(6))
def test_a_body_that_is_no_request(service: Service, body: bytes) -> None:
    for path in ("chat/completions", "completions"):
        answer = httpx.post(f"{service.url}/v1/{path}", content=body, headers=JSON, timeout=DEADLINE_S)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["message"]


def test_clients_that_go_away_free_their_slots(service: Service) -> None:
    """Answers that would take minutes hold every slot of the engine; once nobody waits for them it takes others."""
    url = f"{service.url}/v1/chat/completions"
    long = asked("1+1=", max_tokens=CONTEXT - 64, logit_bias=NO_END, user="gone")
    with httpx.Client(timeout=DEADLINE_S) as client:
        for _ in range(2):
            answer = client.send(client.build_request("POST", url, json={**long, "stream": True}), stream=True)
            next(answer.iter_raw())
        for _ in range(2):
            with pytest.raises(httpx.ReadTimeout):
                client.post(url, json=long, timeout=httpx.Timeout(DEADLINE_S, read=1))
    answer = httpx.post(url, json=asked("2+2=", logit_bias=NO_END), timeout=DEADLINE_S)
    assert answer.json()["usage"]["completion_tokens"] == 12

    def kept() -> list[Any]:
        return [request for request, _ in service.store.requests.dialogues() if request.user == "gone"]

    requests = wait_for(lambda: len(kept()) == 4 and kept())
    assert {(request.status, request.error) for request in requests} == {(499, "the client went away")}


def test_an_adapter_answers_by_its_name_as_the_merged_model_would(service: Service, folders: dict[str, Path]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folders["base"])
    texts = {}
    for name, folder in (("base", folders["base"]), ("adapter", folders["merged"])):
        answer = service.client.completions.create(
            model=name, prompt="12+7=", max_tokens=16, temperature=0, logit_bias=NO_END, logprobs=1
        )
        (choice,) = answer.choices
        texts[name] = choice.text
        ids = tokenizer("12+7=" + choice.text, return_tensors="pt").input_ids
        with torch.no_grad():
            logits = AutoModelForCausalLM.from_pretrained(folder)(ids).logits[0, 4:-1]
        expected = logits.log_softmax(-1).gather(1, ids[0, 5:, None])[:, 0]
        assert choice.logprobs.token_logprobs == pytest.approx(expected.tolist(), abs=1e-3)
    assert texts["base"] != texts["adapter"]


def test_feedback_on_an_answer(service: Service) -> None:
    answer = service.client.chat.completions.create(**asked("1+3=", user="ann"))
    said = {"request_id": answer.id, "user": "ann"}
    url = f"{service.url}/v1/feedback"
    assert httpx.post(url, json={**said, "kind": "thumb", "value": 1}).status_code == 201
    assert httpx.post(url, json={**said, "kind": "edit", "text": "4"}).status_code == 201
    assert httpx.post(url, json={**said, "user": "bob", "kind": "thumb", "value": 1}).status_code == 404
    request, feedback = service.store.requests.dialogue(answer.id)
    assert request.responses[0].text == answer.choices[0].message.content
    assert sorted((event.kind, event.value, event.text) for event in feedback) == [
        ("edit", None, "4"), ("thumb", 1.0, None),
    ]  # fmt: skip


def test_loopback_needs_no_key_but_for_operators(service: Service) -> None:
    assert httpx.get(f"{service.url}/v1/models").status_code == 200
    assert httpx.get(f"{service.url}/release").status_code == 403
    assert service.operate("GET", "/release").json()["production"] == "base"


def spoil(name: str, model: Path, folder: Path) -> None:
    """Make a candidate of it that cannot be served."""
    import shutil

    from rlhf.train.artifact import MANIFEST, describe

    shutil.copytree(model, folder)
    if name == "changed":
        files = {path.name: describe(path) for path in folder.iterdir()}
        (folder / MANIFEST).write_text(json.dumps({"files": files}))
        (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    elif name == "no weights":
        (folder / "model.safetensors").unlink()
    else:
        (folder / "adapter_model.safetensors").write_bytes(b"nothing")


@pytest.mark.parametrize(
    ("name", "model"), [("changed", "other"), ("no weights", "other"), ("broken adapter", "adapter")]
)
def test_a_candidate_that_cannot_be_served_is_refused(
    service: Service, folders: dict[str, Path], tmp_path: Path, name: str, model: str
) -> None:
    spoil(name, folders[model], tmp_path / "candidate")
    before = service.operate("GET", "/release").json()["release"]
    word = name.replace(" ", "-")
    answer = service.operate("POST", "/release/start", name=word, folder=str(tmp_path / "candidate"))
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    assert str(tmp_path / "candidate") in message
    assert service.operate("GET", "/release").json()["release"] == before
    assert word not in {model.id for model in service.client.models.list()}
    assert service.client.chat.completions.create(**asked("1+1=")).choices


def test_a_candidate_is_served_beside_production_and_shadowed(service: Service, folders: dict[str, Path]) -> None:
    """Then it is withdrawn for another one, and what it is answering it answers to the end."""
    started = service.operate("POST", "/release/start", name="new", folder=str(folders["other"]))
    assert started.status_code == 200, started.text
    assert started.json()["release"]["state"] == "shadow"
    wait_for(lambda: "new" in {model["id"] for model in service.operate("GET", "/v1/models").json()["data"]})
    assert "new" not in {model.id for model in service.client.models.list()}, "users see no shadow"
    answer = service.client.chat.completions.create(**asked("5+5=", user="eve"))
    shadow, _ = wait_for(lambda: service.store.requests.dialogue(f"shadow-{answer.id}"))
    assert (shadow.variant, shadow.status, shadow.shadow_of) == ("new", 200, answer.id)
    assert service.store.requests.dialogue(answer.id)[0].variant == "base"

    assert service.operate("POST", "/release/rollback", reason="enough").status_code == 200
    wait_for(lambda: "new" in {model.id for model in service.client.models.list()})
    long = asked("1+1=", model="new", max_tokens=1500, logit_bias=NO_END)
    with service.client.chat.completions.create(**long, stream=True, stream_options={"include_usage": True}) as stream:
        next(stream)
        again = service.operate("POST", "/release/start", name="lighter", folder=str(folders["adapter"]))
        assert again.status_code == 200, again.text
        wait_for(lambda: "new" not in {model.id for model in service.client.models.list()})
        pieces = list(stream)
    assert pieces[-2].choices[0].finish_reason == "length"
    assert pieces[-1].usage.completion_tokens == 1500
    assert service.operate("POST", "/release/rollback", reason="enough").status_code == 200
