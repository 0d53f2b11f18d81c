"""Recipes compose, and what is mistyped is told in one sentence with the key, the value and the remedy."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rlhf.algorithms.base import AlgorithmConfig
from rlhf.algorithms.distill import OnPolicyDistillationConfig
from rlhf.algorithms.grpo import GRPOConfig
from rlhf.algorithms.ppo import PPOConfig
from rlhf.algorithms.registry import ALGORITHMS
from rlhf.command_line import explain, explain_passed_on
from rlhf.config import (
    OnlineConfig,
    PreferenceRunConfig,
    RewardModelRunConfig,
    RunConfig,
    SFTRunConfig,
    as_plain,
    from_words,
    resolve,
)  # fmt: skip
from rlhf.config_classes import FORM
from rlhf.help.choices import type_of
from rlhf.help.fields import ANY_NAME, keys_of
from rlhf.help.wrong_types import explain_type
from rlhf.rewards.base import load_reward
from rlhf.types import InputError

CONF = Path(__file__).parents[3] / "conf"
RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
REWARDS = sorted(path.stem for path in (CONF / "reward").glob("*.yaml"))
PARSER = OverridesParser.create()
NEEDED = ["model=m", "output=o", "data.path=p"]


@pytest.fixture(autouse=True, scope="module")
def conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def online(*overrides: str) -> OnlineConfig:
    return resolve(compose("online", [*NEEDED, *overrides]), OnlineConfig)


@pytest.fixture(scope="module")
def default_online() -> DictConfig:
    return compose("online")


def apply(word: str, composed: DictConfig) -> None:
    """Set a word's key as Hydra does, without the tenth of a second of a composition."""
    ConfigLoaderImpl._apply_overrides_to_config(PARSER.parse_overrides([word]), composed)


def sentence(*overrides: str) -> str:
    """What a person is told of these overrides."""
    try:
        online(*overrides)
    except (HydraException, OmegaConfBaseException) as error:
        return explain(error)
    except InputError as error:
        return str(error)
    except ValueError as error:
        return explain_passed_on(error) or str(error)
    pytest.fail(f"{overrides} were accepted")


def command_of(recipe: str) -> tuple[str, type[RunConfig]]:
    """The configuration a recipe is for, told by its name."""
    for part, name, schema in (
        ("_sft", "sft", SFTRunConfig),
        ("_pretrain", "sft", SFTRunConfig),
        ("_reward_model", "reward_model", RewardModelRunConfig),
        ("_dpo", "preference", PreferenceRunConfig),
    ):
        if part in recipe:
            return name, schema
    return "online", OnlineConfig


ONLINE_METHODS = sorted(name for name, config in ALGORITHMS.items() if issubclass(config, AlgorithmConfig))
ONLINE_RECIPES = [recipe for recipe in RECIPES if command_of(recipe)[0] == "online"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_resolves(recipe):
    name, schema = command_of(recipe)
    config = resolve(compose(name, [f"experiment={recipe}", "model=m"]), schema)
    assert (config.model, type(config)) == ("m", schema)
    plain = as_plain(config)
    assert json.loads(json.dumps(plain)) == plain
    if schema is OnlineConfig:
        assert isinstance(config.algorithm, GRPOConfig | PPOConfig | OnPolicyDistillationConfig)
        assert callable(load_reward(config.reward))


@pytest.mark.parametrize("reward", [reward for reward in REWARDS if reward != "http"])
def test_every_reward_names_functions_that_exist(reward):
    config = online(f"reward={reward}", "reward.model=judge").reward
    assert config.functions or config.model == "judge"
    if config.functions:
        assert callable(load_reward(config))


def test_a_reward_server_needs_its_address_and_takes_the_tokenizer_of_the_model(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}')
    with pytest.raises(OmegaConfBaseException) as caught:
        online("reward=http")
    assert explain(caught.value) == "reward.options.http.url: it must be set, as in reward.options.http.url=..."
    config = online("reward=http", "reward.options.http.url=http://host:5000/get_reward", f"model={tmp_path}").reward
    assert config.options == {"http": {"url": "http://host:5000/get_reward", "tokenizer": str(tmp_path)}}
    assert callable(load_reward(config))


def test_rows_of_verl_are_one_choice():
    config = online("data=verl", "data.limit=3").data
    assert (config.path, config.prompt_key, config.answer_key) == ("p", "prompt", "reward_model.ground_truth")
    assert config.limit == 3
    assert online("data=verl", "data.answer_key=extra_info.answer").data.answer_key == "extra_info.answer"
    assert online().data.answer_key == "answer"


def test_overrides_come_after_the_recipe_and_the_recipe_after_the_groups():
    config = online("experiment=quickstart", "algorithm.group_size=5", "reward=math_with_format")
    assert config.algorithm == GRPOConfig(group_size=5, clip_high=0.28, measure_kl=True)
    assert (config.reward.functions, config.reward.weights) == (["math_verify", "format"], [1.0, 0.1])
    assert config.model == "m"
    assert online("experiment=gsm8k_grpo_8gpu").reward.functions == ["math_verify"]


def test_options_of_rewards_are_free():
    for word in ("+reward.options.length={max_tokens: 4}", "+reward.options.length.max_tokens=4"):
        assert online(word).reward.options == {"length": {"max_tokens": 4}}


@pytest.mark.parametrize("override", ["model", "output", "data.path"])
def test_what_must_be_set_is_named(override):
    given = [entry for entry in NEEDED if not entry.startswith(f"{override}=")]
    with pytest.raises((InputError, OmegaConfBaseException)) as caught:
        resolve(compose("online", given), OnlineConfig)
    assert explain(caught.value) == f"{override}: it must be set, as in {override}=..."


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.num_step=3", "train.num_step: there is no such key; did you mean train.num_steps?"),
        ("+train.num_step=3", "train.num_step: there is no such key; did you mean train.num_steps?"),
        ("algorithm.groupsize=4", "algorithm.groupsize: there is no such key; did you mean algorithm.group_size?"),
        ("algoritm=grpo", "algoritm: there is no such key; did you mean algorithm?"),
        ("learning_rate=1e-5", "learning_rate: there is no such key; did you mean optimizer.lr?"),
        ("+learning_rate=1e-5", "learning_rate: there is no such key; did you mean optimizer.lr?"),
        ("optimizer.learning_rate=1e-5", "optimizer.learning_rate: there is no such key; did you mean optimizer.lr?"),
        (
            "critic.learning_rate=1e-5",
            "critic.learning_rate: there is no such key; did you mean critic.optimizer.lr?",
        ),
        ("lr=1e-5", "lr: there is no such key; did you mean optimizer.lr?"),
        ("max_steps=5", "max_steps: there is no such key; did you mean train.num_steps?"),
        (
            "max_tokens=5",
            "max_tokens: there is no such key; did you mean sampling.max_tokens?",
        ),
        (
            "timeout_s=5",
            "timeout_s: there is no such key; did you mean placement.timeout_s or preflight.timeout_s or "
            "reward.timeout_s?",
        ),
        (
            "+checkpoint.foo=1",
            "checkpoint.foo: there is no such key; known are every, keep, verify, keep_best, best_is, final",
        ),
        (
            "algorithm={a: 1}",
            "algorithm.a: there is no such key; known are objective, ratio, clip_low, clip_high, dual_clip, "
            "correction, kl_coef, kl_estimator, kl_target, kl_horizon, measure_kl, entropy_coef, normalisation, "
            "mask_truncated, group_size, scale_by_std, dynamic_sampling, dynamic_sampling_part",
        ),
        ("~reward.functions", "~reward.functions: a key cannot be removed; set it, as in reward.functions=..."),
        ("stream.prompts_per_step=0", "stream.prompts_per_step=0: give at least 1"),
        ("algorithm.group_size=1", "algorithm.group_size=1: GRPO's baseline is the mean of a group, set at least 2"),
    ],
)
def test_mistakes_are_told_in_one_sentence(override, expected):
    assert sentence(override) == expected


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("reward.functions=x", "give a list of texts, as in 'reward.functions=[x]'"),
        ("reward.functions=3", "give a list of texts, as in 'reward.functions=[exact]'"),
        ("reward.functions=[x,null]", "give a list of texts, as in 'reward.functions=[exact]'"),
        ("reward.functions.x=y", "reward.functions takes a list of texts, as in 'reward.functions=[exact]'"),
        ("reward={functions: x}", "reward.functions takes a list of texts, as in 'reward.functions=[x]'"),
        ("reward.weights=1", "give a list of numbers or null, as in 'reward.weights=[1]'"),
        ("reward.options=x", "give entries by name, as in +reward.options.NAME=..."),
        ("+environment_options=x", "give entries by name, as in +environment_options.NAME=..."),
        ("+train.num_steps=5", "train.num_steps exists already; leave the plus sign out, as in train.num_steps=5"),
        ("train=3", "give its keys, as in train.num_steps=100"),
        ("train.num_steps=abc", "give a whole number, as in train.num_steps=100"),
        ("train.num_steps=null", "give a whole number, as in train.num_steps=100"),
        ("stop_at_reward=yes", "give a number or null, as in stop_at_reward=0.5"),
        ("backend.packed=x", "give true or false or null, as in backend.packed=true"),
        ("backend.precision=fp16", "give fp32 or bf16, as in backend.precision=bf16"),
        ("algorithm.kl_estimator=k4", "give k1 or k2 or k3, as in algorithm.kl_estimator=k3"),
        ("placement.colocate=[x]", "give a list of lists of texts, as in 'placement.colocate=[[...]]'"),
        ("optimizer.betas=x", "give a list of 2 numbers, as in 'optimizer.betas=[0.9,0.999]'"),
        ("model=[a]", "give a text, as in model=..."),
    ],
)
def test_a_value_of_a_wrong_type_is_explained_with_an_example(default_online, override, wanted):
    with pytest.raises((HydraException, ValueError)) as raised:
        apply(override, copy.deepcopy(default_online))
    assert explain_type(raised.value) == f"{override}: {wanted}"


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("reward.functions=[[x]]", "give a list of texts, as in 'reward.functions=[...]'"),
        ("reward.weights=[[1]]", "give a list of numbers or null, as in 'reward.weights=[0.5]'"),
        ("reward=null", f"give the name of a choice; known are {', '.join(REWARDS)}"),
    ],
)
def test_a_wrong_type_that_hydra_does_not_see_is_explained(override, wanted):
    assert sentence(override) == f"{override}: {wanted}"


@pytest.mark.parametrize("name", ["online", "reward_model"])
def test_every_key_explains_a_wrong_value_with_an_example_that_works(name):
    composed = compose(name)
    keys = [key for key in keys_of(type_of(composed), composed) if ANY_NAME not in key.path]
    assert len(keys) > 3
    for key in keys:
        # A list for what has entries, entries for what has none.
        word = f"{key.path}={'[[3]]' if key.is_section or key.type.startswith('dict') else '{a: [3]}'}"
        with pytest.raises(HydraException) as raised:
            apply(word, composed)
        explained = explain(raised.value)
        assert explained.startswith(f"{word}: give "), explained
        apply(*shlex.split(explained.rpartition(", as in ")[2]), composed)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("reward: {functions: x}", "has reward.functions=x: give a list of texts, as in 'reward.functions=[x]'"),
        ("critic: {optimizer: 3}", "has critic.optimizer=3: give its keys, as in critic.optimizer.lr=1e-06"),
    ],
)
def test_a_wrong_type_in_a_recipe_is_explained_with_its_file(tmp_path, content, sentence):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(f"# @package _global_\n{content}\n")
    with pytest.raises(HydraException) as raised:
        compose("online", [f"hydra.searchpath=[{tmp_path}]", "experiment=mine"])
    assert explain(raised.value) == f"experiment/mine {sentence}"


def test_a_wrong_type_of_a_command_without_hydra_is_explained():
    @dataclass
    class Command:
        num_users: int = 3

    with pytest.raises(OmegaConfBaseException) as raised:
        from_words(["num_users=many"], Command)
    assert explain(raised.value) == "num_users=many: give a whole number, as in num_users=1"


def test_an_error_of_a_run_is_no_wrong_type():
    for error in (ValueError("3"), HydraException("no"), ConfigCompositionException("Could not delete from config.")):
        assert explain_type(error) is None


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "algorithm=foo",
            f"algorithm=foo: unknown; known are {', '.join(ONLINE_METHODS)}, and classes of your own: {FORM}",
        ),
        ("reward=foo", f"reward=foo: unknown; known are {', '.join(REWARDS)}"),
        ("data=foo", "data=foo: unknown; known are verl"),
        ("experiment=foo", f"experiment=foo: unknown; known are {', '.join(ONLINE_RECIPES)}"),
    ],
)
def test_unknown_choices_list_the_known_ones(override, expected):
    assert sentence(override) == expected


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.betas=[0.9]",
        "optimizer.betas=[0.9,1.0]",
        "optimizer.lr=nan",
        "optimizer.lr=-1",
        "optimizer.warmup_steps=-1",
        "checkpoint.keep=0",
        "checkpoint.every=-1",
        "stop_window=0",
        "validation.num_prompts=0",
        "validation.samples_per_prompt=0",
        "validation.every=0",
        "validation.patience=0",
        "validation.fraction=1.0",
        "validation.max_overlap=-0.1",
        "validation.pass_at=[1,5]",
        "checkpoint.final=best",
    ],
)
def test_values_out_of_range_are_refused(override):
    key = override.partition("=")[0].rpartition(".")[2]
    assert key in sentence(override)


@pytest.mark.parametrize("kept", ["0", "1"])
def test_how_entries_are_added_to_a_free_dictionary_is_told(monkeypatch, kept):
    """`OC_CAUSE=1`, or a debugger, makes OmegaConf keep the causes of its errors: some are each other's."""
    monkeypatch.setenv("OC_CAUSE", kept)
    value = "reward.options={length: {max_tokens: 1024}}"
    assert sentence(value) == f"reward.options: new entries take a plus sign, as in +{value}"


@pytest.mark.parametrize("override", ["backend.zero_stage=5", "backend.max_tokens_per_microbatch=1"])
def test_sentences_name_the_whole_key(override):
    assert sentence(override).startswith(override)
