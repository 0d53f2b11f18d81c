"""Schema, refusals, and several at once, on SQLite and on PostgreSQL."""

import itertools
import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from rlhf.types import InputError
from serve.store.consent import salted_hash
from serve.store.database import connect, migrate, parse
from serve.store.release_records import Phase, Release
from serve.store.releases import StaleRelease
from serve.store.store import Store
from serve.store.tables import METADATA
from tests.oracles.traffic import traffic as traffic_of
from tests.unit.serve.samples import asked, exposed, moved, released

DEADLINE_S = 300


def at_once(*functions) -> list:
    """Results of functions that start together, each in a thread of its own; of one that refuses, the error."""
    start = threading.Barrier(len(functions))

    def run(function):
        start.wait(DEADLINE_S)
        try:
            return function()
        except (InputError, StaleRelease) as error:
            return error

    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(run, functions, timeout=DEADLINE_S))


def test_migrations_make_the_declared_tables(store):
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []


def test_migrations_at_once_are_done_once(bare_url):
    assert at_once(*[lambda: migrate(bare_url)] * 4) == [None] * 4
    Store(bare_url).close()


@pytest.mark.parametrize(("role", "required"), [("user", True), ("operator", False)])
def test_a_store_of_the_first_schema_requires_keys_where_a_user_has_one(bare_url, role, required):
    migrate(bare_url, "0001")
    engine = connect(parse(bare_url))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO keys (hash, role, owner, at) VALUES ('h', '{role}', 'ann', 1.0)")
    engine.dispose()
    migrate(bare_url)
    store = Store(bare_url)
    store.keys.remove("h")
    assert store.keys.required_of_users() is required
    store.close()


def test_a_store_of_the_first_schema_is_salted_and_keeps_no_words_without_consent(bare_url):
    migrate(bare_url, "0001")
    engine = connect(parse(bare_url))
    columns = "id, user, at, endpoint, variant, version, conversation, turn, prompt_hash, sampling, status, latency_s"
    names = ", ".join(f'"{name}"' for name in columns.split(", "))
    with engine.begin() as connection:
        for number in range(1203):
            sampling = '{"seed": 1, "stop": "x"}'
            row = f"'r{number:04}', 'ann', 1, 'chat', 'new', 'v', 'c', 1, 'h{number % 2}', '{sampling}'"
            kept = "NULL, NULL" if number % 3 else "'[]', 'x'"
            statement = f"INSERT INTO requests ({names}, messages, error) VALUES ({row}, 400, 1, {kept})"
            connection.exec_driver_sql(statement)
    engine.dispose()
    migrate(bare_url)
    store = Store(bare_url)
    requests = [request for request, _ in store.requests.dialogues()]
    assert len(requests) == 1203
    for number, request in enumerate(requests):
        assert request.prompt_hash == salted_hash(store.settings.salt(), f"h{number % 2}")
        assert request.conversation == salted_hash(store.settings.salt(), "c")
        words = ({"seed": 1}, None) if number % 3 else ({"seed": 1, "stop": "x"}, "x")
        assert (request.sampling, request.error) == words
    store.close()


def test_a_database_without_the_schema_is_refused(bare_url):
    with pytest.raises(InputError, match=r"start (this version of )?the service once"):
        Store(bare_url)
    # Asking has created no file.
    url = parse(bare_url)
    assert url.get_backend_name() == "postgresql" or not Path(url.database).exists()


def test_another_schema_is_refused(bare_url):
    migrate(bare_url)
    engine = connect(parse(bare_url))
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    with pytest.raises(InputError, match="its schema is 9999, this version needs"):
        Store(bare_url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("no url with secret", "store.url: it is no SQLAlchemy URL"),
        ("sqlite://", "neither SQLite in a file nor PostgreSQL by pg8000"),
        ("mysql://me:secret@host/name", r"mysql://me:\*\*\*@host/name"),
        ("postgresql://me:secret@host/name", "postgresql.pg8000"),
        ("postgresql+pg8000://me:secret@127.0.0.1:1/name", "cannot be used .*start its server"),
    ],
)
def test_an_unusable_url_is_refused_in_one_sentence(url, sentence):
    for refusing in (Store, migrate):
        with pytest.raises(InputError, match=sentence) as refused:
            refusing(url)
        assert "secret" not in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("there", [False, True])
def test_an_sqlite_store_is_its_owners_alone(tmp_path, there):
    path = tmp_path / "store.db"
    if there:
        path.touch()
        path.chmod(0o644)
    migrate(f"sqlite:///{path}")
    store = Store(f"sqlite:///{path}")
    store.requests.record([asked()])
    files = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert files == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm"), 0o600)
    store.close()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no/store.db: the database cannot be used \(unable to open"):
        migrate(f"sqlite:///{tmp_path}/no/store.db")


def expose_in_process(url: str, variant: str, start, results) -> None:
    store = Store(url)
    start.wait(DEADLINE_S)
    exposures = [exposed(f"user{n}", variant, 1.0, "e") for n in range(50)]
    for exposure in exposures:
        store.exposures.add(exposure)
    results.put((variant, {exposure.user: exposure.variant for exposure in traffic_of(store, "e", 9.0).exposures}))
    store.close()


def test_of_two_processes_one_exposes_a_user(url):
    # Forked, which is quick: nothing of the parent has a connection that the children use.
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=expose_in_process, args=(url, name, start, results)) for name in "ab"]
    for process in processes:
        process.start()
    first = dict(results.get(timeout=DEADLINE_S) for _ in processes)
    for process in processes:
        process.join(DEADLINE_S)
        assert process.exitcode == 0
    store = Store(url)
    kept = {exposure.user: exposure.variant for exposure in traffic_of(store, "e", 9.0).exposures}
    assert first["a"] == first["b"] == kept, "what one of them kept first stays"
    assert sorted(kept) == sorted(f"user{n}" for n in range(50))
    store.close()


def test_of_threads_that_advance_a_release_one_does(store):
    read = store.releases.save(released())
    saved = at_once(*[lambda: store.releases.save(replace(read, step=1, phase=Phase.canary), moved("canary-1"))] * 4)
    assert Counter(type(each) for each in saved) == {Release: 1, StaleRelease: 3}
    assert len(store.releases.transitions(read.id)) == 1


def test_of_threads_that_start_a_release_one_does(store):
    saved = at_once(*[lambda: store.releases.save(released(id=store.releases.new_id()))] * 4)
    assert Counter(type(each) for each in saved) == {Release: 1, InputError: 3}


def test_of_threads_that_save_a_release_with_the_same_id_one_does(store):
    saved = at_once(*[lambda: store.releases.save(released(phase=Phase.rolled_back))] * 4)
    assert Counter(type(each) for each in saved) == {Release: 1, StaleRelease: 3}
    assert store.releases.all() == [each for each in saved if isinstance(each, Release)]


def test_threads_get_different_ids(store):
    ids = at_once(*[lambda: [store.releases.new_id() for _ in range(5)]] * 4)
    assert sorted(itertools.chain(*ids), key=lambda id: int(id[1:])) == [f"r{number}" for number in range(1, 21)]


def test_a_thousand_requests_from_four_threads(store):
    def record(thread: int) -> None:
        for batch in range(25):
            store.requests.record([asked(id=f"{thread}-{batch}-{n}", user=f"user{thread}") for n in range(10)])

    assert at_once(*[lambda thread=thread: record(thread) for thread in range(4)]) == [None] * 4
    found = [request.id for request, _ in store.requests.dialogues()]
    assert len(found) == len(set(found)) == 1000
