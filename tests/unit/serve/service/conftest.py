"""A service without Ray: real routes, gateway and store, two tiny folders as models, engines that need none."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serve.config import LimitsConfig, ServeConfig, StoreConfig
from serve.control.release_manager import ReleaseManager
from serve.gateway import routes
from serve.gateway.auth import hash_key
from serve.gateway.gateway import Gateway
from serve.gateway.routes import Command
from serve.releases.config import ReleaseConfig
from serve.store.records import Role
from serve.store.store import Store
from tests.unit.serve.service.engines import Engines

NOW = 1000.0
PATIENCE_S = 120.0
"""So long an answer waits for its record here: on a busy machine a second is not enough to find it at once."""
KEYS = {"user": "sk-of-a-user", "operator": "sk-of-an-operator"}


def make_model(folder: Path, weights: str) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("served")
    return {name: make_model(root / name, name) for name in ("old", "new")}


@pytest.fixture(scope="session")
def make_config(folders: dict[str, Path]) -> Callable[..., ServeConfig]:
    """Half of the users see a candidate at once. Keywords change the limits."""

    def make(**limits: float) -> ServeConfig:
        return ServeConfig(
            output="",
            models={name: str(folder) for name, folder in folders.items()},
            production="old",
            limits=LimitsConfig(**{"body_bytes": 4096, "messages": 4, "max_tokens": 64, "attempts": 2, **limits}),
            store=StoreConfig(consent_by_default=True, patience_s=PATIENCE_S),
            release=ReleaseConfig(shadow_fraction=0, steps=[0.5], allow=["vip"], deny=["shy"], watch_s=0),
        )

    return make


@pytest.fixture
def config(make_config: Callable[..., ServeConfig]) -> ServeConfig:
    return make_config()


@pytest.fixture(scope="session")
def stocked(migrated_file: Path, make_config: Callable[..., ServeConfig], tmp_path_factory) -> Path:
    """A store with both models, `old` in production."""
    path = Path(shutil.copy(migrated_file, tmp_path_factory.mktemp("stocked")))
    store = Store(f"sqlite:///{path}")
    ReleaseManager(store, make_config(), lambda: NOW).bootstrap()
    store.close()
    return path


@contextmanager
def opened(stocked: Path, folder: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{shutil.copy(stocked, folder / 'store.db')}", consent_by_default=True)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(stocked: Path, tmp_path: Path) -> Iterator[Store]:
    with opened(stocked, tmp_path) as store:
        yield store


@pytest.fixture
def engines() -> Engines:
    return Engines()


@pytest.fixture
def gateway(config: ServeConfig, store: Store, engines: Engines) -> Gateway:
    return Gateway(config, store, engines)


async def command(name: str, /, **arguments: str) -> dict:
    """What a release controller says: here that it was asked."""
    return {"command": name, **arguments}


@contextmanager
def running(gateway: Gateway, command: Command = command, url: str = "http://127.0.0.1:8000") -> Iterator[TestClient]:
    """What the release controller says is `command`'s."""
    with TestClient(routes.build(gateway, command), url, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def client(gateway: Gateway) -> Iterator[TestClient]:
    with running(gateway) as client:
        yield client


@pytest.fixture(scope="session")
def open_client(make_config, stocked: Path, tmp_path_factory) -> Iterator[TestClient]:
    """Without keys, for tests that leave nothing behind."""
    folder = tmp_path_factory.mktemp("open")
    with opened(stocked, folder) as store, running(Gateway(make_config(), store, Engines())) as client:
        yield client


@pytest.fixture(scope="session")
def keyed_client(make_config, stocked: Path, tmp_path_factory) -> Iterator[TestClient]:
    """With a user's and an operator's key, for tests that leave nothing behind."""
    with opened(stocked, tmp_path_factory.mktemp("keyed")) as store:
        for role, key in KEYS.items():
            store.keys.add(hash_key(key), Role(role), f"{role} one", NOW)
        with running(Gateway(make_config(), store, Engines())) as client:
            yield client
