"""Client of the release API over HTTP; the command is `launch/release.py`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from omegaconf import MISSING

from rlhf.config import from_words
from rlhf.types import InputError, RunError
from serve.statistics.welch import users_per_arm

LONGEST_START_S = 7200.0
"""Longest start of a candidate: its files are read, then its engines start within `replicas.start_s`."""


@dataclass(kw_only=True, slots=True)
class ClientConfig:
    """Address and credentials of the service."""

    url: str = "http://127.0.0.1:8000"
    """Address of the service."""
    key: str = "outputs/serve/operator.key"
    """File with an operator's API key."""
    reason: str = ""
    """Reason for the audit trail."""


@dataclass(kw_only=True, slots=True)
class StartConfig(ClientConfig):
    """Start of a release: `launch/release.py start`."""

    name: str = MISSING
    """Name of the candidate."""
    folder: str = MISSING
    """Folder of the candidate, as the service sees it."""


@dataclass(kw_only=True, slots=True)
class PowerConfig:
    """Users that the fixed-horizon test needs: `launch/release.py power`."""

    sd: float = MISSING
    """Standard deviation of a user's value; sqrt(p * (1 - p)) if a share p of the values is 1 and the others are 0."""
    effect: float = MISSING
    """Difference of means to detect, in the same unit."""
    alpha: float = 0.05
    """Probability of a false detection: `release.false_promotions`."""
    power: float = 0.8
    """Probability of detecting the difference."""
    share: float = 0.5
    """Share of users who see the candidate."""


COMMANDS: dict[str, type[Any]] = {
    "start": StartConfig,
    "status": ClientConfig,
    "promote": ClientConfig,
    "rollback": ClientConfig,
    "power": PowerConfig,
}


def run(words: list[str]) -> None:
    """Run one of `COMMANDS` with its keys, and print the answer. Raises InputError and RunError as `ask` does."""
    if not words or words[0] not in COMMANDS:
        raise InputError(f"say what to do, one of {', '.join(COMMANDS)}: python launch/release.py status")
    command = words[0]
    config = from_words(words[1:], COMMANDS[command])
    if isinstance(config, PowerConfig):
        needed = users_per_arm(
            sd=config.sd, effect=config.effect, alpha=config.alpha, power=config.power, share=config.share
        )
        sys.stdout.write(
            f"{needed} users in the smaller arm: release.goal.test=fixed release.goal.users_per_arm={needed}\n"
        )
        return
    sys.stdout.write(describe(ask(command, config)))


def ask(command: str, config: ClientConfig) -> dict[str, Any]:
    """Return the service's answer. Raises InputError for wrong input, RunError if the service does not answer."""
    try:
        key = Path(config.key).expanduser().read_text().strip()
    except OSError as error:
        raise InputError(f"key={config.key}: {error.strerror}; name the file with an operator's key") from None
    body = {"reason": config.reason}
    if isinstance(config, StartConfig):
        body |= {"name": config.name, "folder": str(Path(config.folder).expanduser().resolve())}
    method, path = ("GET", "/release") if command == "status" else ("POST", f"/release/{command}")
    try:
        answer = httpx.request(
            method,
            config.url.rstrip("/") + path,
            headers={"authorization": f"Bearer {key}"},
            json=None if command == "status" else body,
            timeout=LONGEST_START_S,
        )
    except httpx.HTTPError as error:
        raise RunError(f"url={config.url}: the service does not answer ({error}); start it with make serve") from None
    try:
        found: dict[str, Any] = answer.json()
        problem = found["error"]["message"] if answer.is_error else None
    except (ValueError, TypeError, KeyError):
        raise RunError(f"url={config.url}: status {answer.status_code} from a server that is not the service") from None
    if problem is not None:
        raise RunError(problem) if answer.is_server_error else InputError(problem)
    return found


def describe(status: dict[str, Any]) -> str:
    """Format production, the release with its audit trail, and the last look, for readers."""
    lines = [f"in production: {status['production']}"]
    if starting := status.get("starting"):
        state = "is being cancelled" if starting["cancelled_by"] else "starts; a rollback cancels it"
        lines.append(f"candidate {starting['name']} {state} (for {starting['seconds']:g} s)")
    if release := status["release"]:
        lines.append(f"{release['id']}: {release['candidate']} against {release['predecessor']}: {release['state']}")
        for entry in release["transitions"]:
            lines.append(
                f"  {entry['at']:.1f} {entry['before'] or '-'} -> {entry['after']} by {entry['by']}: {entry['reason']}"
            )
    if look := status.get("look"):
        lines.append(f"last look: {look['outcome']}: {'; '.join(look['reasons']) or 'nothing against it'}")
        lines.append(json.dumps(look["evidence"], indent=1, ensure_ascii=False))
    return "\n".join(lines) + "\n"
