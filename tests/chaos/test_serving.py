"""A service under load whose processes are killed: clients get whole answers, clean errors, or a polite refusal."""

import ipaddress
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest
from ray.serve.generated import serve_pb2, serve_pb2_grpc

from rlhf.ports import free_port
from serve.store.store import Store
from tests.chaos.conftest import Run

RECOVERY_S = 600
CLIENTS, ONGOING = 6, 12


@dataclass(frozen=True)
class Service:
    """A service of two engines in a process of its own."""

    run: Run
    url: str
    folder: Path
    client: httpx.Client

    def ask(self, **more: Any) -> httpx.Response:
        body = {"model": "assistant", "messages": [{"role": "user", "content": "7+5="}], "max_tokens": 24,
                "logit_bias": {"1": -100}, **more}  # fmt: skip
        return self.client.post("/v1/chat/completions", json=body)

    def operate(self, method: str, path: str, **body: str) -> dict[str, Any]:
        key = (self.folder / "operator.key").read_text()
        headers = {"authorization": f"Bearer {key}"}
        answer = self.client.request(method, path, headers=headers, json=body or None)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    def variant(self, user: str) -> tuple[str, str]:
        """Who answers a user, and the answer's id."""
        id = self.ask(user=user, max_tokens=1).json()["id"]
        store = Store(f"sqlite:///{self.folder / 'store.sqlite'}")
        try:
            found = store.requests.dialogue(id)
        finally:
            store.close()
        assert found is not None
        return found[0].variant, id

    def replicas(self, deployment: str) -> set[int]:
        """Processes of a deployment's replicas that have started."""
        names = self.run.descendants()
        return {
            pid
            for pid, name in names.items()
            if name.startswith("ray::ServeReplica") and f":{deployment}" in name and "initialize" not in name
        }

    def process(self, name: str) -> int | None:
        """The one with this name; None while there is none."""
        return next((pid for pid, title in self.run.descendants().items() if title.startswith(name)), None)

    def wait_for_two_engines(self, killed: int = 0) -> None:
        """Until two replicas compute: on a busy machine one may answer long before the other has its engine."""
        wait_until(lambda: sum(len(engine_cores(pid)) for pid in self.replicas("engine") - {killed}) == 2)


def wait_until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + RECOVERY_S
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def engine_cores(replica: int) -> list[psutil.Process]:
    """The process in which a replica's engine computes; none where the replica is gone.

    By its command: vLLM names it VLLM::EngineCore, but where the environment is small that name cannot be set.
    """
    try:
        children = psutil.Process(replica).children()
        return [child for child in children if "resource_tracker" not in " ".join(child.cmdline())]
    except psutil.NoSuchProcess:
        return []


@pytest.fixture(scope="module")
def adapter(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    import peft
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    settings = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(AutoModelForCausalLM.from_pretrained(models["tied"]), settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def service(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    port = free_port()
    overrides = [
        f"+models.base={models['tied']}", "production=base", f"output={folder}", f"http.port={port}",
        "replicas.min=2", "replicas.max=2", f"limits.ongoing_requests={ONGOING}", "limits.max_tokens=200",
        "engine.precision=fp32", "engine.context_tokens=256", "engine.kv_cache_bytes=33554432",
        "engine.max_num_seqs=8", "engine.max_adapters=1", "release.interval_s=0.5", "release.shadow_fraction=0",
        "release.steps=[0.5]", "release.min_step_s=0", "release.observation_s=2", "release.retention_after_s=1",
        "release.goal.low=-1", "release.goal.min_users=20", "release.watch_s=0",
    ]  # fmt: skip
    run = Run(overrides, folder / "log", script="launch/serve.py")
    url = f"http://127.0.0.1:{port}"
    client = httpx.Client(base_url=url, timeout=RECOVERY_S, limits=httpx.Limits(max_connections=None))
    service = Service(run, url, folder, client)
    try:
        run.wait_until(lambda: " at http://" in run.log.read_text())
        service.wait_for_two_engines()
        yield service
        run.process.send_signal(signal.SIGTERM)
        assert run.wait() == 0, run.log.read_text()
        run.wait_for_no_process()
    finally:
        client.close()
        for pid in [*run.descendants(), *([run.process.pid] if run.process.poll() is None else [])]:
            os.kill(pid, signal.SIGKILL)


def under_load(service: Service, disturb: Callable[[], None], *, num_requests: int = 240) -> list[httpx.Response]:
    """Answers of several clients, every third streamed; after a fifth of them something happens."""
    answered = threading.Semaphore(0)

    def ask(number: int) -> httpx.Response:
        answer = service.ask(stream=number % 3 == 0, user=f"user-{number % 20}")
        answered.release()
        return answer

    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(ask, number) for number in range(num_requests)]
        for _ in range(num_requests // 5):
            assert answered.acquire(timeout=RECOVERY_S)
        disturb()
        return [answer.result(timeout=RECOVERY_S) for answer in answers]


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.removeprefix("::ffff:")).is_loopback


def check_answers(answers: list[httpx.Response]) -> None:
    """Whole ones have all their tokens; a stream may break off, but says so."""
    assert Counter(answer.status_code for answer in answers) == {200: len(answers)}, [
        answer.text for answer in answers if answer.status_code != 200
    ]
    for answer in answers:
        if not answer.headers["content-type"].startswith("text/event-stream"):
            assert answer.json()["usage"]["completion_tokens"] == 24
            continue
        events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
        assert events[-1] == "[DONE]"
        last = json.loads(events[-2])
        if "error" in last:
            assert last["error"]["code"] == 503
            assert "ask again" in last["error"]["message"]
        else:
            assert last["choices"][0]["finish_reason"] == "length"


def test_no_request_fails_while_a_replica_is_killed(service: Service) -> None:
    victim = min(service.replicas("engine"))
    (core,) = engine_cores(victim)
    check_answers(under_load(service, lambda: os.kill(victim, signal.SIGKILL)))
    wait_until(lambda: not core.is_running())
    service.wait_for_two_engines(victim)
    check_answers([service.ask() for _ in range(20)])


def test_a_replica_whose_engine_died_is_replaced(service: Service) -> None:
    """vLLM computes in a child of the replica; without it the replica is as good as dead, though it still runs."""
    victim = min(service.replicas("engine"))
    (core,) = engine_cores(victim)
    check_answers(under_load(service, core.kill))
    service.wait_for_two_engines(victim)
    check_answers([service.ask() for _ in range(20)])


def test_an_idle_replica_whose_engine_died_is_replaced(service: Service) -> None:
    """Its health check tells."""
    victim = min(service.replicas("engine"))
    (core,) = engine_cores(victim)
    core.kill()
    service.wait_for_two_engines(victim)
    check_answers([service.ask() for _ in range(20)])


def test_engines_outlive_serves_controller(service: Service) -> None:
    """Ray starts it again; what answers meanwhile are the same engines."""
    engines = service.replicas("engine")
    controller = service.process("ray::ServeController")
    check_answers(under_load(service, lambda: os.kill(controller, signal.SIGKILL)))
    wait_until(lambda: service.process("ray::ServeController") not in (None, controller))
    check_answers([service.ask() for _ in range(20)])
    assert service.replicas("engine") == engines
    service.operate("GET", "/release")


def answered(service: Service, number: int) -> httpx.Response:
    """As stock clients ask: again where the connection or the service failed."""
    end = time.monotonic() + RECOVERY_S
    while True:
        try:
            answer = service.ask(stream=number % 3 == 0, user=f"user-{number % 20}")
            if answer.status_code < 500:
                return answer
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, "not in time"
        time.sleep(0.5)


def test_a_client_that_asks_again_is_answered_though_the_gateway_is_killed(service: Service) -> None:
    """What is under way in the process is lost; nothing else is, and engines stay as they are."""
    engines, (victim,) = service.replicas("engine"), service.replicas("gateway")
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = [pool.submit(answered, service, number) for number in range(60)]
        wait_until(lambda: sum(answer.done() for answer in answers) >= 12)
        os.kill(victim, signal.SIGKILL)
        check_answers([answer.result(timeout=RECOVERY_S) for answer in answers])
    assert service.replicas("gateway") - {victim}
    check_answers([service.ask() for _ in range(20)])
    assert service.replicas("engine") == engines
    service.operate("GET", "/release")


def test_only_loopback_is_listened_on(service: Service) -> None:
    """But by Serve's replicas for each other, whose port has no setting and wants the cluster's token."""
    ports = {}
    for pid, name in service.run.descendants().items():
        for connection in psutil.Process(pid).net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and not is_loopback(connection.laddr.ip):
                ports[connection.laddr.port] = name
    assert all(name.startswith("ray::ServeReplica:") for name in ports.values()), ports
    assert len(ports) == len(set(ports.values())) + 1, "one a replica, and of the engine there are two"
    for port in ports:
        stub = serve_pb2_grpc.ASGIServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
        with pytest.raises(grpc.RpcError) as refused:
            stub.HandleRequest(serve_pb2.ASGIRequest(), timeout=RECOVERY_S)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


RAY_METHODS = {
    "gcs_server": "NodeInfoGcsService/GetAllNodeInfo",
    "raylet": "NodeManagerService/GetNodeStats",
    "ray::ServeReplica": "CoreWorkerService/PushTask",
}
"""Methods of Ray's own that answer where authentication is off, by the process."""


def test_ray_itself_wants_the_clusters_token(service: Service) -> None:
    codes: dict[str, set[grpc.StatusCode]] = {name: set() for name in RAY_METHODS}
    for pid in service.run.descendants():
        process = psutil.Process(pid)
        title = " ".join(process.cmdline()[:1]).rpartition("/")[2]
        for name in [name for name in RAY_METHODS if title.startswith(name)]:
            for connection in process.net_connections("tcp"):
                if connection.status != psutil.CONN_LISTEN:
                    continue
                method = grpc.insecure_channel(f"127.0.0.1:{connection.laddr.port}").unary_unary(
                    f"/ray.rpc.{RAY_METHODS[name]}"
                )
                with pytest.raises(grpc.RpcError) as refused:
                    method(b"", timeout=RECOVERY_S)
                codes[name].add(refused.value.code())
    assert all(grpc.StatusCode.UNAUTHENTICATED in found for found in codes.values()), codes


def test_too_many_clients_are_told_to_come_back(service: Service) -> None:
    with ThreadPoolExecutor(10 * ONGOING) as pool:
        answers = list(pool.map(lambda number: service.ask(stream=number % 3 == 0), range(20 * ONGOING)))
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    for answer in refused:
        assert int(answer.headers["retry-after"]) >= 1
        assert "try again" in answer.json()["error"]["message"]
    accepted = [answer for answer in answers if answer.status_code != 429]
    assert len(accepted) >= ONGOING
    check_answers(accepted)
    check_answers([service.ask() for _ in range(20)])


def vote(service: Service, users: list[str]) -> dict[str, str]:
    """Who answers whom; everybody likes the candidate and nobody its predecessor."""
    arms = {}
    for user in users:
        arms[user], id = service.variant(user)
        said = {"request_id": id, "user": user, "kind": "thumb", "value": 1 if arms[user] == "candidate" else -1}
        service.client.post("/v1/feedback", json=said).raise_for_status()
    return arms


def test_a_release_outlives_its_controller(service: Service, adapter: Path) -> None:
    """In the middle of a canary: it is decided by the votes from before and after together."""
    begun = service.operate("POST", "/release/start", name="candidate", folder=str(adapter))["release"]
    assert begun["state"] == "canary-50"
    wait_until(lambda: "candidate" in service.client.get("/v1/models").text)
    early, late = ([f"{half}-{number}" for number in range(30)] for half in ("early", "late"))
    before = vote(service, early)
    assert set(before.values()) == {"base", "candidate"}
    status = service.operate("GET", "/release")
    assert status["release"] == begun

    (controller,) = service.replicas("controller")
    os.kill(controller, signal.SIGKILL)
    assert {user: service.variant(user)[0] for user in early} == before, "gateways need no controller"
    wait_until(lambda: service.replicas("controller") - {controller})
    after = service.operate("GET", "/release")
    assert (after["release"], after["models"]) == (begun, status["models"])
    assert {user: service.variant(user)[0] for user in early} == before

    vote(service, late)
    wait_until(lambda: service.operate("GET", "/release")["production"] == "candidate")
    release = service.operate("GET", "/release")["release"]
    assert [entry["after"] for entry in release["transitions"]] == ["canary-50", "promoted"]
    wait_until(lambda: {service.variant(user)[0] for user in early} == {"candidate"})
