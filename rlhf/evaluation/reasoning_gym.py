"""Fresh items of reasoning-gym (Stojanovski et al. 2025), an optional package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rlhf.types import InputError


def make_reasoning_gym_rows(
    task: str, *, size: int = 200, seed: int = 1, **options: Any
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `size` rows `{"id", "prompt", "answer", "task"}` of a task by its name, such as `chain_sum`.

    `options` are the task's own. Equal seeds give equal rows. Raises InputError if the package is missing, for an
    unknown task or option, and for a task whose items have no single right answer.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise InputError(
            f"path=reasoning_gym:{task}: reasoning-gym is not installed ({error}): pip install 'rlhf[reasoning-gym]', "
            "or use procedural:arithmetic"
        ) from error
    try:
        entries = reasoning_gym.create_dataset(task, size=size, seed=seed, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(
            f"path=reasoning_gym:{task}, source_options size={size}, seed={seed}, {options}: reasoning-gym refuses "
            f"them ({error}): correct the task's name or its options"
        ) from error
    for number, entry in enumerate(entries):
        where = f"reasoning_gym:{task}:{number}"
        if entry["answer"] is None:
            raise InputError(f"{where}: the item has no single right answer: use another task")
        row = {"id": f"{task}-{seed}-{number}", "prompt": entry["question"], "answer": entry["answer"], "task": task}
        yield where, row
