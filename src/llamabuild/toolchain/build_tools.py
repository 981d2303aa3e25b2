"""Find CMake and Ninja."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from llamabuild.errors import ToolchainError
from llamabuild.looking import is_file
from llamabuild.memo import Memo
from llamabuild.toolchain.facts import facts, numbers
from llamabuild.toolchain.model import BuildTools, Machine
from llamabuild.toolchain.programs import Unusable, ask, on_path, remembered

__all__ = ["find_build_tools"]


def find_build_tools(
    environ: Mapping[str, str], *, memo: Memo, machine: Machine | None = None
) -> BuildTools:
    """Return CMake and Ninja: the Python wheels' own, else the first on PATH that are new enough.

    :raises ToolchainError: there is none, or none that works and is new enough.
    """
    machine = machine or Machine.here()
    cmake, cmake_version = _find("cmake", "CMAKE_BIN_DIR", environ, memo, machine)
    ninja, ninja_version = _find("ninja", "BIN_DIR", environ, memo, machine)
    return BuildTools(cmake, cmake_version, ninja, ninja_version)


def _find(
    name: str, wheel_folder: str, environ: Mapping[str, str], memo: Memo, machine: Machine
) -> tuple[Path, str]:
    minimum = facts()["minimum"][name]
    misses = []
    for program in _candidates(name, wheel_folder, environ, machine):
        try:
            version = remembered(
                memo,
                f"{name} version",
                [program],
                lambda: _version(program, environ),  # noqa: B023
            )
        except Unusable as problem:
            misses.append(f"\n  {program}: {problem.reason}")
            continue
        if numbers(version) >= numbers(minimum):
            return program, version
        misses.append(f"\n  {program}: is {version}")
    raise ToolchainError(
        f"no {name} {minimum} or newer was found{':' if misses else ''}{''.join(misses)}",
        hint=f"`pip install '{name}>={minimum}'`",
    )


def _candidates(
    name: str, wheel_folder: str, environ: Mapping[str, str], machine: Machine
) -> Iterator[Path]:
    # The wheels' own binary, not the Python script of the same name that starts it.
    try:
        folder = getattr(import_module(name), wheel_folder)
    except (ImportError, AttributeError):
        folder = None
    if folder and is_file(program := Path(folder, machine.program(name))):
        yield program
    yield from on_path(name, environ, machine)


def _version(program: Path, environ: Mapping[str, str]) -> str:
    match = re.search(r"\d+\.\d+(\.\d+)?", ask([program, "--version"], environ))
    if match is None:
        raise Unusable("prints no version")
    return match[0]
