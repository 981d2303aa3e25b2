"""The generated parts of ``docs/reference.md``: commands, options and exit codes.

``python -m llamabuild.cli.reference docs/reference.md`` brings the page up to date. What stands
between ``<!-- generated: NAME -->`` and ``<!-- end -->`` is written here, the rest by hand.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from llamabuild import errors
from llamabuild.settings import ARGUMENTS, COMMANDS, OPTIONS, Option

__all__ = ["updated"]


def updated(page: str) -> str:
    """Return the page with its generated parts made again."""
    return re.sub(
        r"(<!-- generated: ([a-z-]+) -->).*?(<!-- end -->)",
        lambda found: "\n\n".join([found[1], "\n".join(_PARTS[found[2]]()).strip(), found[3]]),
        page,
        flags=re.DOTALL,
    )


def _commands() -> Iterator[str]:
    for name, words in COMMANDS.items():
        places = "".join(f" {each.shown}" for each in ARGUMENTS.get(name, ()))
        yield _item(f"`llamabuild {name}{places}`: {words}.")
        for each in ARGUMENTS.get(name, ()):
            choices = f" ({', '.join(f'`{choice}`' for choice in each.choices)})"
            yield _item(f"`{each.name.upper()}`: {each.help}{choices if each.choices else ''}.", 1)


def _options() -> Iterator[str]:
    for group, members in groupby(OPTIONS, key=lambda option: option.group):
        options = list(members)
        ((shared, _),) = Counter(option.commands for option in options).most_common(1)
        yield f"\n### {group.capitalize()}\n\nOf {_listed(shared)}.\n"
        for option in options:
            yield _item(_described(option, of_some=option.commands != shared))


def _described(option: Option, *, of_some: bool) -> str:
    value = f" {option.metavar or '|'.join(option.choices)}".rstrip()
    spellings = [option.letter, option.flag] if option.letter else [option.flag]
    if option.kind == "switch":
        spellings.append(f"--no-{option.flag[2:]}")
    words = ", ".join(f"`{spelling}{value}`" for spelling in spellings) + f": {option.help}."
    if option.variables:
        words += f" Variable: {_quoted(option.variables)}."
    if option.hip_variables:
        words += f" With `--backend hip`: {_quoted(option.hip_variables)}."
    if option.default:
        words += f" Default: `{option.default}`."
    return f"{words} Only of {_listed(option.commands)}." if of_some else words


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _exit_codes() -> Iterator[str]:
    yield "| code | `type` | meaning |\n|---|---|---|\n| 0 | | done |"
    classes = (getattr(errors, name) for name in errors.__all__)
    for error in sorted(classes, key=lambda error: error.exit_code):
        if error is not errors.LlamabuildError:
            meaning = (error.__doc__ or "").partition(" (exit code")[0]
            yield f"| {error.exit_code} | `{error.__name__}` | {meaning} |"


def _listed(commands: frozenset[str]) -> str:
    if commands == COMMANDS.keys():
        return "every command"
    return ", ".join(f"`{name}`" for name in COMMANDS if name in commands)


def _item(text: str, level: int = 0) -> str:
    indent = "    " * level
    return textwrap.fill(
        text,
        width=100,
        initial_indent=f"{indent}- ",
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
        break_long_words=False,
    )


_PARTS: Mapping[str, Callable[[], Iterator[str]]] = {
    "commands": _commands,
    "options": _options,
    "exit-codes": _exit_codes,
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(updated(page.read_text(encoding="utf-8")), encoding="utf-8")
