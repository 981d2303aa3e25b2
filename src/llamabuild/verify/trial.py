"""Start a program that runs a module, and read what it reports: to its end, or to its death."""

from __future__ import annotations

import json
import re
import signal
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from llamabuild import run

__all__ = ["Trial", "attempt"]

#: Kept of what a module prints: so many different lines from its end, and as many of those that
#: tell of an error. (A kernel that traps says so once in every thread.)
LINES, LINE_LENGTH = 6, 400
_TELLING = re.compile(r"error|abort|assert|no device code", re.IGNORECASE)
#: Windows ends a process that crashed with a status from here on.
_NT_ERROR = 0xC0000000

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Trial:
    """What became of one program.

    :param returncode: negative for the signal that ended it; none if it ran out of time.
    :param lines: the report, object by object.
    :param damaged: the report holds what nobody here writes.
    :param words: the last different lines that the module and the driver printed.
    :param seconds: wall time.
    """

    returncode: int | None
    lines: tuple[dict[str, Any], ...]
    damaged: bool
    words: str
    seconds: float

    def said(self, name: str, kind: type[Kind], default: Kind) -> Kind:
        """The last value of a name in the report, if it is of this kind."""
        for line in reversed(self.lines):
            if isinstance(line.get(name), kind):
                return line[name]  # type: ignore[no-any-return]
        return default

    def all(self, name: str) -> list[Any]:
        """Every value of a name in the report."""
        return [line[name] for line in self.lines if name in line]

    @property
    def ended(self) -> bool:
        """The program did all that it was asked for; what its exit did then is not judged."""
        return self.said("end", bool, False)

    @property
    def where(self) -> str:
        """What the program was doing last, as a part of a sentence."""
        doing = self.said("doing", str, "")
        return f" at {doing}" if doing else ""

    @property
    def ending(self) -> str:
        """How a program that did not end well ended, as a part of a sentence."""
        if self.returncode is None:
            return f"did not answer within {self.seconds:g} seconds{self.where}"
        if self.returncode < 0 or self.returncode >= _NT_ERROR:
            return f"crashed ({_signal(self.returncode)}){self.where}"
        return f"ended the process with code {self.returncode}{self.where}"


def attempt(
    argv: Sequence[str | Path],
    rest: Sequence[str],
    *,
    environ: Mapping[str, str],
    time_limit: float,
) -> Trial:
    """Run ``argv REPORT rest`` to its end, or for ``time_limit`` seconds.

    :raises run.CannotStart: the program could not be started.
    """
    with tempfile.TemporaryDirectory(prefix="llamabuild-verify-") as folder:
        report = Path(folder, "report")
        try:
            done = run.capture(
                [*argv, report, *rest], env=environ, timeout=time_limit, cwd=Path(folder)
            )
        except run.TimedOut:
            done = None
        lines, damaged = _read(report)
    if done is None:
        return Trial(None, lines, damaged, "", time_limit)
    return Trial(done.returncode, lines, damaged, _last_words(done.text), done.seconds)


def _read(report: Path) -> tuple[tuple[dict[str, Any], ...], bool]:
    """Read a report; a last line without its end was cut off, and is left out."""
    try:
        text = report.read_text("utf-8", "replace")
    except OSError:
        return (), False
    lines, damaged = [], False
    for raw in text.split("\n")[:-1]:
        line = None
        with suppress(ValueError, RecursionError):
            line = json.loads(raw)
        if isinstance(line, dict):
            lines.append(line)
        else:
            damaged = True
    return tuple(lines), damaged


def _last_words(text: str) -> str:
    """The lines that matter, each once, without what would move a terminal's cursor."""
    plain = (
        "".join(character for character in line if character.isprintable()).strip()[:LINE_LENGTH]
        for line in text.splitlines()
    )
    lines = [line for line in dict.fromkeys(plain) if line]
    kept = {*[line for line in lines if _TELLING.search(line)][:LINES], *lines[-LINES:]}
    return "\n".join(line for line in lines if line in kept)


def _signal(returncode: int) -> str:
    with suppress(ValueError):
        return signal.Signals(-returncode).name
    return f"status {returncode:#x}" if returncode > 0 else f"signal {-returncode}"
