"""Find programs on PATH and ask them something small."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llamabuild import run
from llamabuild.looking import is_file
from llamabuild.memo import Memo
from llamabuild.toolchain.model import Machine

__all__ = [
    "NVCC_FLAGS",
    "PROBE_SECONDS",
    "Hangs",
    "Unusable",
    "ask",
    "find_program",
    "on_path",
    "path_folders",
    "remembered",
]

#: A compiler that has not told its version after this many seconds never will.
PROBE_SECONDS = 10.0
#: Seconds for which it is not asked again, or each start would wait for it; not for ever, as the
#: machine may only have been busy.
HANG_SECONDS = 600.0

#: Variables that add options to every call of nvcc, even to `nvcc --version`.
NVCC_FLAGS = ("NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS")


class Unusable(Exception):
    """A tool is there and cannot be used: why, and what would mend it."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint


class Hangs(Unusable):
    """A tool that gave no answer in time."""


def path_folders(environ: Mapping[str, str]) -> list[Path]:
    """The folders of PATH, in order."""
    return [Path(part) for part in environ.get("PATH", "").split(os.pathsep) if part]


def on_path(name: str, environ: Mapping[str, str], machine: Machine) -> Iterator[Path]:
    """Every program called ``name`` on PATH, in order."""
    for folder in path_folders(environ):
        program = folder / machine.program(name)
        if is_file(program):
            yield program


def find_program(value: str, environ: Mapping[str, str], machine: Machine) -> Path | None:
    """The program that a user means by ``value``: a path, or a name on PATH."""
    path = Path(value).expanduser()
    if is_file(path):
        return path.absolute()
    return None if path.name != value else next(on_path(value, environ, machine), None)


def ask(argv: Sequence[str | Path], environ: Mapping[str, str], *, cwd: Path | None = None) -> str:
    """Return all that a program prints.

    :raises Unusable: it cannot be started, hangs, crashes or fails.
    """
    question = " ".join([Path(argv[0]).name, *(str(part) for part in argv[1:])])
    try:
        answer = run.capture(argv, env=environ, timeout=PROBE_SECONDS, cwd=cwd)
    except run.OutOfTime:
        raise Unusable("was not asked: other programs took the time for it") from None
    except run.TimedOut:
        raise Hangs(f"`{question}` gave no answer in time") from None
    except run.CannotStart as error:
        raise Unusable(str(error)) from None
    if answer.returncode < 0:
        name = str(-answer.returncode)
        with suppress(ValueError):
            name = signal.Signals(-answer.returncode).name
        raise Unusable(f"`{question}` crashed ({name})")
    if answer.returncode:
        first = next((line for line in answer.text.splitlines() if line.strip()), "no message")
        raise Unusable(f"`{question}` failed with exit status {answer.returncode}: {first.strip()}")
    return answer.text


def remembered(
    memo: Memo,
    question: str,
    files: Sequence[str | Path],
    ask: Callable[[], Any],
    *,
    found_via: str = "",
) -> Any:
    """As :meth:`Memo.recall`; that a tool hangs is remembered too, for a while.

    :param found_via: how the tool was found: what an option names is asked again at once.
    :raises Unusable: whatever ``ask`` raises.
    """
    began = time.time()

    def outcome() -> Any:
        try:
            return ask()
        except Hangs as problem:
            return {"hangs": [problem.reason, problem.hint], "at": time.time()}

    def holds(answer: Any) -> bool:
        if not _hung(answer):
            return True
        return not found_via.startswith("--") and 0 <= began - answer["at"] < HANG_SECONDS

    answer = memo.recall(question, files, outcome, holds=holds)
    if not _hung(answer):
        return answer
    reason, hint = answer["hangs"]
    if answer["at"] < began:
        again = time.strftime("%H:%M", time.localtime(answer["at"] + HANG_SECONDS))
        reason += f"; it is asked again after {again}, or if it changes or an option names it"
    raise Hangs(reason, hint)


def _hung(answer: Any) -> bool:
    return isinstance(answer, dict) and "hangs" in answer
