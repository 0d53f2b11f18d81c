"""No model loses what its attention asks for: the right implementation is chosen, or the wrong one refused."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf.models.attention import Attention, choose_attention
from rlhf.models.heads import Head
from rlhf.models.rope import RopeScalingConfig
from rlhf.runtimes.configs import BackendConfig, Precision
from rlhf.runtimes.loading import load_model, load_saved
from rlhf.types import InputError

SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["gemma2", "vaultgemma"])
def test_a_soft_cap_on_attention_is_computed_by_default_and_saved_models_too(kind, tmp_path):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES, query_pre_attn_scalar=16, attn_logit_softcapping=2.0)
    made = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # so that the cap is reached
        for name, parameter in made.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.mul_(40)
    made.save_pretrained(tmp_path)
    ids = torch.randint(3, 60, (1, 20))

    def ask(model: torch.nn.Module) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(input_ids=ids).logits

    expected, lost = (
        ask(AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=way)) for way in ("eager", "sdpa")
    )
    backend = BackendConfig(precision=Precision.fp32)
    path = str(tmp_path)
    loaded = ask(load_model(path, Head.causal_lm, backend, None, lora=None, rope=RopeScalingConfig()))
    assert (expected - lost).abs().max() > 1e-3
    torch.testing.assert_close(loaded, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(ask(load_saved(tmp_path, Head.causal_lm, backend)), expected, atol=1e-6, rtol=0)
    for way in (Attention.sdpa, Attention.varlen):
        asked = BackendConfig(precision=Precision.fp32, attention=way)
        with pytest.raises(InputError, match=rf"softcapping=2\.0.*{way} does not.*set backend\.attention=eager$"):
            load_model(path, Head.causal_lm, asked, None, lora=None, rope=RopeScalingConfig())


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [("qwen3", "varlen"), ("gemma3_text", "varlen"), ("gpt_oss", "eager"), ("gemma2", "eager"), ("falcon", "sdpa")],
)
def test_the_default_computes_all_that_a_model_asks(kind, chosen):
    assert choose_attention(None, AutoConfig.for_model(kind), Head.causal_lm, "m").value == chosen


def test_a_model_with_attention_code_of_its_own_gets_no_other():
    with pytest.raises(InputError, match=r"attention=varlen: model 'm' has its own attention code.*attention=sdpa$"):
        choose_attention(Attention.varlen, AutoConfig.for_model("falcon"), Head.causal_lm, "m")
