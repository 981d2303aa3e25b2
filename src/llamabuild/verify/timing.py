"""Times of a ``bundled`` module's products, the weights in rotation so that no cache holds them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from gguf import GGMLQuantizationType

from llamabuild.verify.blocks import random_rows
from llamabuild.verify.kernels import Kernels
from llamabuild.verify.model import Timing
from llamabuild.verify.products import spelled

__all__ = ["copy_bandwidth", "time_type"]

#: Bytes of weights that are read before the first come again: several times any GPU's cache.
ROTATION = 1 << 30
#: Runs of which the median is taken, and about how long one is, in microseconds.
RUNS, RUN_MICROSECONDS = 7, 20_000


def copy_bandwidth(gpu: Kernels) -> float:
    """Bytes that a large copy reads and writes each second."""
    size = _part_of(gpu, 1 << 30)
    to, origin = gpu.allocate(size), gpu.allocate(size)
    gpu.fill(origin, 0x5A, size)
    times = [gpu.measure_copy(to, origin, size, 5) for _ in range(RUNS)]
    gpu.close()
    return 2 * size / statistics.median(times) * 1e6


def time_type(
    gpu: Kernels,
    kind: GGMLQuantizationType,
    shape: tuple[int, int],
    columns: Sequence[int],
    copy_bytes_per_second: float,
    doing: Callable[[str], None],
) -> Iterator[Timing]:
    """Time the products of an m x k matrix with each number of columns.

    :param doing: is told of each product before it starts: it may be the last.
    :raises KernelError: the module refused one.
    """
    m, k = shape
    rng = np.random.default_rng()
    rows = random_rows(kind, 256, k, rng)
    weight_bytes = m * rows.shape[1]
    stride = -(-weight_bytes // 256) * 256
    copies = max(2, _part_of(gpu, ROTATION) // stride)
    weights, first = gpu.allocate(copies * stride), gpu.upload(rows)
    for begin in range(0, copies * stride, rows.nbytes):
        gpu.copy(weights + begin, first, min(rows.nbytes, copies * stride - begin))
    x = gpu.upload(rng.normal(size=(max(columns), k)).astype(np.float32))
    output = gpu.allocate(max(columns) * m * 4)
    for n in columns:
        doing(f"{spelled(kind)}, {m} x {k} times {k} x {n}")
        product = gpu.product(int(kind), m, n, k, weights=weights, activations=x, output=output)
        gpu.workspace(product)
        gpu.measure(product, copies, stride, 2)  # the first loads the code
        once = max(gpu.measure(product, copies, stride, 3), 0.1)
        repeats = int(min(max(RUN_MICROSECONDS / once, 3), 500))
        runs = [gpu.measure(product, copies, stride, repeats) for _ in range(RUNS)]
        median = statistics.median(runs)
        moved = (weight_bytes + 4 * n * (k + m)) / median * 1e6
        yield Timing(
            type=spelled(kind),
            m=m,
            n=n,
            k=k,
            path=gpu.path(product),
            microseconds=median,
            least=min(runs),
            most=max(runs),
            bytes_per_second=moved,
            operations_per_second=2 * m * n * k / median * 1e6,
            share=moved / copy_bytes_per_second,
        )
    gpu.close()


def _part_of(gpu: Kernels, size: int) -> int:
    """``size`` bytes, or an eighth of a small card's memory."""
    *_, memory = gpu.info()
    return min(size, memory // 8 // 256 * 256)
