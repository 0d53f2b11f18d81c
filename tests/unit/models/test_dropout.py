"""Loaded models are trained without dropout, adapters with their own."""

import copy

import torch
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from rlhf.models.adapters import attach_adapter
from rlhf.models.dropout import disable_dropout
from rlhf.models.heads import Head
from rlhf.models.lora import LoRAConfig

IDS = torch.arange(3, 15).unsqueeze(0)


def tiny_bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=1
    )
    return BertForSequenceClassification(config).train()


def tiny_llama(attention_dropout: float) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        attention_dropout=attention_dropout,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def test_an_encoder_in_training_says_the_same_twice() -> None:
    model = tiny_bert()
    assert not torch.equal(model(IDS).logits, model(IDS).logits)
    config = copy.deepcopy(model.config.to_dict())
    disable_dropout(model)
    assert torch.equal(model(IDS).logits, model(IDS).logits)
    assert torch.equal(model(IDS).logits, model.eval()(IDS).logits)
    assert model.config.to_dict() == config
    assert config["hidden_dropout_prob"] == 0.1


def test_dropout_that_functions_are_passed_is_off_too() -> None:
    model = tiny_llama(attention_dropout=0.5)
    assert not torch.equal(model(IDS).logits, model(IDS).logits)
    disable_dropout(model)
    assert torch.equal(model(IDS).logits, model(IDS).logits)


def test_an_adapter_keeps_its_dropout() -> None:
    model = tiny_bert()
    disable_dropout(model)
    adapted = attach_adapter(model, LoRAConfig(rank=2, dropout=0.5), Head.score).train()
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    assert not torch.equal(adapted(IDS).logits, adapted(IDS).logits)
    adapted.eval()
    assert torch.equal(adapted(IDS).logits, adapted(IDS).logits)
