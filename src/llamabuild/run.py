"""The only door to other programs.

Argument lists only (never a shell), a session of its own for every program, and nothing outlives
a call that ends early: a timeout, Ctrl-C or any exception interrupts all that the program has
started, then terminates it, then kills it. The one exception is :func:`become`, which hands over
to a program for good.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "CannotStart",
    "Completed",
    "TimedOut",
    "become",
    "capture",
    "environment",
    "stream",
    "within",
]

#: Seconds after an interrupt (nvcc removes its temporary files on one) and after a termination.
GRACE_SECONDS = (3.0, 2.0)
#: Seconds to wait for what was killed: a process that hangs in a driver is not waited for longer.
KILL_SECONDS = 5.0

#: When the last program must have ended, by the monotonic clock, and how long each may take.
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)
_longest: ContextVar[float] = ContextVar("longest", default=math.inf)


class CannotStart(Exception):
    """The program is missing, not executable, or not a program for this machine."""


class TimedOut(Exception):
    """The program did not finish in the time it was given, and was killed."""


class OutOfTime(TimedOut):
    """Others took all the time of a :func:`within`: the program was not started."""


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

    An empty part of PATH, which would mean the working folder, is left out.

    :param path_first: folders put at the front of PATH, in order.
    :param path_without: folders of the inherited PATH for which this is true are left out.
    :param unset: variables removed.
    :param update: variables set, last.
    """
    child = dict(base)
    for name in unset:
        child.pop(name, None)
    inherited = [Path(part) for part in child.get("PATH", os.defpath).split(os.pathsep) if part]
    kept = [part for part in inherited if path_without is None or not path_without(part)]
    child["PATH"] = os.pathsep.join(dict.fromkeys(str(part) for part in (*path_first, *kept)))
    child.update(update or {})
    return child


@contextmanager
def within(seconds: float, *, each: float = math.inf) -> Iterator[None]:
    """Bound what the block captures, whatever each call was given.

    :param seconds: for all calls together; what would start later raises :class:`OutOfTime`.
    :param each: seconds for one call, so that one that hangs leaves time for others.
    """
    deadline = _deadline.set(min(_deadline.get(), time.monotonic() + seconds))
    longest = _longest.set(min(_longest.get(), each))
    try:
        yield
    finally:
        _deadline.reset(deadline)
        _longest.reset(longest)


def capture(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    timeout: float,
    cwd: Path | None = None,
) -> Completed:
    """Run a short program with nothing on its stdin and return what it printed.

    The output is decoded as UTF-8 with replacement. It ends when every process that has it open
    has ended, so a program that leaves another one behind may run into the timeout.

    :param timeout: seconds.
    :raises CannotStart: the program could not be started.
    :raises TimedOut: it did not end in time; nothing of it is left.
    """
    began = time.monotonic()
    timeout = min(timeout, _longest.get(), _deadline.get() - began)
    if timeout <= 0:
        raise OutOfTime(f"{argv[0]} was not started: the time is up")
    with _started(argv, env=env, cwd=cwd, stderr=subprocess.PIPE) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TimedOut(f"{argv[0]} did not finish in {timeout:.3g} seconds") from None
    return Completed(
        tuple(map(str, argv)),
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
) -> Completed:
    """Run a long program and hand every line (stdout and stderr together) to ``on_line``.

    Decoded as :func:`capture` does, and ended likewise. The lines are not kept: ``stdout`` and
    ``stderr`` of the result are empty.

    :raises CannotStart: the program could not be started.
    """
    began = time.monotonic()
    with _started(argv, env=env, cwd=cwd, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        for raw in process.stdout:
            on_line(raw.decode("utf-8", "replace").rstrip("\r\n"))
        process.wait()
    return Completed(tuple(map(str, argv)), process.returncode, "", "", time.monotonic() - began)


def become(argv: Sequence[str], *, env: Mapping[str, str]) -> int:
    """Let a program take the place of this one; its exit code and signals are then its own.

    Returns on Windows only, which cannot replace a process: the program runs below this one, with
    the same terminal and streams, and its exit code is returned. What a shell would run, runs: a
    program without a slash is looked for on ``env``'s PATH, and a text without ``#!`` (or an
    executable that this kernel does not know, as llamafiles can be) is given to ``/bin/sh``.

    :raises CannotStart: the program could not be started; this one goes on.
    """
    name = argv[0]
    path = name if "/" in name else shutil.which(name, path=env.get("PATH"))
    if path is None:
        raise CannotStart(f"{name} is not on PATH")
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        return _replace(path, argv, env)
    except OSError as error:
        raise CannotStart(f"{name} cannot be started: {error.strerror}") from error
    except ValueError as error:
        raise CannotStart(f"{name!r} cannot be started: {error}") from error


@contextmanager
def _started(
    argv: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path | None, stderr: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A running program, of which nothing is left when an exception leaves the block."""
    try:
        process = subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # has no meaning on Windows, as the next has none elsewhere
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
    except OSError as error:
        # A working folder that is missing is reported in its own name, not in the program's.
        about = f" in {cwd}" if cwd is not None and str(error.filename) == str(cwd) else ""
        raise CannotStart(f"{argv[0]} cannot be started{about}: {error.strerror}") from error
    except ValueError as error:
        raise CannotStart(f"{str(argv[0])!r} cannot be started: {error}") from error
    try:
        yield process
    except BaseException:
        _stop(process)
        raise
    finally:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


if sys.platform == "win32":

    def _replace(path: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Wait for a program; Ctrl-C is for it to heed."""
        with subprocess.Popen([path, *argv[1:]], env=env) as process:
            while True:
                with suppress(KeyboardInterrupt):
                    return process.wait()

    def _stop(process: subprocess.Popen[bytes]) -> None:
        """End a program and what it started: Ctrl-Break, then the whole tree is killed."""
        try:
            with suppress(OSError, subprocess.TimeoutExpired):
                process.send_signal(signal.CTRL_BREAK_EVENT)
                process.wait(sum(GRACE_SECONDS))
        finally:
            if process.poll() is None:
                tree = ["taskkill", "/F", "/T", "/PID", str(process.pid)]
                subprocess.run(tree, capture_output=True, check=False, timeout=KILL_SECONDS)

else:

    def _replace(path: str, argv: Sequence[str], env: Mapping[str, str]) -> int:
        """Become a program, with the signals as they were before Python started."""
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execve(path, list(argv), env)  # noqa: S606  (there is no shell to be had here)
        except OSError as error:
            if error.errno == errno.ENOEXEC:
                os.execve("/bin/sh", ["sh", path, *argv[1:]], env)  # noqa: S606
            raise

    def _stop(process: subprocess.Popen[bytes]) -> None:
        """End a program and what it started; a second Ctrl-C goes straight to the kill."""
        try:
            for number, seconds in zip((signal.SIGINT, signal.SIGTERM), GRACE_SECONDS, strict=True):
                if _ended(process, number, seconds):
                    break
        finally:
            _ended(process, signal.SIGKILL, KILL_SECONDS)

    def _ended(process: subprocess.Popen[bytes], number: int, seconds: float) -> bool:
        """Signal each member of the session once; whether all are gone within ``seconds``."""
        deadline = time.monotonic() + seconds
        signalled: set[int] = set()
        while living := _members(process):
            for pid in living - signalled:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            signalled |= living
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def _members(process: subprocess.Popen[bytes]) -> set[int]:
        """The living processes of the session that ``process`` leads.

        Its process group would not do: Ninja gives every command a group of its own.
        """
        living = {process.pid} if process.poll() is None else set()
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):  # it may end while it is looked at
                # See proc(5); the name in parentheses may hold anything.
                status = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                state, session = status[0], int(status[3])
                if session == process.pid and state not in {b"Z", b"X"}:
                    living.add(int(folder.name))
        return living
