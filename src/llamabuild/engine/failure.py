"""What a user needs of a failed build's log: the first error, and the command that made it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import takewhile

__all__ = ["Failure", "explain"]

#: gcc and clang, nvcc's front end, cl.exe, ptxas, GNU ld, CMake, and a compiler that was killed.
_ERROR = re.compile(
    r"(?P<error>.*(?:"
    r"\berror\s*:|\berror [A-Z]+\d+\s*:|\): error|fatal error|\bfatal\s*:"
    r"|undefined reference|cannot find -l|multiple definition"
    r"|died due to signal|\bKilled\b|No space left on device|internal compiler error"
    r"|^CMake Error"
    r").*)",
    re.IGNORECASE,
)
_NINJA_FAILED = re.compile(r"^FAILED: (?:\[code=(?P<code>-?\d+)\] )?(?P<target>.*)$")


_NINJAS_OWN = re.compile(r"^(?:\[\d+/\d+\]|FAILED:|ninja:) ")


@dataclass(frozen=True)
class Failure:
    """The first error line, what followed it at once, and the command; empty where not found."""

    error: str
    context: tuple[str, ...]
    command: str
    code: int | None


def explain(lines: Iterable[str]) -> Failure:
    """Read a log of CMake and Ninja.

    Ninja prints ``FAILED: target``, then the command, then what it printed. Warnings that other
    commands printed before do not count.
    """
    remaining = iter(lines)
    code: int | None = None
    command = ""
    everything: list[str] = []
    for line in remaining:
        everything.append(line)
        failed = _NINJA_FAILED.match(line)
        if failed:
            code = int(failed["code"]) if failed["code"] else None
            command = next(remaining, "").strip()
            everything = list(remaining)
            break
    for position, line in enumerate(everything):
        found = _ERROR.match(line)
        if found:
            following = takewhile(_told_by_the_command, everything[position + 1 : position + 4])
            return Failure(found["error"].strip(), tuple(filter(None, following)), command, code)
    last = [line.strip() for line in everything if line.strip()]
    return Failure(last[-1] if last else "", (), command, code)


def _told_by_the_command(line: str) -> bool:
    return not _NINJAS_OWN.match(line)
