"""Choose the ROCm for one request, or say which one to install."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llamabuild.arch import HipTarget, override_for
from llamabuild.errors import ToolchainError
from llamabuild.toolchain.asked import overruled
from llamabuild.toolchain.facts import facts, numbers
from llamabuild.toolchain.model import Rejected, Rocm, RocmSearch

__all__ = ["RocmChoice", "RocmNeeds", "choose_rocm"]


@dataclass(frozen=True)
class RocmNeeds:
    """What a source asks of a ROCm beside targets.

    :param oldest: the HIP with which it compiles, such as (5, 5); none: any.
    :param why: what older ones lack, in words that follow "because".
    :param hipblas: why hipBLAS is needed; empty where it is not.
    """

    oldest: tuple[int, int] | None = None
    why: str = ""
    hipblas: str = ""


@dataclass(frozen=True)
class RocmChoice:
    """The ROCm for one request, those passed over for it, and what the user should hear."""

    toolkit: Rocm
    passed_over: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()


def choose_rocm(search: RocmSearch, targets: Sequence[HipTarget], needs: RocmNeeds) -> RocmChoice:
    """Return the best ROCm that compiles all of ``targets`` and has what the source needs.

    :raises ToolchainError: none does; the hint says what to install, or, for a target that no
        ROCm here knows, which other target's code runs on that card by override.
    """
    passed_over: list[Rejected] = []
    hints: list[str] = []
    for rocm in search.toolkits:
        reason, hint = _shortcoming(rocm, targets, needs)
        if not reason:
            return RocmChoice(
                rocm, tuple(passed_over), overruled(rocm, passed_over, search.toolkits)
            )
        passed_over.append(Rejected(rocm.root, rocm.found_via, reason, hint))
        hints.append(hint)
    if not search.toolkits:
        hints = [entry.hint for entry in search.rejected if entry.hint]
        what = "no usable ROCm was found"
        reasons = [str(entry) for entry in search.rejected]
    else:
        what = "no ROCm here can build this"
        reasons = [str(entry) for entry in passed_over]
    listed = "".join(f"\n  {reason}" for reason in reasons)
    raise ToolchainError(
        f"{what}{':' if listed else ''}{listed}", hint=next(iter(hints), facts()["rocm"]["any"])
    )


def _shortcoming(rocm: Rocm, targets: Iterable[HipTarget], needs: RocmNeeds) -> tuple[str, str]:
    """Why a ROCm cannot do what is asked, and what would help; empty if it can."""
    unknown = [target for target in targets if not rocm.compiles(target)]
    if unknown:
        return _unknown_to(rocm, unknown)
    if needs.oldest and numbers(rocm.version) < needs.oldest:
        release = ".".join(map(str, needs.oldest))
        return (
            f"HIP {rocm.version} is too old: {release} is needed, because {needs.why}",
            f"install ROCm {release} or newer: {facts()['rocm']['newer']}",
        )
    if needs.hipblas and rocm.hipblas is None:
        return f"it has no hipBLAS, and {needs.hipblas}", facts()["rocm"]["blas"]
    return "", ""


def _unknown_to(rocm: Rocm, unknown: Sequence[HipTarget]) -> tuple[str, str]:
    """Name what cannot be compiled, and whose code would run on such a card."""
    compiled = [str(target) for target in rocm.targets]
    ways = []
    for target in unknown:
        override = override_for(target.name, compiled)
        if override is not None:
            ways.append(
                f"a {target.name} runs code for {override.runs_as} under "
                f"HSA_OVERRIDE_GFX_VERSION={override.version}"
                f"{f' ({override.warning})' if override.warning else ''}: "
                f"--arch {override.runs_as}"
            )
    names = ", ".join(str(target) for target in unknown)
    half = [one for one in unknown if one.name in rocm.without_libraries]
    reason = f"HIP {rocm.version} does not compile {names}"
    if half:
        known = ", ".join(str(target) for target in half)
        reason += f": its clang knows {known}, its device libraries do not"
    newer = f"install a newer ROCm: {facts()['rocm']['newer']}"
    return reason, "; or ".join([*ways, newer])
