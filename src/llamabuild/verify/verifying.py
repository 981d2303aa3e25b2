"""Try a module, and judge it by what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llamabuild.events import Listener, silent
from llamabuild.source import SourceTree
from llamabuild.verify.model import Timings, Verdict

__all__ = ["bench", "verify"]

#: Seconds. The first product may wait for the driver to compile PTX.
TIME_LIMIT = 600.0


def verify(
    path: Path,
    *,
    device: int = 0,
    types: Sequence[str] = (),
    source: SourceTree | None = None,
    environ: Mapping[str, str],
    time_limit: float = TIME_LIMIT,
    notify: Listener = silent,
) -> Verdict:
    """Run a module on a GPU of this machine; what it does wrong stands in the verdict.

    :param device: which GPU, as the module counts them.
    :param types: names such as ``q4_0``; all if empty.
    :param source: what the module was built from. Needed to multiply with a ``classic`` or a ggml
        module: without it, the verdict says what was not shown.
    :param time_limit: seconds that each program which runs the module may take.
    :raises UsageError: there is no such file, or no such type.
    :raises ArchitectureError: there is no GPU to run it on.
    :raises ToolchainError: numpy or gguf is missing.
    """
    raise NotImplementedError


def bench(
    path: Path,
    *,
    device: int = 0,
    types: Sequence[str] = (),
    columns: Sequence[int] = (1, 8, 512),
    shapes: Sequence[tuple[int, int]] = ((4096, 14336),),
    environ: Mapping[str, str],
    time_limit: float = TIME_LIMIT,
    notify: Listener = silent,
) -> Timings:
    """Time the products of a ``bundled`` module.

    :param columns: numbers of columns of activations (n).
    :param shapes: rows and columns of the weights (m, k).
    :raises UsageError: the module is of another flavor.
    :raises ModuleRejectedError: it cannot be loaded, crashes or hangs.

    Otherwise as :func:`verify`.
    """
    raise NotImplementedError
