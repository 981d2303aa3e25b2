"""Toolkits, host compilers and build tools: which are there, and what is wrong with the others."""

from __future__ import annotations

import os
from collections.abc import Iterator

from llamabuild import toolchain
from llamabuild.doctor.facts import facts, newer
from llamabuild.doctor.model import Line
from llamabuild.doctor.surroundings import Surroundings
from llamabuild.errors import ToolchainError
from llamabuild.memo import Memo
from llamabuild.toolchain import RocmSearch, Toolkit, ToolkitSearch

__all__ = ["build_tools", "host_compilers", "launchers", "rocms", "toolkits", "variables"]

#: How the search says that the user named it: what was named is not passed over quietly.
_NAMED = {"CUDACXX", "NVCC", "CUDA_HOME", "CUDA_PATH", "ROCM_PATH", "HIP_PATH"}


def toolkits(here: Surroundings) -> Iterator[Line]:
    if here.machine.system == "macos":
        yield Line("note", "CUDA does not exist on macOS; llamafile computes with Metal there")
        return
    search = here.toolkits
    for toolkit in search.toolkits:
        yield Line("ok", _described(toolkit))
        for problem in toolkit.known_problems:
            what, _, cure = problem.partition("; ")
            yield Line("trouble", f"{toolkit.label}: {what}", cure)
    yield from _turned_down(search)
    amd_only = here.amd.gpus and not here.nvidia.gpus
    if not search.toolkits and not amd_only:
        try:
            toolchain.choose(search, [], cublas=False)
        except ToolchainError as error:
            yield Line("trouble", error.message.partition(":")[0], error.hint)


def _described(toolkit: Toolkit) -> str:
    span = "nothing"
    if toolkit.real:
        span = f"{toolkit.real[0].capability} to {toolkit.real[-1].capability}"
    blas = f"cuBLAS {toolkit.cublas.version}" if toolkit.cublas else "no cuBLAS"
    return f"{toolkit.label}, by {toolkit.found_via}: compiles {span}, {blas}"


def rocms(here: Surroundings) -> Iterator[Line]:
    """Every ROCm; what was turned down only where there is a GPU for it."""
    search = here.rocms
    for rocm in search.toolkits:
        blas = "hipBLAS" if rocm.hipblas else "no hipBLAS"
        yield Line(
            "ok",
            f"{rocm.label}, by {rocm.found_via}: compiles {len(rocm.targets)} targets with clang "
            f"{rocm.llvm}, {blas}",
        )
    if here.amd.gpus:
        yield from _turned_down(search)


def _turned_down(search: ToolkitSearch | RocmSearch) -> Iterator[Line]:
    """What a search did not take, and what else it noticed."""
    for rejected in search.rejected:
        serious = not search.toolkits or rejected.found_via in _NAMED
        yield Line("trouble" if serious else "note", f"not used: {rejected}", rejected.hint)
    for warning in search.warnings:
        if not any(rejected.reason in warning for rejected in search.rejected):
            yield Line("note", warning, "unset the one that is not meant")


def host_compilers(here: Surroundings) -> Iterator[Line]:
    """The C++ compiler of each toolkit, or why there is none."""
    served: dict[str, list[str]] = {}
    passed_over: dict[str, None] = {}
    for toolkit in here.toolkits.toolkits:
        try:
            compiler = toolchain.find_host_compiler(
                toolkit, here.environ, memo=Memo(None), machine=here.machine
            )
        except ToolchainError as error:
            yield Line("trouble", error.message, error.hint)
            continue
        name = f"{compiler.kind} {compiler.version} ({compiler.path})"
        served.setdefault(name, []).append(toolkit.version)
        passed_over |= dict.fromkeys(compiler.notes)
    for name, versions in served.items():
        yield Line("ok", f"{name} serves CUDA {', '.join(versions)}")
    for note in passed_over:
        yield Line("ok", f"passed over: {note}")


def build_tools(here: Surroundings) -> Iterator[Line]:
    if here.machine.system == "macos":
        return
    tools = toolchain.find_build_tools(here.environ, memo=Memo(None), machine=here.machine)
    yield Line("ok", f"CMake {tools.cmake_version} ({tools.cmake})")
    yield Line("ok", f"Ninja {tools.ninja_version} ({tools.ninja})")


def launchers(here: Surroundings) -> Iterator[Line]:
    """A compiler cache that cannot follow the newest compiler."""
    launcher = os.path.basename(here.environ.get("CMAKE_CUDA_COMPILER_LAUNCHER", ""))  # noqa: PTH119
    for known in facts()["launcher"]:
        versions = [
            toolkit.version
            for toolkit in here.toolkits.toolkits
            if not newer(known["first"], toolkit.version)
        ]
        if launcher.startswith(known["name"]) and versions:
            yield Line("note", f"{known['text']} (CUDA {', '.join(versions)})", known["cure"])


def variables(here: Surroundings) -> Iterator[Line]:
    """Variables that people set for nvcc and that a build leaves out."""
    ignored = toolchain.ignored_variables(here.environ)
    if ignored:
        yield Line(
            "note",
            f"{', '.join(ignored)}: a build does not heed what nvcc would",
            "say it with --nvcc-flag or -D",
        )
