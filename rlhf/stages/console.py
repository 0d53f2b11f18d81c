"""Tables shown at the start of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rlhf.actors.plan import Plan
from rlhf.data.quarantine import Quarantine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Without emoji: texts of models and paths are shown as they are, `:calendar:` too.
CONSOLE = Console(highlight=False, emoji=False)
MAX_NAMES = 20


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    # Wraps cells instead of truncating them, so that a narrow terminal shows the whole text.
    table = Table(*(Column(column, overflow="fold") for column in columns), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    CONSOLE.print(table)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def show_plan(plan: Plan) -> None:
    rows: list[tuple[object, ...]] = []
    for group in plan.groups:
        for role in group.roles:
            others = ", ".join(other.role for other in group.roles if other != role) or "no one"
            rows.append((role.role, role.num_workers, role.accelerators_per_worker, role.num_accelerators, others))
    rows.append(("all", plan.num_workers, "", plan.num_accelerators, ""))
    show_table("Placement", ("role", "workers", "accelerators each", "accelerators", "shared with"), rows)


def show_left_out(quarantine: Quarantine) -> None:
    """Show the number of rejected rows by defect, and the unread fields of each file."""
    if quarantine.rejects:
        counts = ", ".join(f"{what} {count}" for what, count in quarantine.summary().items())
        CONSOLE.print(f"{len(quarantine.rejects)} bad rows are left out: {counts}")
    for path, names in quarantine.unread.items():
        CONSOLE.print(f"{path} has fields that nothing reads: {', '.join(names)}", markup=False, soft_wrap=True)


def show_special_tokens(
    tokenizer: PreTrainedTokenizerBase, stop_token_ids: Sequence[int], banned_token_ids: Sequence[int] = ()
) -> None:
    """Show the tokens that end an answer, and those that are never sampled."""
    CONSOLE.print(f"an answer ends with: {names_of(tokenizer, stop_token_ids)}", markup=False, soft_wrap=True)
    if banned_token_ids:
        CONSOLE.print(f"never sampled: {names_of(tokenizer, banned_token_ids)}", markup=False, soft_wrap=True)


def names_of(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int]) -> str:
    """Name token ids, as in `<pad>, <|im_start|> and 271 ids without a token`."""
    names = [name for name in tokenizer.convert_ids_to_tokens(list(token_ids)) if name]
    shown, nameless = names[:MAX_NAMES], len(token_ids) - len(names)
    others = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    others += [f"{nameless} ids without a token"] if nameless else []
    return " and ".join([", ".join(shown), *others] if shown else others)


def show_loss_masks(tokenizer: PreTrainedTokenizerBase, rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> None:
    """Show rows as tokens, the learnt ones in green."""
    for token_ids, mask in rows:
        pieces = [
            f"[green]{escape(text)}[/green]" if learnt else escape(text)
            for text, learnt in zip(tokenizer.convert_ids_to_tokens(token_ids.tolist()), mask, strict=True)
        ]
        CONSOLE.print(f"{len(token_ids)} tokens, {int(mask.sum())} learnt: " + "·".join(pieces))
