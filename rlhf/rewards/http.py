"""Score of a reward server, with the protocol of OpenRLHF's remote reward models."""

from __future__ import annotations

import math
from pathlib import Path

import requests
from tokenizers import Tokenizer

from rlhf.causes import first_words, root_cause
from rlhf.paths import is_http
from rlhf.types import Failure, InputError, Prompt, Rollout


class HttpReward:
    """The number that a server returns, with one request per rollout and one connection per reward process.

    `POST {"query": [...], "prompts": [...], "labels": [...]}`, each a list of one: prompt and completion as text with
    all special tokens, the prompt alone, and the row's answer ("" without one). The answer is `{"rewards": [number]}`;
    other entries (`scores`, `extra_logs`) are not read. The form is that of OpenRLHF's `SingleTurnAgentExecutor`
    (openrlhf/utils/agent.py at 3c3be62, `_fetch_rewards_via_http`), which its openrlhf/cli/serve_rm.py serves.

    A server that cannot answer (down, or a status other than 200) gives `reward_error`, which is retried; an answer in
    another form, or NaN or null, gives `reward_invalid`. A slow answer exceeds `reward.timeout_s`.
    """

    def __init__(self, *, url: str, tokenizer: str) -> None:
        """`tokenizer` is the folder of the policy's model. Raises InputError."""
        file = Path(tokenizer, "tokenizer.json")
        if not is_http(url):
            raise InputError(f"reward.options.http.url={url}: give an address such as http://host:5000/get_reward")
        if not file.is_file():
            raise InputError(f"reward.options.http.tokenizer={tokenizer}: there is no {file}; give the model's folder")
        self.url = url
        self.tokenizer = Tokenizer.from_file(str(file))
        self.session = requests.Session()
        # A reward server is local: proxies and passwords of the environment are ignored, as in OpenRLHF.
        self.session.trust_env = False

    def __call__(self, prompt: Prompt, rollout: Rollout) -> float | Failure:
        body = {
            "query": [self.text(rollout.token_ids.tolist())],
            "prompts": [self.text(prompt.token_ids)],
            "labels": [prompt.meta.get("answer", "")],
        }
        try:
            response = self.session.post(self.url, json=body)
        except requests.RequestException as error:
            problem = f"cannot be reached ({root_cause(error)}): start the server, or correct reward.options.http.url"
            return Failure(kind="reward_error", message=f"{self.url} {problem}")
        if response.status_code != requests.codes.ok:
            problem = f"answered status {response.status_code} ({first_words(response.text)}): look at the server's log"
            return Failure(kind="reward_error", message=f"{self.url} {problem}")
        return self.read(response)

    def read(self, response: requests.Response) -> float | Failure:
        try:
            answer = response.json()
        except requests.JSONDecodeError:
            answer = None
        match answer:
            case {"rewards": [int() | float() as value]} if math.isfinite(value):
                return value
        problem = f'answered {first_words(response.text)}: it must be {{"rewards": [number]}}, one finite number'
        return Failure(kind="reward_invalid", message=f"{self.url} {problem}")

    def text(self, token_ids: list[int] | tuple[int, ...]) -> str:
        return self.tokenizer.decode(list(token_ids), skip_special_tokens=False)
