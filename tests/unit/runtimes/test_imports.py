"""The garbage collector stands still during an import, and runs again after it."""

import gc

import pytest

from rlhf.runtimes.imports import paused_collector


def test_the_collector_is_paused_and_runs_again():
    with paused_collector():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_runs_again_after_an_import_that_fails():
    with pytest.raises(ModuleNotFoundError), paused_collector():
        import rlhf.nowhere  # noqa: F401
    assert gc.isenabled()


def test_one_that_was_off_stays_off():
    gc.disable()
    try:
        with paused_collector():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
