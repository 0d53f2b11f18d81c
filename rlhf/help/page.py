"""Page of `--help`: the keys of a command with their documentation, and the choices that work with it."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlhf.help.choices import Choices, type_of
from rlhf.help.fields import Key, keys_of
from rlhf.key_names import unknown_key
from rlhf.types import InputError

CONF = Path(__file__).parents[2] / "conf"
RESOLVER = "help_page"
"""Name of the resolver: the primary configurations in `conf/` have `${help_page:}` in place of Hydra's text."""
MIN_WIDTH, MAX_WIDTH = 60, 120
SHOWING = ("--help", "-h", "--hydra-help", "--cfg", "-c", "--info", "-i")
"""Options with which a command only prints and exits."""
USAGE = """KEY=VALUE sets a key, +KEY.NAME=VALUE adds an entry to a dict. Below are all keys with their defaults,
and the choices; --help WORD shows only those whose name contains WORD. With a choice on the command line, as in
experiment=NAME, the values are those of the choice. --cfg job shows the configuration as YAML."""


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the words without the names that follow --help, and these names."""
    for i, word in enumerate(words):
        if word in ("--help", "-h"):
            after = range(i + 1, len(words))
            stop = next((j for j in after if words[j].startswith("-") or "=" in words[j]), len(words))
            return [*words[: i + 1], *words[stop:]], list(words[i + 1 : stop])
    return list(words), []


def asks_for_help(words: Sequence[str]) -> bool:
    return "--help" in words or "-h" in words


def shows(words: Sequence[str]) -> bool:
    """Return whether a command line makes Hydra only print and exit."""
    return any(word.partition("=")[0] in SHOWING for word in words)


def register_page(words: Sequence[str], searched: Sequence[str]) -> None:
    """Register the page as a resolver, which Hydra evaluates for a command line with --help."""

    def resolve(*, _root_: DictConfig) -> str:
        if not asks_for_help(words):
            return ""  # --cfg hydra --resolve
        loader = GlobalHydra.instance().config_loader()
        text = page([(loader, _root_.hydra.job.config_name, _root_)], searched)
        # Printed here already: OmegaConf would report an error of the resolver as its own.
        with until_reader_leaves():
            sys.stdout.write(text + "\n")
        # Hydra would next list the choices of every command, which takes seconds.
        sys.exit(0)

    OmegaConf.register_new_resolver(RESOLVER, resolve, replace=True)


def show_page(config_names: Sequence[str], searched: Sequence[str]) -> None:
    """Print the page of a command that is not a Hydra main and takes the keys of several primary configurations."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        parts = [(loader, name, loader.load_configuration(name, [], run_mode=RunMode.RUN)) for name in config_names]
        sys.stdout.write(page(parts, searched) + "\n")


@contextmanager
def until_reader_leaves() -> Iterator[None]:
    """Let a block print; if the reader closes the pipe, as `head` does, discard the rest."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def page(parts: Sequence[tuple[ConfigLoader, str, DictConfig]], searched: Sequence[str]) -> str:
    """Return all keys, then all choices; with words in `searched`, only those with one of the words in their names.

    Raises InputError if no name has one.
    """
    width = min(max(shutil.get_terminal_size((100, 24)).columns, MIN_WIDTH), MAX_WIDTH)
    every = [(Choices(loader, name), composed) for loader, name, composed in parts]
    lines = [line for choices, composed in every for line in key_lines(choices, composed, searched, width)]
    lines += [line for choices, composed in every for line in choice_lines(choices, composed, searched, width)]
    if searched and not lines:
        raise InputError(unknown_key(searched[0], every[-1][0].schema))
    about = (sys.modules["__main__"].__doc__ or "").strip().splitlines()
    head = [] if searched else [*(wrapped(line, width) for line in about), "", wrapped(USAGE, width)]
    return "\n".join([*head, *lines]).strip("\n")


def key_lines(choices: Choices, composed: DictConfig, searched: Sequence[str], width: int) -> Iterator[str]:
    """Yield the keys by section: keys without a section first, then sections with choices, then the others."""
    keys = [key for key in keys_of(choices.schema, composed) if is_meant(key.path, searched)]
    sections = list(dict.fromkeys(section_of(key) for key in keys))
    for section in sorted(sections, key=lambda name: (name != "", name not in choices.chosen)):
        own = [key for key in keys if section_of(key) == section and not (key.is_section and "." not in key.path)]
        about = next((key.sentence for key in keys if key.path == section), "") if section else "Keys of the command."
        yield from ("", wrapped(f"{(section or 'general').upper()}: {about}", width), "")
        for key in own:
            yield from shown(key, width)
        yield from added_keys(choices, section, composed, searched, width)


def section_of(key: Key) -> str:
    section, dot, _ = key.path.partition(".")
    return section if dot or key.is_section else ""


def added_keys(
    choices: Choices, section: str, composed: DictConfig, searched: Sequence[str], width: int
) -> Iterator[str]:
    """Yield the keys of a section's other choices, such as other algorithms, that the choice shown lacks or has with
    another default; none beside a class of the user's own, which has been chosen for good."""
    if section not in choices.chosen or choices.own_class(section, composed):
        return
    # Values on the page may come from a recipe, so defaults are compared with those of the class.
    shown_type = type_of(composed[section])
    known = set(keys_of(shown_type, OmegaConf.structured(shown_type), f"{section}."))
    for name in choices.fitting(section):
        node = choices.loaded(section, name).config
        if not isinstance(node, DictConfig) or OmegaConf.get_type(node) is dict:
            continue
        every = keys_of(type_of(node), node, f"{section}.")
        added = [key for key in every if is_meant(key.path, searched) and key not in known]
        if added:
            yield wrapped(f"with {section}={name}:", width, "  ")
        for key in added:
            yield from shown(key, width)


def choice_lines(choices: Choices, composed: DictConfig, searched: Sequence[str], width: int) -> Iterator[str]:
    """Yield the choices that work with the command, recipes first, and in each group a class of the user's own."""
    groups = [group for group in choices.chosen if is_meant(group, searched)]
    for group in sorted(groups, key=lambda group: not choices.is_recipe(group)):
        own = choices.own_class(group, composed)
        names = [*([own] if own else []), *choices.fitting(group)]
        about = "Recipes that work with this command." if choices.is_recipe(group) else "Choices that work with it."
        yield from ("", wrapped(f"{group}=NAME: {about}", width), "")
        for name in names:
            mark = "  (given)" if name == own else "  (default)" if choices.chosen[group] == name else ""
            yield f"  {group}={name}{mark}"
            if description := choices.description(group, name):
                yield wrapped(description, width, "      ")


def is_meant(path: str, searched: Sequence[str]) -> bool:
    return not searched or any(word in path for word in searched)


def shown(key: Key, width: int) -> Iterator[str]:
    if key.is_section:
        yield f"  {key.path}"
    else:
        value = "..." if key.default is None else key.default
        must = ", must be set" if key.default is None else ""
        yield wrapped(f"{key.path}={value}  ({key.type}{must})", width, "  ")
    yield wrapped(key.sentence, width, "      ")


def wrapped(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
