"""An empty store on each of both databases; PostgreSQL is a real server, started once."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError

from serve.store.database import migrate
from serve.store.store import Store
from serve.store.tables import METADATA

DEADLINE_S = 300
SERVER_USER = "nobody" if os.getuid() == 0 else None
"""PostgreSQL refuses to run as root."""


def newest_binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def wait_for(url: str, server: subprocess.Popen) -> None:
    engine = create_engine(url)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            engine.connect().close()
            return engine.dispose()
        except DBAPIError:
            assert server.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[str], str]]:
    """URLs of the server's databases by name; listens on a socket in a folder of its own. Nothing survives a crash."""
    binaries = newest_binaries()
    if binaries is None:
        pytest.skip("no initdb in /usr/lib/postgresql: install PostgreSQL (apt-get install postgresql)")
    # A socket's path has at most 107 bytes, which pytest's own folders may exceed.
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if SERVER_USER:
        shutil.chown(folder, SERVER_USER)
    make = [binaries / "initdb", "--no-sync", "-A", "trust", "-U", "tester", "-E", "UTF8", "--no-locale", "-D",
            folder / "data"]  # fmt: skip
    subprocess.run(make, user=SERVER_USER, cwd=folder, check=True, capture_output=True, timeout=DEADLINE_S)
    run = [binaries / "postgres", "-D", folder / "data", "-k", folder, "-c", "listen_addresses=", "-F"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(run, user=SERVER_USER, cwd=folder, stdout=log, stderr=log)

    def url(name: str) -> str:
        return f"postgresql+pg8000://tester@/{name}?unix_sock={folder}/.s.PGSQL.5432"

    try:
        wait_for(url("postgres"), server)
        yield url
    finally:
        server.send_signal(signal.SIGQUIT)  # at once: its data go with it
        server.wait(DEADLINE_S)
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def new_database(postgres: Callable[[str], str]) -> Callable[[], str]:
    """Makes databases without tables."""
    engine = create_engine(postgres("postgres"), isolation_level="AUTOCOMMIT")
    numbers = count()

    def make() -> str:
        name = f"test{next(numbers)}"
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return postgres(name)

    return make


@pytest.fixture(scope="session")
def migrated_database(new_database: Callable[[], str]) -> tuple[str, Engine]:
    """One for all tests: emptying it is sooner done than making another."""
    url = new_database()
    migrate(url)
    return url, create_engine(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database with the newest schema."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_url")
    url, engine = request.getfixturevalue("migrated_database")
    with engine.begin() as connection:
        for table in reversed(METADATA.sorted_tables):
            connection.execute(table.delete())
    return url


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    store = Store(url)
    yield store
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a database without tables, in SQLite not even a file."""
    if request.param == "postgresql":
        return request.getfixturevalue("new_database")()
    return f"sqlite:///{tmp_path / 'bare.db'}"


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "store.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """Where the database makes no difference."""
    shutil.copy(migrated_file, tmp_path)
    return f"sqlite:///{tmp_path / migrated_file.name}"
