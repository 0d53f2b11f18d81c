"""Fixtures of the unit tier."""

import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a script said and ended with."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Finished]]:
    """`run_script("launch/sft.py", *arguments)` runs a script as `python` does, in this process, where its imports are
    there already: a process of its own costs four seconds."""

    def run(script: str, *arguments: str) -> Finished:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # scripts set it, for good
        monkeypatch.setattr(sys, "argv", [str(ROOT / script), *arguments])
        monkeypatch.syspath_prepend(str((ROOT / script).parent))
        GlobalHydra.instance().clear()
        code: int | str | None = 0
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        assert isinstance(code, int | None)
        said = capfd.readouterr()
        return Finished(returncode=code or 0, stdout=said.out, stderr=said.err)

    yield run
    GlobalHydra.instance().clear()
