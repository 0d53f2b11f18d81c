"""The heads of critics and reward models compute in fp32, whatever the model's precision."""

import pytest
import torch

from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig
from rlhf.models.rope import RopeScalingConfig
from rlhf.models.tiny import build_tiny_model
from rlhf.runtimes.configs import BackendConfig, Precision
from rlhf.runtimes.loading import load_model, load_saved


@pytest.mark.parametrize("head", [Head.value, Head.score])
@pytest.mark.parametrize("lora", [None, LoRAConfig(rank=2)], ids=["whole", "adapter"])
def test_a_score_has_finer_steps_than_bf16(head, lora, tmp_path):
    build_tiny_model(tmp_path / "base", alphabet="0123456789")
    config = BackendConfig(precision=Precision.bf16)
    model = load_model(str(tmp_path / "base"), head, config, None, lora=lora, rope=RopeScalingConfig())
    check(model, head)
    if lora is None:
        model.save_pretrained(tmp_path / "saved")
        check(load_saved(tmp_path / "saved", head, config), head)


def check(model, head):
    (module,) = (each for each in model.modules() if is_head(each) and is_used(model, each))
    seen = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-3, 3, module.weight.numel()))
        logits = model(input_ids=torch.arange(3, 9)[None], use_cache=False).logits.flatten()
        hook.remove()
        expected = (seen[0].float() @ module.weight.float().T).flatten()
    assert module.weight.dtype == seen[0].dtype == torch.bfloat16
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected if head is Head.value else expected[-1:], atol=1e-6, rtol=1e-6)
    assert (logits != logits.bfloat16()).any()


def is_head(module):
    return type(module) is torch.nn.Linear and module.out_features == 1


def is_used(model, module):
    """An adapter's model has two heads, one of which is trained."""
    used = []
    hook = module.register_forward_hook(lambda *_: used.append(1))
    with torch.no_grad():
        model(input_ids=torch.arange(3, 9)[None], use_cache=False)
    hook.remove()
    return bool(used)
