"""BERTScore on a tiny encoder with fixed weights, against bert-score's values and the equations."""

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizer

from rlhf.evaluation.metrics.bert_score import BertScore, Part
from rlhf.types import InputError
from tests.unit.evaluation.metrics.examples import figure, referenced, texts

VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "on", "mat", "is", "here", "a", "##s",
    *"今天气很好不错",
]  # fmt: skip
HYPOTHESES = ["the cat sat on the mat", "a dog is here", "今天天气很好", "cats"]
REFERENCES = [
    ["the dog sat on a mat"],
    ["the cat is here", "a cat sat here"],
    ["今天气不错"],
    ["the cat sat on the mat"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("encoder")
    write_encoder(path)
    return path


def write_encoder(path):
    (path / "vocab.txt").write_text("\n".join(VOCABULARY))
    BertTokenizer(str(path / "vocab.txt"), model_max_length=16).save_pretrained(path)
    config = BertConfig(vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=16)  # fmt: skip
    model = BertModel(config)
    # Weights without a random generator, whose numbers may change between versions of torch.
    with torch.no_grad():
        for index, (_, weight) in enumerate(sorted(model.named_parameters())):
            if weight.dim() == 2:
                steps = torch.arange(weight.numel(), dtype=torch.float64).reshape(weight.shape)
                weight.copy_(torch.sin(steps**1.3 * (1.7 + 0.13 * index)) * 0.4)
    model.save_pretrained(path)


# bert-score 0.3.13: precision, recall and F1 by number of layers and idf.
PUBLISHED = {
    (1, False): (
        [0.960146, 0.744866, 0.898108, 0.804820],
        [0.835127, 0.907722, 0.909536, 0.870000],
        [0.893284, 0.818270, 0.903786, 0.836142],
    ),
    (2, False): (
        [0.922857, 0.839106, 0.944575, 0.923913],
        [0.879943, 0.951738, 0.960595, 0.888131],
        [0.900889, 0.891880, 0.952517, 0.905669],
    ),
    (2, True): (
        [0.924042, 0.818835, 0.943118, 0.904264],
        [0.849264, 0.955461, 0.960595, 0.878793],
        [0.885076, 0.881888, 0.951776, 0.891347],
    ),
}


@pytest.mark.parametrize(("layer", "idf"), [(1, False), (2, False), (2, True)])
def test_values_equal_bert_score(folder, layer, idf):
    items, answers = referenced(*REFERENCES), texts(*HYPOTHESES)
    for part, expected in zip(Part, PUBLISHED[layer, idf], strict=True):
        metric = BertScore(model=str(folder), layer=layer, idf=idf, part=part, batch_size=2)
        np.testing.assert_allclose(metric.values(items, answers), expected, atol=2e-5)
        assert figure(metric, items, answers) == pytest.approx(np.mean(expected), abs=2e-5)


def test_values_equal_the_equations_token_by_token(folder):
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def vectors(text):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return [state / state.norm() for state in states]

    answer, reference = vectors("the cat sat"), vectors("a dog sat here")
    precision = np.mean([max(float(x @ y) for y in reference) for x in answer[1:-1]])
    recall = np.mean([max(float(x @ y) for x in answer) for y in reference[1:-1]])
    expected = 2 * precision * recall / (precision + recall)
    assert figure(BertScore(model=str(folder)), referenced(["a dog sat here"]), texts("the cat sat")) == pytest.approx(
        expected, abs=1e-5
    )


def test_equal_texts_are_one_and_empty_ones_zero(folder):
    items, answers = referenced(["the cat"], ["the cat"], [""]), texts("the cat", "", "the cat")
    np.testing.assert_allclose(BertScore(model=str(folder)).values(items, answers), [1, 0, 0], atol=1e-6)


def test_neither_batches_nor_lengths_change_a_value(folder):
    items, answers = referenced(*REFERENCES, ["the cat " * 40]), texts(*HYPOTHESES, "dog " * 40)
    one, many = (BertScore(model=str(folder), batch_size=size).values(items, answers) for size in (1, 8))
    np.testing.assert_allclose(one, many, atol=1e-6)


def test_mistakes_are_named(folder, tmp_path):
    items, answers = referenced(["a"]), texts("a")
    with pytest.raises(InputError, match="model=/nowhere, which is no folder"):
        BertScore(model="/nowhere").values(items, answers)
    with pytest.raises(InputError, match="BERTScore cannot load model="):
        BertScore(model=str(tmp_path)).values(items, answers)
    with pytest.raises(InputError, match=r"layer=3, and .* has 2 layers: give 0 to 2"):
        BertScore(model=str(folder), layer=3).values(items, answers)
    with pytest.raises(InputError, match="batch_size of BERTScore is 0"):
        BertScore(model=str(folder), batch_size=0)
