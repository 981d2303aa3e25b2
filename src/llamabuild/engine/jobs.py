"""How many compilers run at once, and how many threads each may use.

One rule for all: a machine has as many *places* as it has cores, or fewer if memory is short. The
independent pieces of work (translation units times architectures) take the places first, because
separate processes divide perfectly. Places that are left over are shared out inside each piece,
by nvcc's ``--split-compile``.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GIB", "Share", "share"]

GIB = 1024**3

#: What one heavy nvcc takes at its peak, in bytes (template instances of ggml's flash attention).
BYTES_PER_COMPILER = 3 * GIB
#: One file's optimizer takes about 0.8 GB for the largest llamafile source.
BYTES_PER_SINGLE_FILE = GIB
#: Left to everything else.
BYTES_RESERVED = GIB


@dataclass(frozen=True)
class Share:
    """``jobs`` processes at once, each dividing its own work ``split`` ways."""

    jobs: int
    split: int


def share(
    *, pieces: int, cores: int, memory_bytes: int, bytes_per_piece: int, jobs: int | None = None
) -> Share:
    """Divide the machine among ``pieces`` independent compilations.

    :param pieces: translation units times architectures that can run side by side.
    :param jobs: the user's own number, which is obeyed as the number of places.
    """
    room = max(1, (memory_bytes - BYTES_RESERVED) // bytes_per_piece)
    places = jobs or max(1, min(cores, room))
    at_once = max(1, min(places, pieces))
    return Share(jobs=places, split=-(-places // at_once))
