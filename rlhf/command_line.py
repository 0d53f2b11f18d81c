"""Errors of a command: one sentence, and an exit code by kind of error."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from traceback import walk_tb
from typing import ParamSpec

from hydra.errors import HydraException, OverrideParseException
from omegaconf import MissingMandatoryValue
from omegaconf.errors import OmegaConfBaseException

from rlhf.causes import causes
from rlhf.config import all_schemas
from rlhf.config_classes import FORM, OPEN_GROUPS
from rlhf.help.choices import choices_at
from rlhf.help.page import asks_for_help, register_page, show_page, shows, split_words, until_reader_leaves
from rlhf.help.wrong_types import explain_type
from rlhf.key_names import unknown_key
from rlhf.overrides import hydra_arguments
from rlhf.train.disk import why_not_written
from rlhf.types import InputError, RunError, Stopped

SCRIPTS = Path(__file__).resolve().parents[1] / "launch"

P = ParamSpec("P")


def command_line(main: Callable[[], None], *, hydra: bool = False, configs: Sequence[str] = ()) -> None:
    """Run a script's main function, with or without Hydra; an error ends in one sentence and an exit code.

    0: done, 2: the input is wrong, 4: the run cannot continue, 130 or 143: stopped by Ctrl-C or SIGTERM. `configs` are
    the primary configurations whose keys a main without Hydra takes; `--help` shows them.
    """
    drop_scripts_folder()
    # Lets Hydra raise errors instead of printing several lines.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    in_one_sentence(functools.partial(run_hydra, main) if hydra else functools.partial(run_plain, main, configs))()


def drop_scripts_folder() -> None:
    """Remove `launch/`, which Python puts first, from the import path, here and in Ray's workers, which inherit it:
    launch/serve.py would hide the package `serve`."""
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != SCRIPTS]


def run_hydra(main: Callable[[], None]) -> None:
    words, searched = split_words(sys.argv[1:])
    sys.argv[1:] = hydra_arguments(words)
    register_page(words, searched)
    with until_reader_leaves() if shows(words) else nullcontext():
        main()


def run_plain(main: Callable[[], None], configs: Sequence[str]) -> None:
    words, searched = split_words(sys.argv[1:])
    if not asks_for_help(words):
        main()
    elif configs:
        with until_reader_leaves():
            show_page(configs, searched)
    else:
        sys.stdout.write(f"{(sys.modules['__main__'].__doc__ or '').strip()}\n")


def in_one_sentence(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a function so that an error that a person can fix exits with one sentence and an exit code.

    Also used between `hydra.main` and its function: Hydra prints an extra line for an exception, but not for a
    SystemExit.
    """

    @functools.wraps(function)
    def run(*arguments: P.args, **keywords: P.kwargs) -> None:
        try:
            function(*arguments, **keywords)
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(refuse(explain(error), 2))
        except InputError as error:
            sys.exit(refuse(str(error), 2))
        except (ValueError, TypeError, IndexError) as error:
            if (sentence := explain_passed_on(error)) is None:
                raise
            sys.exit(refuse(sentence, 2))
        except RunError as error:
            sys.exit(refuse(str(error), 4))
        except OSError as error:
            problem = why_not_written(Path(error.filename or Path.cwd()), error)
            if problem is None:
                raise
            sys.exit(refuse(str(problem), 4))
        except Stopped as stopped:
            sys.stderr.write(f"stopped: {stopped}\n")
            sys.exit(stopped.exit_code)
        except KeyboardInterrupt:
            sys.stderr.write("quit: nothing more was saved; a run continues from its newest checkpoint, if any\n")
            sys.exit(128 + signal.SIGINT)

    return run


def refuse(sentence: str, code: int) -> int:
    sys.stderr.write(f"error: {sentence}\n")
    return code


def explain(error: BaseException) -> str:
    """Explain a composition error in one sentence."""
    # Hydra appends the search path to the error about an unknown choice, which does not help.
    text = " ".join(f"{error} {error.__cause__ or ''}".partition("Config search path:")[0].split())
    if (mistake := mistake_behind(error)) is not None:
        return str(mistake)
    if isinstance(error, MissingMandatoryValue):
        key = getattr(error, "full_key", None) or text
        return f"{key}: it must be set, as in {key}=..."
    if isinstance(error, OverrideParseException):
        return explain_word(error.override, text)
    if text.startswith("Ambiguous value for argument"):
        word = re.findall(r"'(.*)' 1\. ", text)[0]
        key, _, value = word.partition("=")
        return (
            f"{word}: several values are a sweep, which takes --multirun; a text with a comma is quoted, as in "
            f"\"{key}='{value}'\", a list in brackets, as in '{key}=[{value}]'"
        )
    if (sentence := explain_type(error) or explain_choice(error, text)) is not None:
        return sentence
    if match := re.search(r"(?:Could not override '|Error merging override ).*?not in '(\w+)' full_key: (\S+)", text):
        schema = next((s for s in all_schemas() if s.__name__ == match[1]), None)
        return unknown_key(match[2], schema)
    if match := re.search(r"Could not override '([^']+)'\. To append to your config use (\+.*?) Key '", text):
        return f"{match[1]}: new entries take a plus sign, as in {match[2]}"
    if match := re.search(r"Could not create instance of `\w+`: (.*) full_key: (\S+)", text):
        return f"{match[2]}: its values cannot be used ({match[1]}): correct them"
    if match := re.search(r"Error merging override (~\S+) .*does not support deletion", text):
        return f"{match[1]}: a key cannot be removed; set it, as in {match[1][1:]}=..."
    if match := re.search(r"Could not (?:find|load) '([^']+)/([^'/]+)'", text):
        choices = choices_at(error)
        known = choices.fitting(match[1]) if choices else []
        own = f", and classes of your own: {FORM}" if match[1] in OPEN_GROUPS else ""
        return f"{match[1]}={match[2]}: unknown; known are {', '.join(known)}{own}"
    if match := re.search(r"Error merging override (.*) full_key: (\S+)", text):
        return f"{match[2]}: {match[1]}"
    if match := re.fullmatch(r"(.*?) full_key: (\S+) .*", text):
        return f"{match[2]}: {match[1]}"
    return text


def mistake_behind(error: BaseException) -> InputError | None:
    """Return the InputError that a resolver raised, from within OmegaConf's own errors."""
    return next((cause for cause in causes(error) if isinstance(cause, InputError)), None)


def explain_passed_on(error: BaseException) -> str | None:
    """Explain an error of Python's that Hydra passes on as it is, such as that of `group=null`, or of `key.x=1` where
    `key` is a list; None for any other error."""
    return explain_group(error) or explain_type(error)


def explain_group(error: BaseException) -> str | None:
    """Explain a value that is no name of a choice, as in `reward=null`; None for any other error."""
    if not str(error).startswith("Config group override must be a string or a list"):
        return None
    choices, frames = choices_at(error), (frame.f_locals for frame, _ in walk_tb(error.__traceback__))
    override = next(here["override"] for here in frames if "override" in here)
    known = choices.fitting(override.key_or_group) if choices else []
    return f"{override.input_line}: give the name of a choice; known are {', '.join(known)}"


def explain_choice(error: BaseException, text: str) -> str | None:
    """Explain why an existing choice does not work with this command; None for any other error."""
    no_group = re.match(r"Could not override '(\w+)'\. No match in the defaults list", text)
    unfit = re.match(r"In '(\w+)/([^']+)': (.*)", text)
    choices = choices_at(error) if no_group or unfit else None
    if choices is None:
        return None
    if no_group:
        groups = ", ".join(sorted(choices.chosen))
        return f"{no_group[1]}: this command has no choices of that name; it has {groups}"
    assert unfit is not None
    group, name, why = unfit.groups()
    if group not in choices.chosen or choices.fits(group, name):
        return None
    known = ", ".join(choices.fitting(group))
    return f"{group}={name}: it does not work with this command{why_unfit(why)}; known are {known}"


def why_unfit(text: str) -> str:
    """Name the key or the group of a choice that the command lacks, in parentheses; empty if it lacks neither."""
    if match := re.search(r"Key '\w+' not in '\w+' full_key: (\S+)", text):
        return f" ({match[1]}: there is no such key)"
    if match := re.search(r"Could not override '(\w+)'", text):
        return f" ({match[1]}: there are no choices of that name)"
    return ""


def explain_word(word: str, text: str) -> str:
    """Explain why Hydra cannot read a word of the command line."""
    key, equals, _ = word.partition("=")
    if equals and (match := re.fullmatch(r"\+*(reward\.options\.).*:(.*)", key)):
        return f"{word}: options go by the function's own name, without its file, as in +{match[1]}{match[2]}=..."
    if not equals:
        return f"{word}: it is neither an option nor key=value; write key=value, as in train.num_steps=50"
    if not key.isascii() or re.search(r"[^\w.~+@/$:-]", key):
        return f"{key}: keys, and your own names in them, may only have ASCII letters, digits, _ and -; rename it"
    reason = text.partition("See https:")[0].strip()
    return f"{word}: it cannot be read ({reason}); names in {{}} are ASCII, a text is quoted, as in {key}=\"'...'\""
