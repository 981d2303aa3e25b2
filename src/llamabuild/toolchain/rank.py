"""Choose the toolkit for one request, or say which one to install."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llamabuild.arch import CudaArch, CudaRange, compilers, describe
from llamabuild.errors import ToolchainError
from llamabuild.toolchain.asked import overruled
from llamabuild.toolchain.facts import facts, numbers
from llamabuild.toolchain.model import Choice, Rejected, Toolkit, ToolkitSearch

__all__ = ["choose"]


def choose(search: ToolkitSearch, needed: Sequence[CudaArch], *, cublas: bool) -> Choice:
    """Return the best toolkit that compiles all of ``needed``, with cuBLAS if that is wanted.

    Toolkits that the user named in a variable go first, but do not keep another from being used
    where they cannot do what is asked.

    :raises ToolchainError: none can; the hint says what to install, or that ``--per-arch`` would
        do because each architecture by itself has a toolkit.
    """
    passed_over: list[Rejected] = []
    for toolkit in search.toolkits:
        reason = _shortcoming(toolkit, needed, cublas=cublas)
        if not reason:
            return Choice(
                toolkit,
                tuple(passed_over),
                (*overruled(toolkit, passed_over, search.toolkits), *toolkit.known_problems),
            )
        passed_over.append(Rejected(toolkit.root, toolkit.found_via, reason))
    raise _error(search, needed, cublas=cublas)


def _shortcoming(toolkit: Toolkit, needed: Iterable[CudaArch], *, cublas: bool) -> str:
    """Why a toolkit cannot do what is asked; empty if it can."""
    refused = [arch for arch in needed if not toolkit.compiles(arch)]
    if refused:
        return f"CUDA {toolkit.version} does not compile {_listed(refused)}"
    if cublas and toolkit.cublas is None:
        return f"CUDA {toolkit.version} is installed without cuBLAS, which this source needs"
    return ""


def _error(search: ToolkitSearch, needed: Sequence[CudaArch], *, cublas: bool) -> ToolchainError:
    if not search.toolkits:
        reasons = "".join(f"\n  {entry}" for entry in search.rejected)
        return ToolchainError(
            f"no usable CUDA toolkit was found{':' if reasons else ''}{reasons}",
            hint=_advice(needed, cublas=cublas, cures=[entry.hint for entry in search.rejected]),
        )
    reasons = "".join(
        f"\n  {toolkit.root} ({toolkit.found_via}): {_shortcoming(toolkit, needed, cublas=cublas)}"
        for toolkit in search.toolkits
    )
    wanted = f"{_listed(needed)}{' with cuBLAS' if cublas else ''}"
    each = all(
        any(not _shortcoming(toolkit, [arch], cublas=cublas) for toolkit in search.toolkits)
        for arch in needed
    )
    if each and len(needed) > 1:
        return ToolchainError(
            f"no installed toolkit compiles all of {wanted}:{reasons}",
            hint="--per-arch builds one module per architecture, each with a toolkit that can",
        )
    return ToolchainError(
        f"no installed toolkit compiles {wanted}:{reasons}", hint=_advice(needed, cublas=cublas)
    )


def _advice(needed: Sequence[CudaArch], *, cublas: bool, cures: Iterable[str] = ()) -> str:
    """What to install for ``needed``, or which of them no one toolkit has together."""
    cure = next((f"{cure}; or " for cure in cures if cure), "")
    releases = compilers(needed)
    if releases is None and needed:
        return cure + "; ".join(describe(arch) for arch in needed)
    return cure + _installation(releases, cublas=cublas)


def _installation(releases: CudaRange | None, *, cublas: bool) -> str:
    fitting = [
        toolkit["command_with_cublas" if cublas else "command"]
        for toolkit in facts()["toolkit"]
        if releases is None or _release(toolkit["release"]) in releases
    ]
    needs = f"{releases} is needed" if releases else "a CUDA toolkit is needed"
    return f"{needs}: {', or '.join(fitting or ['developer.nvidia.com/cuda-toolkit-archive'])}"


def _release(version: str) -> tuple[int, int]:
    major, minor = numbers(version)
    return major, minor


def _listed(archs: Iterable[CudaArch]) -> str:
    return ", ".join(arch.capability + (" (PTX)" if arch.virtual else "") for arch in archs)
