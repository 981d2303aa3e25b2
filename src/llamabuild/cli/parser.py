"""The command line's grammar, made from :mod:`llamabuild.settings`."""

from __future__ import annotations

import argparse
import difflib
import re
import shlex
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from llamabuild import __version__
from llamabuild.errors import UsageError
from llamabuild.settings import ARGUMENTS, COMMANDS, OPTIONS, Option

__all__ = ["parse"]

_EXIT_CODES = (
    "exit codes: 0 done; 2 usage; 3 no GPU or unknown architecture; 4 toolchain; 5 source; "
    "6 compilation; 7 module failed inspection; 8 cache or file system; 9 delivery refused; "
    "130 interrupted"
)


class _Formatter(argparse.HelpFormatter):
    """Leaves words such as ``--nvcc-flag`` and ``all-major`` in one piece."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class _Parser(argparse.ArgumentParser):
    """Raises instead of printing and leaving, so that ``--json`` holds for usage errors too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            epilog=_EXIT_CODES, allow_abbrev=False, formatter_class=_Formatter, **options
        )

    def error(self, message: str) -> NoReturn:
        hint = f"{self.prog} --help"
        lacks_value = re.fullmatch(r"argument (?:-\w/)?(--[\w-]+): expected one argument", message)
        if lacks_value:  # or has one that begins with a dash
            hint = f"{lacks_value[1]}=VALUE"
        raise UsageError(message, hint=hint)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; without a command it is ``build``.

    The result holds ``command``, the command's arguments, and every option of the command, None
    where it is not named.

    :raises UsageError: it cannot be understood.
    :raises SystemExit: ``--help`` or ``--version`` was printed.
    """
    words = list(argv)
    if not words or words[0] not in {*COMMANDS, "-h", "--help", "--version"}:
        words.insert(0, "build")
    own, rest = _divided(words)
    parsed, unknown = _parser().parse_known_args(own)
    for argument in ARGUMENTS.get(parsed.command, ()):
        if argument.count == "...":
            setattr(parsed, argument.name, rest)
        named = rest[:1] if argument.count == "..." else getattr(parsed, argument.name)
        if named == "" or (isinstance(named, list) and "" in named):
            raise UsageError(
                f"{argument.name.upper()} is empty", hint=f"llamabuild {parsed.command} --help"
            )
    for word in unknown:
        if word != "--":  # there is no need for it, and no harm in it
            raise _not_understood(word, parsed.command, is_first=word == argv[0])
    return parsed


def _divided(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Part our own words from those of the program that a command starts."""
    command, *_ = words
    if all(argument.count != "..." for argument in ARGUMENTS.get(command, ())):
        return words, []
    with_value = {
        spelling
        for option in _options(command)
        if option.kind in {"text", "number", "list"}
        for spelling in (option.flag, option.letter)
    }
    at = 1
    while at < len(words) and words[at].startswith("-") and words[at] != "--":
        at += 2 if words[at] in with_value else 1
    return words[:at], words[at + 1 :] if words[at : at + 1] == ["--"] else words[at:]


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llamabuild",
        usage="%(prog)s [COMMAND] [OPTION ...]",
        description="Rebuild the GPU module of a llamafile for the GPU that is really there.",
    )
    parser.add_argument("--version", action="version", version=f"llamabuild {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", prog=parser.prog, required=True
    )
    for name, words in COMMANDS.items():
        arguments = ARGUMENTS.get(name, ())
        places = ["[OPTION ...]"]
        for argument in arguments:
            places.insert(1 if argument.count == "..." else -1, argument.shown)
        command = commands.add_parser(
            name,
            usage=" ".join(["%(prog)s", *places]),
            help=words,
            description=words,
        )
        for argument in arguments:
            command.add_argument(
                argument.name,
                nargs=argument.count,
                choices=argument.choices or None,
                help=argument.help,
            )
        groups: dict[str, argparse._ArgumentGroup] = {}
        for option in _options(name):
            if option.group not in groups:
                groups[option.group] = command.add_argument_group(option.group)
            _add(groups[option.group], option)
    return parser


def _options(command: str) -> list[Option]:
    return [option for option in OPTIONS if command in option.commands]


def _add(group: argparse._ArgumentGroup, option: Option) -> None:
    shape: dict[str, Any]
    if option.kind == "flag":
        shape = {"action": "store_true"}
    elif option.kind == "switch":
        shape = {"action": argparse.BooleanOptionalAction}
    elif option.kind == "count":
        shape = {"action": "count"}
    else:
        shape = {
            "action": "append" if option.kind == "list" else "store",
            "metavar": option.metavar or "|".join(option.choices),
        }
    spellings = [option.letter, option.flag] if option.letter else [option.flag]
    group.add_argument(*spellings, dest=option.name, default=None, help=_help(option), **shape)


def _help(option: Option) -> str:
    words = option.help
    if option.default:
        words += f" (default: {option.default})"
    if option.variables:
        words += f" [{', '.join(option.variables)}]"
    return words.replace("%", "%%")


def _not_understood(word: str, command: str, *, is_first: bool) -> UsageError:
    if word.startswith("-"):
        flag = word.partition("=")[0]
        owners = [other for other in COMMANDS if flag in _spellings(other)]
        if owners:
            message = f"{flag} does not apply to {command}, but to {', '.join(owners)}"
            return UsageError(message, hint=f"llamabuild {owners[0]} --help")
        near = difflib.get_close_matches(flag, _spellings(command), n=1)
        hint = near[0] if near else f"llamabuild {command} --help"
        return UsageError(f"{command} has no option {flag}", hint=hint)
    if word in COMMANDS:
        return UsageError(
            f"{word!r} comes too late: a command is the first word",
            hint=f"llamabuild {word} [OPTION ...]",
        )
    near = difflib.get_close_matches(word, COMMANDS, n=1) if is_first else []
    if near:
        return UsageError(f"there is no command {word!r}", hint=f"llamabuild {near[0]}")
    builds = command in {"build", "plan"}
    return UsageError(
        f"{command} takes no argument {word!r}",
        hint=f"--source {shlex.quote(word)}" if builds else f"llamabuild {command} --help",
    )


def _spellings(command: str) -> Iterator[str]:
    for option in _options(command):
        yield option.flag
        if option.letter:
            yield option.letter
        if option.kind == "switch":
            yield f"--no-{option.flag[2:]}"
