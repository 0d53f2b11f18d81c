"""The manners of `launch/ppo.py`: one line on stderr, exit code 2, and no runtime loaded to say so."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "launch" / "ppo.py"
RUNTIMES = ("ray", "vllm", "deepspeed", "transformers")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["+foo=1"], "foo: there is no such key; known are model, output, "),
        (["train.foo=1"], "train.foo: there is no such key; known are num_steps, "),
        (["reward.functions.x=y"], "reward.functions.x=y: reward.functions takes a list of texts, as in 'reward.f"),
        (["algorithm=foo"], "algorithm=foo: unknown; known are cispo, dapo"),
        (["reward=foo"], "reward=foo: unknown; known are exact, http, judge, math_verify, math_with_format, numeric"),
        (["algorithm=dpo"], "algorithm=dpo: it does not work with this command; known are cispo, dapo"),
        (
            ["experiment=tiny_dpo"],
            "experiment=tiny_dpo: it does not work with this command (held_out: there is no such key); known are ",
        ),
        (["service=tiny"], "service: this command has no choices of that name; it has algorithm, data, "),
        (["--help", "optimiser"], "optimiser: there is no such key; did you mean optimizer?"),
        (["output=x"], "model: it must be set, as in model=..."),
        (
            ["algorithm.group_size=1", "model=m", "output=o", "data.path=p"],
            "algorithm.group_size=1: GRPO's baseline is the mean of a group, set at least 2",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(run_script, tmp_path, overrides, sentence):
    finished = run_script("launch/ppo.py", *overrides)
    lines = finished.stderr.splitlines()
    assert finished.returncode == 2
    assert lines[-1].startswith(f"error: {sentence}")
    assert lines == lines[-1:]
    assert finished.stdout == ""
    assert list(tmp_path.iterdir()) == []  # Hydra leaves no folder of its own


def test_the_configuration_is_shown_without_a_runtime(tmp_path):
    program = (
        "import json, runpy, sys\n"
        "for options in (['--cfg', 'job'], ['--help']):\n"
        f"    sys.argv = [{str(SCRIPT)!r}, *options, 'experiment=quickstart']\n"
        "    try:\n"
        f"        runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
        "    except SystemExit as ended:\n"
        "        assert not ended.code, ended.code\n"
        f"print(json.dumps([name for name in {RUNTIMES!r} if name in sys.modules]), file=sys.stderr)\n"
    )
    finished = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True,
                              timeout=600, check=False)  # fmt: skip
    assert finished.returncode == 0
    assert json.loads(finished.stderr) == []
    for line in ("group_size: 8", "precision: fp32", "algorithm.group_size=8", "backend.precision=fp32"):
        assert line in finished.stdout
    assert list(tmp_path.iterdir()) == []


def test_online_and_ppo_are_one_command(run_script):
    scripts = "launch/ppo.py", "launch/online.py"
    ppo, online = (run_script(script, "--cfg", "job", "experiment=quickstart") for script in scripts)
    assert ppo.returncode == online.returncode == 0
    assert "group_size: 8" in ppo.stdout
    assert online.stdout == ppo.stdout
