"""An environment for the tests, used as a person would use their own file."""

from rlhf.environments.base import ChatSampler, act, start
from rlhf.types import Episode, Prompt, Sampling


class AsksAgain:
    """Episodes of two rows: the dialogue is rendered again for the second answer."""

    def __init__(self, question: str) -> None:
        self.question = question

    async def __call__(self, prompt: Prompt, sampler: ChatSampler, sampling: Sampling) -> Episode:
        first = await act(start(prompt), sampler, sampling)
        answered = [*prompt.messages, {"role": "assistant", "content": first.text}]
        dialogue = sampler.encode([*answered, {"role": "user", "content": self.question}])
        return Episode(rows=[first, await act(start(prompt, dialogue), sampler, sampling)])
