"""Members of a sweep from overrides with several values, in Hydra's grammar."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence

from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from rlhf.sweeps.record import Member
from rlhf.types import InputError

UNSAFE = re.compile(r"[^\w.+-]", re.ASCII)
MAX_NAME = 120
"""File systems take 255 bytes; Ray makes file names of a member's name and more."""


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides. Hydra must be initialised, since `glob(*)` reads the existing choices."""
    return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader()).parse_overrides(list(overrides))


def grid(overrides: Mapping[str, Override]) -> list[Member]:
    """Return the members of a sweep, each with the overrides that Hydra's basic sweeper gives it.

    Raises InputError if nothing is swept, or a key that cannot be swept.
    """
    swept = swept_keys(overrides)
    choices = [values_of(overrides[key]) for key in swept]
    return [member_of(overrides, dict(zip(swept, values, strict=True))) for values in itertools.product(*choices)]


def by_key(overrides: Sequence[Override]) -> dict[str, Override]:
    """Return overrides by key; the last one of a key counts, as in Hydra."""
    return {override.get_key_element(): override for override in overrides}


def swept_keys(overrides: Mapping[str, Override]) -> list[str]:
    """Return the keys with several values. Raises InputError if there is none, or one that cannot be swept."""
    swept = [key for key, override in overrides.items() if override.is_sweep_override()]
    if not swept:
        raise InputError("nothing is swept: give a key several values, as in algorithm.clip_low=0.1,0.2")
    if "output" in swept:
        raise InputError("output: it cannot be swept; name one folder, in which every member gets its own")
    return swept


def member_of(overrides: Mapping[str, Override], swept: Mapping[str, str]) -> Member:
    """Return the member with these values of the swept keys."""
    values = {key: override.get_value_element_as_str() for key, override in overrides.items() if key not in swept}
    words = tuple(f"{key}={swept[key] if key in swept else values[key]}" for key in overrides)
    return Member(name=member_name(swept), swept=swept, overrides=words)


def values_of(override: Override) -> list[str]:
    """Return the values of a swept key as texts."""
    if not override.is_discrete_sweep():
        raise InputError(
            f"{override.input_line}: an interval has too many values; use choice(...) or range(...), or search it with "
            "launch/sweep.py and sweep.search=true"
        )
    return list(override.sweep_string_iterator())


def member_name(swept: Mapping[str, str]) -> str:
    """Return a folder name made from the swept values: `algorithm.clip_low-0.1__algorithm.kl_coef-0.0`.

    The name does not depend on the order, and has no characters that are special to a shell, Hydra, a URL or a file
    system; if some were replaced, a hash distinguishes members.
    """
    exact = "__".join(f"{key}-{swept[key]}" for key in sorted(swept))
    name = UNSAFE.sub("-", exact).strip("-")
    if name == exact and len(name) <= MAX_NAME:
        return name
    return f"{name[:MAX_NAME]}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
