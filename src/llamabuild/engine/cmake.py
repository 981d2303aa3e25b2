"""Configure a CMake project and build one of its targets, with progress and a log.

Everything that a project is told goes through an initial-cache file (``cmake -C``), so that no
value needs quoting on a command line and the file can be read afterwards.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from llamabuild import run
from llamabuild.engine.failure import explain
from llamabuild.errors import CompilationError, StoreError, ToolchainError
from llamabuild.events import Listener, Note, StepAdvanced, StepFinished, StepStarted

__all__ = ["Project", "quote"]

_PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] (.*)$")
#: CMake's own comment for a C or C++ file, of which the file's name is enough.
_OBJECT = re.compile(r"^Building \w+ object (?:.*/)?([^/]+)\.(?:o|obj)$")
#: Only what the plan says reaches the compilers, or the same key would hold different modules.
FOREIGN_VARIABLES = (
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CUDAFLAGS",
    "CUDAARCHS",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "CMAKE_GENERATOR",
    "CMAKE_TOOLCHAIN_FILE",
    "CMAKE_BUILD_TYPE",
    "CMAKE_PREFIX_PATH",
    "CMAKE_CONFIG_TYPE",
    "NINJA_STATUS",
    "NINJAFLAGS",
    "MAKEFLAGS",
    "DESTDIR",
    "VERBOSE",
)


def quote(text: str) -> str:
    """Return ``text`` as a CMake bracket argument, in which nothing has a special meaning."""
    fence = "="
    while f"]{fence}]" in text or text.endswith(f"]{fence}"):
        fence += "="
    return f"[{fence}[{text}]{fence}]"


def _text(value: str | Sequence[str]) -> str:
    """A CMake value; in a list, a semicolon of an element is not a separator."""
    if isinstance(value, str):
        return value
    return ";".join(element.replace(";", "\\;") for element in value)


class Project:
    """One build folder of one CMake project.

    :param source: the folder with ``CMakeLists.txt``.
    :param folder: the build folder; made if absent.
    :param environment: the compilers' environment, complete.
    :param log: gets every line that CMake, Ninja and the compilers print.
    """

    def __init__(
        self,
        source: Path,
        folder: Path,
        *,
        cmake: Path,
        ninja: Path,
        environment: Mapping[str, str],
        log: TextIO,
        notify: Listener,
    ) -> None:
        self._source = source
        self.folder = folder
        self._cmake = cmake
        self._ninja = ninja
        self._environment = {
            name: value for name, value in environment.items() if name not in FOREIGN_VARIABLES
        }
        self._log = log
        self._notify = notify
        self._lines: list[str] = []
        self._weights: dict[str, float] = {}
        self._spent = 0.0

    def configure(self, values: Mapping[str, str | Sequence[str]]) -> None:
        """Write ``values`` as the initial cache and run CMake.

        :raises CompilationError: CMake refused; the message holds its first error.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        initial = self.folder.with_name(self.folder.name + "-plan.cmake")
        initial.write_text(
            "".join(
                f'set({name} {quote(_text(value))} CACHE STRING "" FORCE)\n'
                for name, value in values.items()
            ),
            encoding="utf-8",
        )
        self._step(
            "configure",
            [
                self._cmake,
                *("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={self._ninja}"),
                *("-C", initial, "-S", self._source, "-B", self.folder),
                "-Wno-dev",
            ],
        )

    def build(
        self,
        target: str,
        *,
        jobs: int,
        environment: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        """Run Ninja for one target with ``jobs`` commands at once.

        :param environment: variables to set beside the project's own.
        :param weights: expected cost of commands by their comment, where it is not 1.
        :raises CompilationError: a command failed; the message holds the first error of it.
        :raises StoreError: a command failed for want of room on the disk.
        """
        self._environment |= {**(environment or {}), "NINJA_STATUS": "[%f/%t] "}
        self._weights = dict(weights or {})
        self._spent = 0.0
        self._step("compile", [self._ninja, "-C", self.folder, f"-j{jobs}", target])

    def _step(self, step: str, argv: Sequence[str | Path]) -> None:
        self._lines = []
        self._log.write("$ " + " ".join(str(word) for word in argv) + "\n")
        self._notify(StepStarted(step))
        began = time.monotonic()
        try:
            done = run.stream(
                argv, env=self._environment, on_line=lambda line: self._heard(step, line)
            )
        except run.CannotStart as error:
            raise ToolchainError(
                str(error), hint="reinstall the build tools: pip install --force cmake ninja"
            ) from error
        finally:
            self._log.flush()
        if done.returncode:
            raise self._failed(step, done.returncode)
        self._notify(StepFinished(step, time.monotonic() - began))

    def _heard(self, step: str, line: str) -> None:
        self._log.write(line + "\n")
        self._lines.append(line)
        progress = _PROGRESS.match(line)
        if progress:
            done, total = int(progress[1]), int(progress[2])
            label = _OBJECT.sub(r"\1", progress[3])
            self._spent += self._weights.get(label, 1.0)
            whole = sum(self._weights.values()) + total - len(self._weights)
            share = min(1.0, self._spent / whole) if whole > 0 else 0.0
            self._notify(StepAdvanced(step, done, total, share, label))
        elif line.strip():
            self._notify(Note("detail", line))

    def _failed(self, step: str, code: int) -> CompilationError | StoreError:
        failure = explain(self._lines)
        lines = [f"{step} failed: {failure.error or f'exit code {code}'}", *failure.context]
        if failure.command:
            lines.append(f"command: {failure.command}")
        message = "\n".join(lines)
        if "No space left" in failure.error:
            return StoreError(
                message, hint="make room on that disk, or name another folder with --cache-dir"
            )
        killed = code < 0 or "signal 9" in failure.error or failure.error.endswith("Killed")
        hint = "a compiler was killed, most often for want of memory: try --jobs 1"
        return CompilationError(message, hint=hint if killed else "")
