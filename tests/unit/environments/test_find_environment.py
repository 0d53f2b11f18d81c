"""From the config to an environment, in whichever process and folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.environments.lookup import find_environment
from rlhf.environments.single_turn import single_turn
from rlhf.lookup import find_attribute, with_absolute_path
from rlhf.types import InputError

CODE = """
from rlhf.types import Episode


async def twice(prompt, sampler, sampling, *, hint="no"):
    return Episode(rows=[hint])


def waits_for_nobody(prompt, sampler, sampling):
    return Episode(rows=[])


async def forgets_one(prompt, sampler):
    return Episode(rows=[])


class Memory:
    made = 0

    def __init__(self, size):
        if size < 0:
            raise ValueError("no room")
        Memory.made += 1
        self.size = size

    async def __call__(self, prompt, sampler, sampling):
        return Episode(rows=[self.size, Memory.made])


class Forgetful:
    async def __call__(self, prompt):
        return Episode(rows=[])


class Mute:
    pass


class Hasty:
    def __call__(self, prompt, sampler, sampling):
        return Episode(rows=[])


number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my_env.py"
    path.write_text(CODE, encoding="utf-8")
    return path


async def test_a_short_name_a_function_of_a_file_and_one_of_a_module(file, monkeypatch):
    assert find_environment("single_turn", {}).func is single_turn
    environment = find_environment(f"{file}:twice", {"hint": "yes"})
    assert (await environment(None, None, None)).rows == ["yes"]
    monkeypatch.syspath_prepend(str(file.parent))
    assert (await find_environment("my_env:twice", {})(None, None, None)).rows == ["no"]


async def test_a_class_is_made_once_with_its_options(file):
    environment = find_environment(f"{file}:Memory", {"size": 4})
    assert [(await environment(None, None, None)).rows for _ in range(2)] == [[4, 1], [4, 1]]


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("multi_turn", {}, "environment=multi_turn: there is no environment of this name; use single_turn, "),
        ("{file}:thrice", {}, "environment has '{file}:thrice', but thrice does not exist in {file}: "),
        ("{file}:number", {}, "environment has '{file}:number', but number is not callable in {file}: "),
        ("/nowhere/e.py:f", {}, "environment has '/nowhere/e.py:f', but there is no file /nowhere/e.py: correct the"),
        ("no.such:f", {}, "environment has 'no.such:f', whose import raises ModuleNotFoundError: "),
        ("{file}:twice", {"tip": 1}, "environment my_env.py:twice cannot be called as my_env.py:twice(prompt, sampler, "
         "sampling, **environment_options): got an unexpected keyword argument 'tip'; its options: hint"),
        ("{file}:forgets_one", {}, "environment my_env.py:forgets_one cannot be called as "),
        ("{file}:waits_for_nobody", {}, "environment my_env.py:waits_for_nobody is no coroutine function: write it"),
        ("{file}:Hasty", {}, "environment my_env.py:Hasty is no coroutine function: write it as `async def`"),
        ("{file}:Memory", {"size": -1}, "environment my_env.py:Memory cannot be made from environment_options, "
         "ValueError: no room"),
        ("{file}:Forgetful", {}, "environment my_env.py:Forgetful is a class that lacks __call__(self, prompt, "
         "sampler, sampling) (too many positional arguments)"),
        ("{file}:Mute", {}, "environment my_env.py:Mute is a class without __call__(self, prompt, sampler, sampling)"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(file, spec, options, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence.format(file=file))}") as raised:
        find_environment(spec.format(file=file), options)
    assert "\n" not in str(raised.value)


def test_a_relative_path_is_found_from_another_folder_by_another_process(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = with_absolute_path("my_env.py:twice")
    assert with_absolute_path("single_turn") == "single_turn"
    code = (
        "import asyncio, sys\nfrom rlhf.environments.lookup import find_environment\n"
        "print(asyncio.run(find_environment(sys.argv[1], {'hint': 'there'})(None, None, None)).rows)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, spec], cwd="/", env={"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout == "['there']\n"


def test_a_file_is_loaded_once_whatever_names_it_and_again_once_it_is_edited(file, tmp_path, monkeypatch):
    (tmp_path / "link.py").symlink_to(file)
    monkeypatch.chdir(tmp_path)
    places = (str(file), "my_env.py", "link.py")
    first, *others = [find_attribute("environment", f"{place}:Memory", "class") for place in places]
    assert others == [first, first]
    file.write_text(CODE + "\n# Edited.\n", encoding="utf-8")
    assert find_attribute("environment", f"{file}:Memory", "class") is not first
