"""The teacher of a run: its workers, its distribution, and what is refused before Ray starts."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.actors.learner_worker import LearnerSpec
from rlhf.models.causal_lm import read_model_config, vocab_size
from rlhf.models.tiny import build_tiny_model
from rlhf.stages.online.dry_run import try_algorithm
from rlhf.stages.online.teacher import with_own_rows
from rlhf.types import InputError
from tests.conftest import ALPHABET

DISTILL = "algorithm=distill"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Teachers by name: of the policy's vocabulary, of others, for shorter rows, with more rows in the embedding."""
    root = tmp_path_factory.mktemp("teachers")
    moved = ALPHABET[1] + ALPHABET[0] + ALPHABET[2:]
    settings: dict[str, dict[str, Any]] = {
        "same": {},
        "smaller": {"alphabet": "0123"},
        "moved": {"alphabet": moved},
        "short": {"context_tokens": 32},
        "padded": {"shape": {"vocab_size": 64}},
    }
    for name, keys in settings.items():
        build_tiny_model(root / name, **{"alphabet": ALPHABET, "hidden_size": 64, "num_layers": 4, **keys})
    return {name: root / name for name in settings}


def test_a_teacher_has_workers_of_its_own(job, teachers):
    prepared = job(DISTILL, f"teacher.model={teachers['same']}", "placement.teacher=2")
    assert {role.role: role.num_workers for role in prepared.plan.roles} == {"policy": 1, "teacher": 2, "sampler": 1}
    try_algorithm(prepared)
    shared = job(DISTILL, f"teacher.model={teachers['same']}", "placement.colocate=[[policy,teacher,sampler]]").plan
    assert [group.name for group in shared.groups] == ["policy+teacher+sampler"]
    assert shared.num_accelerators == 1


def test_a_teacher_may_stand_beside_a_reference_and_rewards(job, teachers):
    words = ["algorithm.kl_coef=0.1", "algorithm.reward_coef=0.5", "train.num_minibatches=2"]
    prepared = job(DISTILL, f"teacher.model={teachers['same']}", *words)
    assert [role.role for role in prepared.plan.roles] == ["policy", "reference", "teacher", "sampler"]
    try_algorithm(prepared)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([DISTILL], "placement.teacher=None, teacher.model=None: OnPolicyDistillation learns from a teacher; set "),
        ([DISTILL, "placement.teacher=1"], "placement.teacher=1, teacher.model=None: OnPolicyDistillation learns from"),
        (["teacher.model=m"], "placement.teacher=None, teacher.model=m: GRPO has no teacher; leave both null, or use"),
        (["placement.teacher=1"], "placement.teacher=1, teacher.model=None: GRPO has no teacher; leave both null, or"),
        ([DISTILL, "teacher.model=m", "placement.teacher=0"], "teacher.model=m: give the teacher at least 1"),
        ([DISTILL, "teacher.model=nowhere"], "model 'nowhere': no config.json there"),
    ],
)
def test_teachers_and_placements_that_contradict_the_algorithm(job, overrides, sentence):
    with pytest.raises(InputError) as refused:
        job(*overrides)
    assert sentence in str(refused.value)


def test_a_teacher_that_takes_turns_with_engines_cannot_wait_for_samples_ahead(job, teachers):
    words = [f"teacher.model={teachers['same']}", "placement.colocate=[[teacher,sampler]]", "stream.max_staleness=1"]
    with pytest.raises(InputError, match=r"placement.colocate has teacher\+sampler, stream.max_staleness=1: engines"):
        job(DISTILL, *words)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "smaller",
            "its vocabulary is not that of the policy {policy}, it has 7 tokens and not {size}; use a model of",
        ),
        ("moved", "its vocabulary is not that of the policy {policy}, token 3 is '1' and not '0'; use a model of the "),
        ("short", "it was made for 32 tokens, a row may have sampler.context_tokens=64; lower that, or choose another"),
    ],
)
def test_a_teacher_that_cannot_judge_the_policy_s_tokens_is_refused(job, models, teachers, name, sentence):
    size = len(set(ALPHABET)) + 3
    with pytest.raises(InputError) as refused:
        job(DISTILL, f"teacher.model={teachers[name]}")
    assert f"teacher.model={teachers[name]}: {sentence.format(policy=models['tied'], size=size)}" in str(refused.value)


def test_a_teacher_that_ends_answers_otherwise_would_teach_never_to_end(job, teachers, tmp_path):
    path = Path(shutil.copytree(teachers["same"], tmp_path / "other_end"))
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        raw = json.loads((path / name).read_text())
        raw.update({"eos_token": ALPHABET[0]} if name.startswith("tokenizer") else {"eos_token_id": 3})
        (path / name).write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"it ends answers with '0', the policy with '<eos>', so it would teach never"):
        job(DISTILL, f"teacher.model={path}")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"num_experts": 128}, "it is a mixture of experts"),
        (
            {"vocab_size": 8},
            r"its vocabulary is not that of the policy .*, its embedding has 8 rows for \d+ tokens; use",
        ),
    ],
)
def test_a_teacher_s_config_is_checked(job, teachers, tmp_path, settings, sentence):
    path = Path(shutil.copytree(teachers["same"], tmp_path / "teacher"))
    raw = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**raw, **settings}))
    with pytest.raises(InputError, match=sentence):
        job(DISTILL, f"teacher.model={path}")


def test_a_teacher_s_logprobs_are_over_the_tokens_that_the_policy_samples_from(job, models, teachers):
    """Unused rows of its embedding are banned too, however many there are."""
    prepared = job(DISTILL, f"teacher.model={teachers['padded']}", "sampling.temperature=0.7")
    backend = prepared.config.backend
    spec = LearnerSpec(
        model_path=str(teachers["padded"]), backend=backend, optimizer=None, distribution=prepared.distribution
    )
    own = with_own_rows(spec, prepared.tokenizer, prepared.stop_token_ids).distribution
    rows = {
        name: vocab_size(read_model_config(str(path)))
        for name, path in (("policy", models["tied"]), ("teacher", teachers["padded"]))
    }
    sampled = set(range(rows["policy"])) - set(prepared.distribution.banned_token_ids)
    assert set(range(rows["teacher"])) - set(own.banned_token_ids) == sampled
    assert (own.temperature, rows["teacher"]) == (0.7, 64)
