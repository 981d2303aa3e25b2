"""Find the ROCms of this machine.

The search is :data:`STEPS`, a tuple of functions, each numbered in its docstring. A step looks at
files only and yields folders that hold ``include/hip/hip_runtime.h``. Each is then described by
:mod:`.rocm_describe`, which starts its clang; the same ROCm found in several ways is listed once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from llamabuild.errors import ToolchainError
from llamabuild.looking import is_file, listed
from llamabuild.memo import Memo
from llamabuild.toolchain.asked import folder_or_version, not_used, nothing_fits, of_version
from llamabuild.toolchain.facts import facts, numbers
from llamabuild.toolchain.model import Machine, Rejected, Rocm, RocmSearch
from llamabuild.toolchain.programs import Unusable, on_path
from llamabuild.toolchain.rocm_describe import HEADER, describe

__all__ = ["STEPS", "find_rocm"]


@dataclass(frozen=True)
class Hit:
    """A folder with HIP's headers."""

    root: Path
    found_via: str
    named: bool = False


Finding: TypeAlias = Hit | Rejected


@dataclass(frozen=True)
class Search:
    """What the steps look at, and (``watched``) a record of where they looked."""

    environ: Mapping[str, str]
    given: Path | None
    machine: Machine
    python_path: Sequence[Path]
    watched: list[Path] = field(default_factory=list)

    def root(self, folder: Path) -> bool:
        """Whether ``folder`` is the top of a ROCm."""
        self.watched.append(folder / HEADER)
        return is_file(folder / HEADER)

    def around(self, program: Path) -> Path | None:
        """The top of the ROCm that a program belongs to."""
        return next(filter(self.root, Path(os.path.realpath(program)).parents), None)

    def listed(self, folder: Path, pattern: str) -> list[Path]:
        """What in ``folder`` matches ``pattern``."""
        self.watched.append(folder)
        return listed(folder, pattern)

    def named(self, path: Path, found_via: str) -> Iterator[Finding]:
        """What the user named, a folder or a program in it: a miss is worth a word."""
        self.watched.append(path)
        root = self.around(path) if is_file(path) else path
        if root is not None and self.root(root):
            yield Hit(root, found_via, named=True)
        else:
            missing = f"there is no {HEADER} {'above' if is_file(path) else 'in'} it"
            hint = f"name the folder that holds {HEADER}; or {facts()['rocm']['headers']}"
            yield Rejected(path, found_via, missing, hint)


def toolkit_option(search: Search) -> Iterator[Finding]:
    """1. ``--toolkit PATH``: the folder above ``include/hip``, or a compiler below it."""
    if search.given is not None:
        yield from search.named(search.given, "--toolkit")


def folder_variables(search: Search) -> Iterator[Finding]:
    """2. ``ROCM_PATH``, then ``HIP_PATH``."""
    for variable in ("ROCM_PATH", "HIP_PATH"):
        value = search.environ.get(variable)
        if value:
            yield from search.named(Path(value), variable)


def programs_on_path(search: Search) -> Iterator[Finding]:
    """3. Around every ``hipcc`` and ``amdclang++`` on PATH.

    The scripts of that name in a virtual environment stand for wheels, which step 6 finds.
    """
    for name in ("hipcc", "amdclang++"):
        for program in on_path(name, search.environ, search.machine):
            root = search.around(program)
            if root is not None:
                yield Hit(root, "PATH")
            elif program.parent == search.machine.root / "usr/bin":
                reason = f"is there without HIP's headers ({HEADER})"
                yield Rejected(program, "PATH", reason, facts()["rocm"]["headers"])


def usual_folders(search: Search) -> Iterator[Finding]:
    """4. ``/opt/rocm``, ``/opt/rocm-*`` and, from 7.14 on, ``/opt/rocm/core*``."""
    opt = search.machine.root / "opt"
    for folder in (*search.listed(opt, "rocm*"), *search.listed(opt / "rocm", "core*")):
        if search.root(folder):
            yield Hit(folder, str(folder))


def distribution(search: Search) -> Iterator[Finding]:
    """5. The packages of Debian, Ubuntu and Fedora, spread over ``/usr``."""
    folder = search.machine.root / "usr"
    if search.root(folder):
        yield Hit(folder, "the distribution's packages")


def wheels(search: Search) -> Iterator[Finding]:
    """6. ROCm's wheels in site-packages: ``_rocm_sdk_devel`` has everything, ``_rocm_sdk_core``
    all but the libraries' headers.
    """
    for site_packages in search.python_path:
        for name in ("_rocm_sdk_devel", "_rocm_sdk_core"):
            if search.root(site_packages / name):
                yield Hit(site_packages / name, "ROCm wheels")


STEPS: tuple[Callable[[Search], Iterator[Finding]], ...] = (
    toolkit_option,
    folder_variables,
    programs_on_path,
    usual_folders,
    distribution,
    wheels,
)


def find_rocm(
    environ: Mapping[str, str],
    *,
    explicit: str | None = None,
    memo: Memo,
    machine: Machine | None = None,
    python_path: Sequence[str | Path] | None = None,
) -> RocmSearch:
    """Find, describe and order every ROCm of this machine.

    Order: those that the user named, as named; then the newest.

    :param explicit: ``--toolkit``: a path, which ends the search, or a version such as ``6`` or
        ``6.2``, which turns down all others.
    :param memo: remembers what the compilers said, so that a second search starts no process.
    :param machine: where to look; this one by default.
    :param python_path: folders that may hold wheels; :data:`sys.path` by default.
    :raises ToolchainError: nothing fits ``explicit``, or this is not Linux.
    """
    machine = machine or Machine.here()
    if machine.system != "linux":
        raise ToolchainError(
            "modules for AMD GPUs are built on Linux only",
            hint="build on Linux, for example in a container with ROCm; or take the ggml-rocm "
            "that is inside the llamafile",
        )
    folder, version = folder_or_version(explicit)
    search = Search(
        environ,
        folder,
        machine,
        [Path(folder) for folder in (sys.path if python_path is None else python_path) if folder],
    )
    found, rejected = _describe_all(search, memo)
    if version:
        found, others = of_version(found, version)
        rejected += others
    if explicit and not found:
        otherwise = "leave --toolkit out to use any ROCm that is installed"
        raise nothing_fits("ROCm", explicit, rejected, otherwise=otherwise)
    return RocmSearch(
        toolkits=tuple(sorted(found, key=_rank)),
        rejected=tuple(rejected),
        warnings=tuple(not_used(rejected, ("ROCM_PATH", "HIP_PATH"))),
        watched=tuple(dict.fromkeys(search.watched)),
    )


def _describe_all(search: Search, memo: Memo) -> tuple[list[Rocm], list[Rejected]]:
    found: list[Rocm] = []
    rejected: list[Rejected] = []
    seen: set[str] = set()
    steps = STEPS[:1] if search.given else STEPS
    for finding in (finding for step in steps for finding in step(search)):
        if isinstance(finding, Rejected):
            rejected.append(finding)
            continue
        # /opt/rocm may be a link to /opt/rocm-6.2, or hold links into another folder.
        home = os.path.realpath(finding.root / HEADER)
        if home in seen:
            continue
        seen.add(home)
        try:
            rocm = describe(
                finding.root,
                found_via=finding.found_via,
                named=finding.named,
                environ=search.environ,
                machine=search.machine,
                memo=memo,
                watched=search.watched,
            )
        except Unusable as problem:
            rejected.append(Rejected(finding.root, finding.found_via, problem.reason, problem.hint))
        else:
            found.append(rocm)
    return found, rejected


def _rank(rocm: Rocm) -> tuple[bool, tuple[int, ...]]:
    """Sort key: best first. Sorting is stable, so those named stay in the order of the search."""
    if rocm.named:
        return (False, ())
    return (True, tuple(-number for number in numbers(rocm.version)))
