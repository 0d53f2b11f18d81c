"""`--help` of every script: all its keys with their sentences, and the choices that Hydra composes with it."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import itertools
import os
import re
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf.config import ALGORITHMS, DATA
from rlhf.config_classes import find_config_class
from rlhf.help import page as help_page
from rlhf.help.choices import first_comment
from rlhf.help.fields import type_name
from rlhf.runtimes.configs import Precision

ROOT = Path(__file__).parents[3]
CONF = ROOT / "conf"
SOURCES = sorted((ROOT / "launch").glob("*.py"))
MAINS = {
    str(path.relative_to(ROOT)): found[1]
    for path in SOURCES
    if (found := re.search(r'@hydra\.main\(.*config_name="(\w+)"', path.read_text()))
}
"""Scripts with the names of their primary configurations."""
GROUPS = ("experiment", "algorithm", "data", "reward", "pipeline", "service")
SWEEP, QUICKSTART = "launch/sweep.py", "launch/quickstart.py"


OWN_ALGORITHM = """
from dataclasses import dataclass

from rlhf.algorithms.base import AlgorithmConfig


@dataclass(kw_only=True, slots=True)
class MineConfig(AlgorithmConfig):
    '''A method of my own.'''

    shift: float = 0.5
    '''Added to every reward.'''


class Helper:
    pass
"""


@pytest.fixture(scope="module")
def shown_pages() -> dict[str, str]:
    return {}


@pytest.fixture
def page_of(run_script, shown_pages) -> Callable[[str], str]:
    """The whole page of a script, made once: that takes seconds."""

    def show(script: str) -> str:
        if script not in shown_pages:
            finished = run_script(script, "--help")
            assert (finished.returncode, finished.stderr) == (0, "")
            shown_pages[script] = finished.stdout
        return shown_pages[script]

    return show


def documented(schema: type[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Each key of a dataclass with its sentence, found in another way than the page does: class by class."""
    sentences: dict[str, str] = {}
    for base in reversed([base for base in schema.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
        for field, below in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                sentences[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    for name, hint in typing.get_type_hints(schema).items():
        if typing.get_origin(hint) is typing.ClassVar:
            continue
        yield f"{prefix}{name}", sentences[name]
        entry = typing.get_args(hint)[1] if typing.get_origin(hint) is dict else None
        if dataclasses.is_dataclass(hint) and name not in ("algorithm", "data"):
            yield from documented(hint, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(entry):
            yield from documented(entry, f"{prefix}{name}.NAME.")


def schema_of(config: str) -> type[Any]:
    return OmegaConf.get_type(ConfigStore.instance().load(f"{config}_schema.yaml").node)


def listed(page: str, group: str) -> list[str]:
    return re.findall(rf"^  {group}=(\S+)", page, re.MULTILINE)


def composes(config: str, *overrides: str) -> bool:
    try:
        compose(config, list(overrides))
    except (HydraException, OmegaConfBaseException):
        return False
    return True


@functools.cache
def composing(config: str) -> dict[str, list[str]]:
    """By group: the choices with which Hydra composes a primary configuration."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return {group: [name for name in names_in(group) if composes(config, f"{group}={name}")] for group in GROUPS}


def names_in(group: str) -> list[str]:
    registered = {"algorithm": ALGORITHMS, "data": DATA}.get(group, {})
    return sorted([*registered, *(path.stem for path in (CONF / group).glob("*.yaml"))])


def test_every_script_is_here():
    assert {"online", "sft", "reward_model", "compare", "pipeline", "serve"} <= set(MAINS.values())
    assert {"launch/ppo.py", "launch/dpo.py", "launch/evaluate.py"} <= set(MAINS)


@pytest.mark.parametrize("script", [*MAINS, SWEEP, QUICKSTART])
def test_every_key_is_shown_with_its_sentence(page_of, script):
    page = page_of(script)
    words = " ".join(page.split())
    keys = dict(documented(schema_of(MAINS.get(script, "online"))))
    keys |= dict(documented(schema_of("sweep"))) if script == SWEEP else {}
    for group, registered in (("algorithm", ALGORITHMS), ("data", DATA)):
        for name in set(listed(page, group)) & set(registered):
            keys |= dict(documented(registered[name], f"{group}."))
    assert len(keys) > 3
    missing = [
        (key, sentence)
        for key, sentence in keys.items()
        if sentence not in words
        or (f" {key}=" not in words and f" {key} " not in words and f"{key.upper()}:" not in words)
    ]
    assert not missing
    # Texts without a space are longer than a line.
    assert max(len(line) for line in page.splitlines() if line.count(" ") > 8) <= 100


@pytest.mark.parametrize("script", MAINS)
def test_the_choices_are_those_that_compose(page_of, script):
    page, config = page_of(script), MAINS[script]
    working = composing(config)
    assert {group: listed(page, group) for group in GROUPS if working[group]} == {
        group: names for group, names in working.items() if names
    }


def test_an_algorithm_of_the_user_s_own_is_shown_without_the_keys_of_others(tmp_path):
    (tmp_path / "mine.py").write_text(OWN_ALGORITHM, encoding="utf-8")
    spec = f"{tmp_path}/mine.py:MineConfig"
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        composed = loader.load_configuration("online", [f"algorithm={spec}"], run_mode=RunMode.RUN)
        lines = help_page.page([(loader, "online", composed)], ["algorithm"]).splitlines()
    keys = [line.split("=")[0].strip() for line in lines if line.startswith("  algorithm.")]
    own = [key for key in keys if not key.startswith("algorithm.correction.")]
    assert own == [f"algorithm.{field.name}" for field in dataclasses.fields(find_config_class("algorithm", spec))]
    assert {"algorithm.shift", "algorithm.clip_low"} < set(keys)
    assert "  algorithm.shift=0.5  (float)" in lines
    assert not any("with algorithm=" in line for line in lines)
    after = lines.index(f"  algorithm={spec}  (given)") + 1
    assert lines[after : after + 2] == ["      A method of my own.", "  algorithm=cispo"]


def test_each_recipe_has_its_comment(page_of):
    words = " ".join(page_of("launch/sft.py").split())
    assert "experiment=quickstart_sft Warm start of the quickstart: the untrained model learns the form of an " in words
    assert (
        "experiment=qwen3_06b_sft_1gpu SFT of Qwen3-0.6B on one GPU. Not yet run. experiment=tiny_cot_sft A tiny"
        in words
    )


def test_choices_are_described_by_their_source(page_of):
    words = " ".join(page_of("launch/ppo.py").split())
    assert "algorithm=grpo (default) Group relative policy optimisation (Shao et al. 2024, DeepSeekMath). algo" in words
    assert "algorithm=dapo DAPO (Yu et al. 2025): GRPO with a higher upper clip, dynamic sampling, a mean" in words
    assert "with algorithm=dapo: algorithm.clip_high=0.28 (float)" in words
    assert "algorithm.scale_by_std=false (bool) Divide by the standard deviation" in words  # Dr. GRPO's default
    assert "reward=exact (default) The completion equals the answer, letter by letter. reward=http A server" in words
    words = " ".join(page_of("launch/dpo.py").split())
    assert "algorithm=kto Kahneman-Tversky optimisation: learns from single responses" in words
    assert "data=preferences (default) Pairs for a policy, which learns the tokens of both last turns." in words


def test_words_after_help_choose_and_a_recipe_gives_its_values(run_script, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\n# My own $1 recipe.\nseed: 3\n")
    (tmp_path / "experiment/other.yaml").write_text("# @package _global_\nsed: 3\n")
    shown = run_script("launch/sft.py", "experiment=tiny_sft", "--config-dir", str(tmp_path), "--help", "lr", "experi")
    assert shown.returncode == 0
    assert re.findall(r"^  (\w\S*=\S*)", shown.stdout, re.MULTILINE)[:2] == [
        "optimizer.lr=0.003", "optimizer.final_lr_fraction=0.1"
    ]  # fmt: skip
    assert listed(shown.stdout, "experiment") == [
        "mine", "quickstart_sft", "qwen3_06b_pretrain_1gpu", "qwen3_06b_sft_1gpu", "tiny_cot_sft", "tiny_sft"
    ]  # fmt: skip
    assert "My own $1 recipe." in shown.stdout


def test_a_script_without_keys_of_a_configuration_shows_what_it_says_of_itself(run_script):
    shown = run_script("launch/chat.py", "--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout == "Chat with a model: `python launch/chat.py FOLDER`; an empty line ends the chat.\n"


def test_a_pipe_that_is_closed_ends_in_silence(tmp_path):
    process = subprocess.Popen([sys.executable, str(ROOT / "launch/pipeline.py"), "--help"], cwd=tmp_path,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    _, error = process.communicate(timeout=600)
    assert (process.returncode, error) == (0, b"")


@pytest.mark.parametrize(
    ("hint", "name"),
    [
        (int, "int"),
        (float | None, "float or null"),
        (Precision, "fp32 or bf16"),
        (list[list[str]], "list of list of str"),
        (tuple[float, float], "list of float"),
        (dict[str, Any], "dict of any"),
    ],
)
def test_types_in_words(hint, name):
    assert type_name(hint) == name


@pytest.mark.parametrize(
    ("text", "comment"),
    [
        ("# @package _global_\n# One\n# two.\n# Three.\na: 1\n", "One two."),
        ("# All of it\na: 1\n# Not this.\n", "All of it"),
        ("a: 1\n", ""),
    ],
)
def test_the_comment_at_the_top_is_the_description(text, comment):
    assert first_comment(text) == comment


def test_environment_of_the_terminal_decides_the_width(run_script, monkeypatch):
    for columns, width in (("80", 80), ("200", 120)):
        monkeypatch.setitem(os.environ, "COLUMNS", columns)
        page = run_script("launch/pipeline.py", "--help").stdout
        assert width - 15 < max(map(len, page.splitlines())) <= width
