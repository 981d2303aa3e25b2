"""AMD's targets: from what was asked for to what clang is told.

Code for an AMD GPU runs on that very target and no newer one, so there is nothing like PTX here;
the exceptions are the generic targets of LLVM 19 and later, and ``HSA_OVERRIDE_GFX_VERSION``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from llamabuild.arch import facts
from llamabuild.arch.model import CudaArch, HipTarget, Item, Keyword
from llamabuild.errors import ArchitectureError

__all__ = ["expand_hip", "hip_target", "known_hip", "needed_hip", "sorted_targets"]


def known_hip() -> tuple[str, ...]:
    """Every AMD target that we know, oldest hardware first."""
    return tuple(facts.hip_features())


def hip_target(text: str) -> HipTarget:
    """Read LLVM's target ID, ``gfx90a:xnack-``, whether or not we know the processor."""
    name, *features = text.split(":")
    return HipTarget(name, tuple(sorted(features)))


def sorted_targets(targets: Iterable[HipTarget]) -> tuple[HipTarget, ...]:
    """Return each of ``targets`` once, oldest hardware first, what we do not know last."""
    order = {name: place for place, name in enumerate(known_hip())}
    return tuple(sorted(set(targets), key=lambda one: (order.get(one.name, len(order)), one)))


def needed_hip(
    items: Iterable[Item],
    *,
    visible: Collection[HipTarget],
    none_visible: str = "",
    remedy: str = "",
) -> tuple[HipTarget, ...]:
    """Return what a ROCm has to be able to compile, before one is chosen; sorted, unique.

    :param visible: the targets of the AMD GPUs that programs can see.
    :param none_visible: why ``visible`` is empty, and ``remedy`` what to do about it, for the error
        message.
    :raises ArchitectureError: ``native`` without a visible AMD GPU, an NVIDIA architecture, or a
        target both by itself and pinned to a feature.
    """
    wanted: set[HipTarget] = set()
    for item in items:
        if isinstance(item, HipTarget):
            wanted.add(item)
        elif isinstance(item, CudaArch):
            raise ArchitectureError(
                f"{item.code} is an NVIDIA GPU, and the HIP backend compiles for AMD's only",
                hint="leave --backend hip out for NVIDIA GPUs, or name AMD targets, for example "
                "--arch gfx1030",
            )
        elif item is Keyword.NATIVE and not visible:
            reason = f": {none_visible}" if none_visible else ""
            raise ArchitectureError(
                f"'native' means the GPU of this machine, and no AMD GPU is visible{reason}",
                hint=remedy
                or "name the GPU or the target to build for, for example --arch gfx1030 or "
                '--arch "rx 6800"; or --arch all-major for every generation',
            )
        elif item in (Keyword.NATIVE, Keyword.AUTO):
            wanted.update(visible)
    _refuse_both_plain_and_pinned(wanted)
    return sorted_targets(wanted)


def expand_hip(
    items: Collection[Item],
    *,
    visible: Collection[HipTarget],
    supported: Iterable[HipTarget],
) -> tuple[HipTarget, ...]:
    """Resolve keywords to concrete targets; oldest hardware first, unique.

    - ``native``: each visible AMD GPU.
    - ``auto``: ``native`` where an AMD GPU is visible, else ``all-major``.
    - ``all``: all of ``supported``, without generic targets, which add no GPU to them.
    - ``all-major``: those of ``supported`` at which ggml's sources switch to other code; the GPUs
      between them can run this code by ``HSA_OVERRIDE_GFX_VERSION``.

    Where a list pins a target to a feature (``gfx90a:xnack-``), no keyword adds it unpinned.

    :param supported: what the chosen ROCm compiles.
    :raises ArchitectureError: as :func:`needed_hip`.
    """
    wanted = set(needed_hip(items, visible=visible))
    named = {target.name for target in wanted}
    concrete = [one for one in supported if not one.name.endswith("-generic")]
    if Keyword.ALL in items:
        wanted.update(one for one in concrete if one.name not in named)
    elif Keyword.ALL_MAJOR in items or (Keyword.AUTO in items and not visible):
        levels = facts.hip_levels()
        wanted.update(one for one in concrete if one.name in levels and one.name not in named)
    return sorted_targets(wanted)


def _refuse_both_plain_and_pinned(wanted: Collection[HipTarget]) -> None:
    """One module holds code of one target for any setting of a feature, or for given ones."""
    for target in sorted_targets(wanted):
        if target.features and HipTarget(target.name) in wanted:
            raise ArchitectureError(
                f"{target.name} and {target} in one module contradict each other",
                hint=f"name {target.name} alone, which runs with either setting, or pinned ones",
            )
