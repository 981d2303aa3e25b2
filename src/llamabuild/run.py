"""The only door to other programs.

Argument lists only (never a shell), a whole process group per program, and no program outlives
the call that started it: a timeout, Ctrl-C or an exception interrupts the group, then terminates
it, then kills it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

__all__ = ["CannotStart", "Completed", "TimedOut", "capture", "environment", "stream"]

#: Seconds between interrupt, terminate and kill. nvcc removes its temporary files on an interrupt.
GRACE_SECONDS = (3.0, 2.0)


class CannotStart(Exception):
    """The program is missing, not executable, or not a program for this machine."""


class TimedOut(Exception):
    """The program did not finish in the time it was given, and was killed."""


@dataclass(frozen=True)
class Completed:
    """A program that ran to its end. A negative ``returncode`` is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def text(self) -> str:
        """Both streams, for programs that put their words on either."""
        return f"{self.stdout}\n{self.stderr}"


def environment(
    base: Mapping[str, str],
    *,
    path_first: Sequence[Path] = (),
    path_without: Callable[[Path], bool] | None = None,
    unset: Iterable[str] = (),
    update: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Derive a child's environment from ``base``; nothing is taken from this process by itself.

    :param path_first: folders put at the front of PATH, in order.
    :param path_without: folders of the inherited PATH for which this is true are left out.
    :param unset: variables removed.
    :param update: variables set, last.
    """
    child = {name: value for name, value in base.items() if name not in set(unset)}
    inherited = [Path(part) for part in child.get("PATH", os.defpath).split(os.pathsep) if part]
    kept = [part for part in inherited if path_without is None or not path_without(part)]
    child["PATH"] = os.pathsep.join(dict.fromkeys(str(part) for part in (*path_first, *kept)))
    child.update(update or {})
    return child


def capture(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    timeout: float,
    cwd: Path | None = None,
    text_input: str = "",
) -> Completed:
    """Run a short program and return what it printed, decoded as UTF-8 with replacement.

    :param timeout: seconds.
    :raises CannotStart: the program could not be started.
    :raises TimedOut: it did not end in time; its whole process group is gone.
    """
    arguments = tuple(str(part) for part in argv)
    began = time.monotonic()
    process = _start(arguments, env=env, cwd=cwd, stderr=subprocess.PIPE, stdin=subprocess.PIPE)
    try:
        out, err = process.communicate(text_input.encode(), timeout=timeout)
    except subprocess.TimeoutExpired:
        stop(process, grace=(0.2, 0.2))
        raise TimedOut(f"{arguments[0]} did not finish in {timeout:g} seconds") from None
    except BaseException:
        stop(process)
        raise
    finally:
        # A program that was stopped leaves its pipes open.
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
    return Completed(
        arguments,
        process.returncode,
        out.decode("utf-8", "replace"),
        err.decode("utf-8", "replace"),
        time.monotonic() - began,
    )


def stream(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    cwd: Path | None = None,
    timeout: float | None = None,
) -> Completed:
    """Run a long program and hand every line (stdout and stderr together) to ``on_line``.

    The lines are not kept: ``stdout`` and ``stderr`` of the result are empty.

    :param timeout: seconds, or none.
    :raises CannotStart: the program could not be started.
    :raises TimedOut: it did not end in time; its whole process group is gone.
    """
    arguments = tuple(str(part) for part in argv)
    began = time.monotonic()
    process = _start(
        arguments, env=env, cwd=cwd, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
    )
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        stop(process)

    timer = Timer(timeout, expire) if timeout is not None else None
    try:
        if timer is not None:
            timer.start()
        assert process.stdout is not None
        for raw in process.stdout:
            on_line(raw.decode("utf-8", "replace").rstrip("\r\n"))
        process.wait()
    except BaseException:
        stop(process)
        raise
    finally:
        if timer is not None:
            timer.cancel()
        if process.stdout is not None:
            process.stdout.close()
    if expired:
        raise TimedOut(f"{arguments[0]} did not finish in {timeout:g} seconds")
    return Completed(arguments, process.returncode, "", "", time.monotonic() - began)


def stop(process: subprocess.Popen[bytes], grace: tuple[float, float] = GRACE_SECONDS) -> None:
    """End a process and everything it started: interrupt, terminate, kill."""
    for number, seconds in zip(_stop_signals(), (*grace, 5.0), strict=True):
        _signal_group(process, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        if not _group_alive(process):
            break
        _wait_for_group(process, seconds)
        if not _group_alive(process):
            break
    with suppress(subprocess.TimeoutExpired):
        process.wait(5.0)


def _start(
    arguments: tuple[str, ...],
    *,
    env: Mapping[str, str],
    cwd: Path | None,
    stderr: int,
    stdin: int,
) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            arguments,
            env=dict(env),
            cwd=cwd,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=sys.platform != "win32",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except (OSError, ValueError) as error:
        raise CannotStart(f"{arguments[0]} cannot be started: {error}") from error


if sys.platform == "win32":

    def _stop_signals() -> tuple[int, int, int]:
        return (signal.CTRL_BREAK_EVENT, signal.SIGTERM, signal.SIGTERM)

    def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
        with suppress(OSError):
            process.send_signal(number)

    def _group_alive(process: subprocess.Popen[bytes]) -> bool:
        return process.poll() is None

else:

    def _stop_signals() -> tuple[int, int, int]:
        return (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)

    def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)

    def _group_alive(process: subprocess.Popen[bytes]) -> bool:
        process.poll()
        try:
            os.killpg(process.pid, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True


def _wait_for_group(process: subprocess.Popen[bytes], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _group_alive(process) and time.monotonic() < deadline:
        time.sleep(0.02)
