"""Architectures that stand for their kinds: a layout of rows is exact or not chosen, a saved folder is the model."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_architectures import TINY, VOCABULARY, build, scramble
from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.models.heads import Head
from rlhf.models.score_model import ScoreReadout
from rlhf.models.value_model import ValueReadout
from rlhf.runtimes.configs import BackendConfig, Precision
from rlhf.train.layout import Exactness, choose_layout, measure_exactness
from rlhf.train.verify import verify_saved
from rlhf.types import InputError, RunError

FP32 = BackendConfig(precision=Precision.fp32, zero_stage=1)
BF16 = replace(FP32, precision=Precision.bf16)
READOUT = TokenReadout(SamplingDistribution())
PROBE = list(range(3, 40))
PACKED = {
    "llama": True, "qwen3": True, "gemma2": True, "gemma3": True, "gemma4": True, "mistral": True, "gpt2": True,
    "apertus": True, "opt": False, "qwen3.5": False,
}  # fmt: skip
"""Whether rows may lie end to end: OPT counts positions itself, Qwen 3.5 has linear attention."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("architectures")
    for name in PACKED:
        build(root / name, *TINY[name])
    return {name: str(root / name) for name in PACKED}


@pytest.fixture(scope="module")
def backend_of(one_rank: None) -> Callable[..., Any]:
    """Makes a backend without an optimiser."""
    from rlhf.runtimes.deepspeed_backend import DeepSpeedBackend

    return lambda folder, config, head=Head.causal_lm, lora=None: DeepSpeedBackend(folder, config, None, head, lora)


@pytest.mark.parametrize("config", [FP32, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", PACKED)
def test_rows_lie_end_to_end_where_that_is_exact(
    folders: dict[str, str], backend_of: Callable[..., Any], name: str, config: BackendConfig
) -> None:
    measured = measure_exactness(backend_of(folders[name], config), READOUT, VOCABULARY)
    models = {"policy": (folders[name], measured)}
    layout = choose_layout(config, models)
    assert layout.packed == PACKED[name]
    assert choose_layout(replace(config, packed=False), models).packed is False
    if layout.packed:
        assert measured.leak == 0
        assert choose_layout(replace(config, packed=True), models).packed
    else:
        assert f"rows are padded: model {folders[name]!r} (policy) has other outputs for packed rows" in layout.notes[0]
        with pytest.raises(InputError, match=r"backend.packed=true: model .*; set backend.packed=false, or null"):
            choose_layout(replace(config, packed=True), models)


@pytest.mark.parametrize(
    ("name", "packed", "head", "readout"),
    [
        ("llama", True, Head.value, ValueReadout()),
        ("llama", True, Head.score, ScoreReadout()),
        ("qwen3.5", False, Head.score, ScoreReadout()),
    ],
)
def test_a_head_that_says_0_of_every_row_hides_nothing(
    folders: dict[str, str], backend_of: Callable[..., Any], name: str, packed: bool, head: Head, readout: Any
) -> None:
    measured = measure_exactness(backend_of(folders[name], FP32, head), readout, VOCABULARY)
    assert measured.packed_is_exact(Precision.fp32) is packed


def test_a_head_whose_logits_only_the_model_shapes_is_said(backend_of: Callable[..., Any], tmp_path: Path) -> None:
    build(tmp_path, *TINY["minicpm3"])
    measured = measure_exactness(backend_of(str(tmp_path), FP32), READOUT, VOCABULARY)
    (note,) = choose_layout(FP32, {"policy": (str(tmp_path), measured)}).notes
    assert note.startswith(f"model {str(tmp_path)!r} (policy): all logits of a micro-batch are computed at once")


def test_one_layout_serves_all_models_of_a_run() -> None:
    exact, leaky = Exactness(padded=1e-7, packed=1e-7, leak=0.0), Exactness(padded=1e-7, packed=1e-7, leak=1e-3)
    layout = choose_layout(FP32, {"policy": ("a", exact), "critic": ("b", leaky)})
    assert layout.packed is False
    assert "'b' (critic)" in layout.notes[0]
    torn = Exactness(padded=0.2, packed=1e-7, leak=0.0)
    with pytest.raises(
        InputError, match=r"outputs of padded rows differ from those of single rows .*such as Qwen3 or Llama"
    ):
        choose_layout(FP32, {"policy": ("a", torn)})


@pytest.mark.parametrize("name", PACKED)
def test_a_saved_folder_is_the_model(
    folders: dict[str, str], backend_of: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    backend = backend_of(folders[name], FP32)
    scramble(backend.model, seed=7)
    backend.save_pretrained(tmp_path)
    verified = verify_saved(tmp_path, backend, READOUT, PROBE)
    assert verified.tokens == 32
    assert verified.max_difference < 1e-5
    assert {name for bucket in backend.weights(1 << 30) for name in bucket.names} == set(backend.tensors())


def test_a_folder_that_is_another_model_is_not_committed(
    folders: dict[str, str], backend_of: Callable[..., Any], tmp_path: Path
) -> None:
    backend = backend_of(folders["gemma4"], FP32)
    backend.save_pretrained(tmp_path)
    for name, buffer in backend.model.named_buffers():
        if name.endswith("layer_scalar"):
            buffer.mul_(0.5)
    with pytest.raises(RunError, match="the saved model differs from the trained one"):
        verify_saved(tmp_path, backend, READOUT, PROBE)
