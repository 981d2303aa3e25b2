"""Find the CUDA toolkits of this machine.

The search is :data:`STEPS`, a tuple of functions, each numbered in its docstring. A step looks at
files only. Every nvcc that a step finds is then described by :mod:`.describe`, which starts it;
the same toolkit found in several ways is listed once, as its first finder names it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from llamabuild.errors import ToolchainError
from llamabuild.looking import is_file, is_folder, listed
from llamabuild.memo import Memo
from llamabuild.toolchain.asked import folder_or_version, not_used, nothing_fits, of_version
from llamabuild.toolchain.describe import describe
from llamabuild.toolchain.facts import numbers
from llamabuild.toolchain.layout import Layout, real_home
from llamabuild.toolchain.model import Machine, Rejected, Toolkit, ToolkitSearch
from llamabuild.toolchain.programs import Unusable, find_program, path_folders

__all__ = ["STEPS", "find_cuda"]


@dataclass(frozen=True)
class Hit:
    """An nvcc, not yet started."""

    nvcc: Path
    found_via: str
    named: bool = False


Finding: TypeAlias = Hit | Rejected


@dataclass(frozen=True)
class Search:
    """What the steps look at, and (``watched``) a record of where they looked."""

    environ: Mapping[str, str]
    folder: Path | None
    machine: Machine
    python_path: Sequence[Path]
    watched: list[Path] = field(default_factory=list)

    def nvcc_in(self, *folders: Path) -> Path | None:
        """The first nvcc that lies directly in one of ``folders``."""
        for folder in folders:
            program = folder / self.machine.program("nvcc")
            self.watched.append(program)
            if is_file(program):
                return program
        return None

    def listed(self, folder: Path, pattern: str) -> list[Path]:
        """What in ``folder`` matches ``pattern``."""
        self.watched.append(folder)
        return listed(folder, pattern)

    def named_folder(self, folder: Path, found_via: str) -> Iterator[Finding]:
        """A folder that the user named: a miss is worth a word."""
        nvcc = self.nvcc_in(folder, folder / "bin")
        if nvcc is None:
            reason = (
                "has no nvcc, nor a folder bin with one" if is_folder(folder) else "is no folder"
            )
            yield Rejected(folder, found_via, reason, "name the folder that holds bin/nvcc")
        else:
            yield Hit(nvcc, found_via, named=True)


def toolkit_option(search: Search) -> Iterator[Finding]:
    """1. ``--toolkit PATH``: nvcc itself, the folder it is in, or the folder above ``bin``."""
    if search.folder is not None and is_file(search.folder):
        search.watched.append(search.folder)
        yield Hit(search.folder, "--toolkit", named=True)
    elif search.folder is not None:
        yield from search.named_folder(search.folder, "--toolkit")


def compiler_variables(search: Search) -> Iterator[Finding]:
    """2. ``CUDACXX``, then ``NVCC``: the path of nvcc, or its name on PATH."""
    for variable in ("CUDACXX", "NVCC"):
        value = search.environ.get(variable)
        if value:
            nvcc = find_program(value, search.environ, search.machine)
            search.watched.append(nvcc or Path(value))
            if nvcc is None:
                yield Rejected(Path(value), variable, "is no program", "name the path of an nvcc")
            else:
                yield Hit(nvcc, variable, named=True)


def folder_variables(search: Search) -> Iterator[Finding]:
    """3. ``CUDA_HOME``, then ``CUDA_PATH``: the folder above ``bin``."""
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        value = search.environ.get(variable)
        if value:
            yield from search.named_folder(Path(value), variable)


def on_path(search: Search) -> Iterator[Finding]:
    """4. Every nvcc on PATH."""
    for folder in path_folders(search.environ):
        nvcc = search.nvcc_in(folder)
        if nvcc:
            yield Hit(nvcc, "PATH")


def usual_folders(search: Search) -> Iterator[Finding]:
    r"""5. Where NVIDIA's installers and Arch Linux put it.

    ``/usr/local/cuda``, ``/usr/local/cuda-*`` and ``/opt/cuda``; on Windows
    ``%ProgramFiles%\\NVIDIA GPU Computing Toolkit\CUDA\v*``.
    """
    if search.machine.system == "windows":
        programs = Path(search.environ.get("PROGRAMFILES", r"C:\Program Files"))
        folders = search.listed(programs / "NVIDIA GPU Computing Toolkit" / "CUDA", "v*")
    else:
        root = search.machine.root
        folders = [*search.listed(root / "usr/local", "cuda*"), root / "opt/cuda"]
    for folder in folders:
        nvcc = search.nvcc_in(folder / "bin")
        if nvcc:
            yield Hit(nvcc, str(folder))


def debian_package(search: Search) -> Iterator[Finding]:
    """6. Debian's and Ubuntu's package ``nvidia-cuda-toolkit``, spread over ``/usr``."""
    nvcc = search.nvcc_in(search.machine.root / "usr/lib/nvidia-cuda-toolkit/bin")
    if nvcc:
        yield Hit(nvcc, "Debian's nvidia-cuda-toolkit")


def wheels(search: Search) -> Iterator[Finding]:
    """7. The CUDA wheels in site-packages: ``nvidia/cu13/bin/nvcc``.

    The wheels of CUDA 11 and 12 bring ptxas without nvcc, and are turned down by name.
    """
    for site_packages in search.python_path:
        for folder in search.listed(site_packages / "nvidia", "cu[0-9]*"):
            nvcc = search.nvcc_in(folder / "bin")
            if nvcc:
                yield Hit(nvcc, "CUDA wheels")
        partial = site_packages / "nvidia" / "cuda_nvcc"
        if is_folder(partial):
            yield Rejected(
                partial,
                "CUDA wheels",
                "the wheels of CUDA 11 and 12 hold ptxas but no nvcc",
                "`pip install 'llamabuild[cuda13]'`",
            )


def conda(search: Search) -> Iterator[Finding]:
    """8. The active conda environment, ``$CONDA_PREFIX``."""
    prefix = search.environ.get("CONDA_PREFIX")
    if prefix:
        nvcc = search.nvcc_in(Path(prefix, "bin"), Path(prefix, "Library", "bin"))
        if nvcc:
            yield Hit(nvcc, "conda")


STEPS: tuple[Callable[[Search], Iterator[Finding]], ...] = (
    toolkit_option,
    compiler_variables,
    folder_variables,
    on_path,
    usual_folders,
    debian_package,
    wheels,
    conda,
)


def find_cuda(
    environ: Mapping[str, str],
    *,
    explicit: str | None = None,
    memo: Memo,
    machine: Machine | None = None,
    python_path: Sequence[str | Path] | None = None,
) -> ToolkitSearch:
    """Find, describe and order every CUDA toolkit of this machine.

    Order: those that the user named, as named; then those without a known defect; then the newest.

    :param explicit: ``--toolkit``: a path, which ends the search, or a version such as ``12`` or
        ``12.8``, which turns down all others.
    :param memo: remembers what the compilers said, so that a second search starts no process.
    :param machine: where to look; this one by default.
    :param python_path: folders that may hold wheels; :data:`sys.path` by default.
    :raises ToolchainError: nothing fits ``explicit``, or this is macOS.
    """
    machine = machine or Machine.here()
    if machine.system == "macos":
        raise ToolchainError(
            "CUDA does not exist on macOS: there llamafile computes with Metal, which is inside it "
            "already, so there is no module to build",
            hint="run the llamafile as it is",
        )
    folder, version = folder_or_version(explicit)
    search = Search(
        environ,
        folder,
        machine,
        [Path(folder) for folder in (sys.path if python_path is None else python_path) if folder],
    )
    toolkits, rejected = _describe_all(search, memo)
    if version:
        toolkits, others = of_version(toolkits, version)
        rejected += others
    if explicit and not toolkits:
        otherwise = "leave --toolkit out to use any toolkit that is installed"
        raise nothing_fits("CUDA toolkit", explicit, rejected, otherwise=otherwise)
    return ToolkitSearch(
        toolkits=tuple(sorted(toolkits, key=_rank)),
        rejected=tuple(rejected),
        warnings=_warnings(environ, rejected),
        watched=tuple(dict.fromkeys(search.watched)),
    )


def _describe_all(search: Search, memo: Memo) -> tuple[list[Toolkit], list[Rejected]]:
    toolkits: list[Toolkit] = []
    rejected: list[Rejected] = []
    seen: set[Path] = set()
    steps = STEPS[:1] if search.folder else STEPS
    for finding in (finding for step in steps for finding in step(search)):
        if isinstance(finding, Rejected):
            rejected.append(finding)
            continue
        try:
            home = real_home(finding.nvcc, finding.found_via, search.environ, memo)
            if home in seen:
                continue
            seen.add(home)
            layout = Layout.of(home, search.machine)
            search.watched.extend(layout.watched(search.machine))
            toolkit = describe(
                layout,
                found_via=finding.found_via,
                named=finding.named,
                environ=search.environ,
                machine=search.machine,
                memo=memo,
            )
        except Unusable as problem:
            rejected.append(Rejected(finding.nvcc, finding.found_via, problem.reason, problem.hint))
        else:
            toolkits.append(toolkit)
    return toolkits, rejected


def _rank(toolkit: Toolkit) -> tuple[bool, tuple[int, ...]]:
    """Sort key: best first. Sorting is stable, so those named stay in the order of the search."""
    if toolkit.named:
        return (False, ())
    return (bool(toolkit.known_problems), tuple(-number for number in numbers(toolkit.version)))


def _warnings(environ: Mapping[str, str], rejected: Sequence[Rejected]) -> tuple[str, ...]:
    warnings = not_used(rejected, ("CUDACXX", "NVCC", "CUDA_HOME", "CUDA_PATH"))
    home, path = environ.get("CUDA_HOME"), environ.get("CUDA_PATH")
    if home and path and os.path.realpath(home) != os.path.realpath(path):
        warnings.insert(
            0, f"CUDA_HOME ({home}) and CUDA_PATH ({path}) differ; CUDA_HOME goes first"
        )
    return tuple(warnings)
