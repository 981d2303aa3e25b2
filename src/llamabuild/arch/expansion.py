"""From what was asked for to the concrete architectures that a compiler is told."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from llamabuild.arch.model import CudaArch, HipTarget, Item, Keyword
from llamabuild.errors import ArchitectureError

__all__ = ["expand", "missing", "needed"]


def needed(
    items: Iterable[Item], *, visible: Collection[CudaArch], none_visible: str = ""
) -> tuple[CudaArch, ...]:
    """Return what a toolkit has to be able to compile, before one is chosen; sorted, unique.

    ``all`` and ``all-major`` ask for what the toolkit has, so they add nothing here.

    :param visible: the architectures of the GPUs that programs can see.
    :param none_visible: why ``visible`` is empty, for the error message.
    :raises ArchitectureError: ``native`` without a visible GPU, or an AMD target.
    """
    wanted: set[CudaArch] = set()
    for item in items:
        if isinstance(item, CudaArch):
            wanted.add(item)
        elif isinstance(item, HipTarget):
            raise ArchitectureError(
                f"{item} is an AMD GPU, and nvcc compiles for NVIDIA's only",
                hint="leave --backend cuda out, or name NVIDIA GPUs, for example --arch 89",
            )
        elif item is Keyword.NATIVE and not visible:
            reason = f": {none_visible}" if none_visible else ""
            raise ArchitectureError(
                f"'native' means the GPU of this machine, and none is visible{reason}",
                hint="name the GPU or the architecture to build for, for example "
                '--arch "rtx 4090" or --arch 89; or --arch all-major for every generation',
            )
        elif item in (Keyword.NATIVE, Keyword.AUTO):
            wanted.update(visible)
    return tuple(sorted(wanted))


def expand(
    items: Sequence[Item],
    *,
    visible: Collection[CudaArch],
    real: Collection[CudaArch],
    virtual: Collection[CudaArch],
    levels: Collection[int] = (),
    literal: bool = False,
    none_visible: str = "",
) -> tuple[CudaArch, ...]:
    """Resolve keywords to concrete architectures; sorted numerically, unique.

    - ``native``: machine code for each visible GPU.
    - ``auto``: ``native`` where a GPU is visible, else ``all-major``.
    - ``all``: machine code for all of ``real``, and PTX of the newest.
    - ``all-major``: machine code for the first architecture of each major version and for the
      first one at or above each level, and PTX of the newest of these.

    Architectures with a suffix (90a) run on one GPU or one family only: no keyword stands for
    them, but a list may name them. Named architectures pass through unchecked: see
    :func:`missing`.

    :param visible: the architectures of the GPUs that programs can see.
    :param real: machine code that the toolkit can make.
    :param virtual: PTX that the toolkit can make.
    :param levels: architectures (61) at which the source switches to other device code.
    :param literal: for ``all`` and ``all-major``, nvcc's own sets: no levels, and PTX of the first
        architecture of the highest major version.
    :param none_visible: why ``visible`` is empty, for the error message.
    :raises ArchitectureError: ``native`` without a visible GPU, or an AMD target.
    """
    wanted = set(needed(items, visible=visible, none_visible=none_visible))
    plain = sorted(arch for arch in real if not arch.suffix)
    majors = {arch.major * 10 for arch in plain}
    if Keyword.ALL in items:
        wanted.update(_with_ptx(plain, virtual, literal=literal))
    if Keyword.ALL_MAJOR in items or (Keyword.AUTO in items and not visible):
        steps = majors if literal else majors.union(levels)
        chosen = {_at_or_above(step, plain) for step in steps} - {None}
        wanted.update(
            _with_ptx([arch for arch in plain if arch in chosen], virtual, literal=literal)
        )
    return tuple(sorted(wanted))


def missing(
    archs: Iterable[CudaArch], real: Collection[CudaArch], virtual: Collection[CudaArch]
) -> tuple[CudaArch, ...]:
    """Return those of ``archs`` that a toolkit which makes ``real`` and ``virtual`` cannot."""
    return tuple(arch for arch in archs if arch not in (virtual if arch.virtual else real))


def _at_or_above(step: int, plain: Sequence[CudaArch]) -> CudaArch | None:
    """Return the oldest of the sorted ``plain`` that has what arrived with ``step``."""
    return next((arch for arch in plain if arch.number >= step), None)


def _with_ptx(
    chosen: Sequence[CudaArch], virtual: Collection[CudaArch], *, literal: bool
) -> list[CudaArch]:
    """Add PTX of the newest of the sorted ``chosen``, for GPUs newer than the toolkit."""
    if not chosen:
        return []
    newest = chosen[-1]
    if literal:
        newest = next(arch for arch in chosen if arch.major == newest.major)
    ptx = CudaArch(newest.number, virtual=True)
    return [*chosen, ptx] if ptx in virtual else [*chosen]
