"""Perplexity of text over a fake backend: the same however rows are packed and shared out, and nothing is learnt."""

import math

import numpy as np
import pytest

from rlhf.models.causal_lm import SamplingDistribution, TokenReadout
from rlhf.train.batching import Packing
from rlhf.train.learner import Learner
from rlhf.train.perplexity import perplexities, text_batch
from rlhf.train.stats import Stats, merge
from rlhf.types import Batch, Reference, TrainingRow, Unit
from tests.unit.train.fakes import VOCAB, FakeBackend, TinyModel, row_logprobs


def units_of(seed: int, lengths: list[int]) -> list[Unit]:
    generator = np.random.default_rng(seed)
    ids = [generator.integers(0, VOCAB, length).astype(np.int32) for length in lengths]
    return [(TrainingRow(token_ids=each, loss_mask=np.arange(len(each)) > 0),) for each in ids]


class Policy:
    """All ranks of a policy in one process."""

    def __init__(self, num_ranks: int, packed: bool, model: TinyModel) -> None:
        readout = TokenReadout(SamplingDistribution())
        self.learners = [Learner(FakeBackend(rank, num_ranks, model), readout, packed) for rank in range(num_ranks)]

    async def evaluate(self, batch: Batch, loss: object) -> Stats:
        return merge([each.evaluate(each.shard(batch, loss), loss) for each in self.learners])


@pytest.mark.parametrize(("num_ranks", "packed", "max_tokens"),
                         [(1, True, 1000), (1, False, 40), (2, True, 40), (2, False, 60), (3, True, 25)])  # fmt: skip
async def test_it_is_the_likelihood_of_all_predicted_tokens(num_ranks, packed, max_tokens):
    texts = {"wiki": units_of(0, [9, 2, 20, 5, 17, 3]), "code": units_of(1, [4])}
    packing = Packing(max_tokens=max_tokens, packed=packed, num_ranks=num_ranks)
    model = TinyModel()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    policy = Policy(num_ranks, packed, model)
    batches = {name: text_batch(units, packing, Reference) for name, units in texts.items()}
    figures = await perplexities(policy, batches)
    for name, units in texts.items():
        logprobs = [each.item() for (row,) in units for each in row_logprobs(model.double(), row.token_ids, 1.0)]
        nats = -sum(logprobs) / len(logprobs)
        assert figures[f"nats_per_token/{name}"] == pytest.approx(nats, rel=1e-6)
        assert figures[f"perplexity/{name}"] == pytest.approx(math.exp(nats), rel=1e-5)
        model.float()
    for learner in policy.learners:
        assert not learner.backend.gradients
        assert not learner.backend.lasts
    assert all((now == then).all() for now, then in zip(model.parameters(), before, strict=True))
    assert len({len(learner.backend.forwards) for learner in policy.learners}) == 1, "ranks make the same calls"


async def test_a_policy_that_gives_text_no_probability_has_a_finite_perplexity():
    class Collapsed:
        async def evaluate(self, batch: Batch, loss: object) -> Stats:
            return Stats(sums={"loss": (5000.0, 1.0)})

    batch = text_batch(units_of(2, [5]), Packing(max_tokens=9, packed=True, num_ranks=1), Reference)
    figures = await perplexities(Collapsed(), {"wiki": batch})
    assert figures["nats_per_token/wiki"] == 5000.0
    assert math.isfinite(figures["perplexity/wiki"])
