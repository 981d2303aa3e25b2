"""Products of a ``bundled`` module on shapes that are awkward on purpose, against float64.

In every form that the C interface has: plain, batched, and grouped as a mixture of experts is.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from llamabuild.verify.blocks import QUANTIZED, random_rows, to_float64
from llamabuild.verify.kernels import Groups, Kernels
from llamabuild.verify.model import Row

__all__ = ["GUARD", "SIZES", "check_type", "off", "rounded"]

Array: TypeAlias = npt.NDArray[Any]

#: Rows and columns: one, a pair, around the widest matrix-vector kernel (8), tiles with a rest.
SIZES = (1, 2, 7, 8, 33, 129)
#: Bounds for ``same`` and for ``error`` (see Row); and for a single value, which could hide in the
#: norm of 16,641 of them.
SAME, EXACT, ONE_VALUE = 1e-3, 1e-2, 5e-2
#: Floats between columns, and rows between matrices of weights: none; some after which nothing is
#: aligned as before; some after which it is.
GAPS = (0, 5, 8)
#: Floats behind the last column of the output, that nobody may touch either.
GUARD = 64
#: Rows of each matrix in batches and groups: a tile of 16 and a rest.
ROWS = 17
#: A batch is this many products; each batch has n columns in a product, a gap, and weights that all
#: products share or do not. Each of these n has a kernel of its own on some GPU.
BATCH = 3
BATCHED = (
    (1, 8, False),
    (2, 5, True),
    (7, 0, False),
    (17, 5, True),
    (33, 8, False),
    (65, 5, False),
)
#: More results than experts, and than columns of activations.
EXPERTS, COLUMNS, RESULTS = 5, 7, 23


def check_type(
    gpu: Kernels,
    kind: GGMLQuantizationType,
    rng: np.random.Generator,
    doing: Callable[[str], None],
    *,
    rows: Sequence[int] = SIZES,
    columns: Sequence[int] = SIZES,
    lengths: Sequence[int] = (),
) -> Iterator[Row]:
    """Multiply every shape with blocks of ``kind``, then batches and groups.

    :param doing: is told of each product before it starts: it may be the last.
    :param lengths: every k; if empty, of one block, of a few and of many.
    :raises KernelError: the module refused one.
    """
    block = GGML_QUANT_SIZES[kind][0] if kind in QUANTIZED else 8
    most_rows = max(*rows, EXPERTS * (ROWS + max(GAPS)))
    most_columns = max(*columns, *(BATCH * n for n, *_ in BATCHED))
    for k in lengths or (block, 5 * block, 4096 + block):
        x = rng.normal(size=(most_columns, k)).astype(np.float32)
        products = _Products(gpu, kind, random_rows(kind, most_rows, k, rng), x, doing)
        for m in rows:
            for n in columns:
                yield products.plain(m, n, GAPS[(m + n) % len(GAPS)])
        for n, gap, shared in BATCHED:
            yield products.batched(n, gap, shared=shared)
        for gap in GAPS:
            yield products.grouped(gap, rng)
        gpu.close()


class _Products:
    """Products of one type and one k. Each takes a part of the same weights and activations."""

    def __init__(
        self,
        gpu: Kernels,
        kind: GGMLQuantizationType,
        rows: Array,
        x: Array,
        doing: Callable[[str], None],
    ) -> None:
        self._gpu, self._kind, self._doing = gpu, kind, doing
        self._row_bytes = rows.shape[1]
        self._k = k = x.shape[1]
        # What lies between columns is no number, and so nothing is that was made of it. No product
        # is given more than it may read: a memory checker sees who reads on.
        apart = {gap: np.pad(x, ((0, 0), (0, gap)), constant_values=np.nan) for gap in GAPS}
        self._rows = cache(lambda count: gpu.upload(rows[:count]))
        self._columns = cache(
            lambda count, gap: gpu.upload(apart[gap].ravel()[: count * (k + gap) - gap])
        )
        self._weights = to_float64(kind, rows)
        self._x = np.vstack((x, np.zeros_like(x[:1])))  # the last stands for any that is not there
        self._references: dict[str, tuple[Array, Array]] = {}

    def plain(self, m: int, n: int, gap: int) -> Row:
        return self._multiplied("plain", m, n, gap, np.arange(n), np.zeros(n, int))

    def batched(self, n: int, gap: int, *, shared: bool) -> Row:
        item = np.repeat(np.arange(BATCH), n)
        return self._multiplied(
            "batched", ROWS, n, gap, np.arange(BATCH * n), item * 0 if shared else item,
            batch=BATCH,
            weight_batch_stride=-1 if shared else gap and (ROWS + gap) * self._row_bytes,
            activation_batch_stride=gap and n * (self._k + gap),
            output_batch_stride=gap and n * (ROWS + gap),
        )  # fmt: skip

    def grouped(self, gap: int, rng: np.random.Generator) -> Row:
        expert = (rng.permutation(RESULTS) % EXPERTS).astype(np.int32)
        column = rng.integers(0, COLUMNS, RESULTS, np.int32)
        expert[[3, 5]], column[[7, 11]] = (-1, EXPERTS), (-1, COLUMNS)
        there = (expert >= 0) & (expert < EXPERTS) & (column >= 0) & (column < COLUMNS)
        groups = Groups(
            size=ctypes.sizeof(Groups), experts=EXPERTS, count=RESULTS,
            expert=self._gpu.upload(expert), column=self._gpu.upload(column),
        )  # fmt: skip
        return self._multiplied(
            "grouped", ROWS, COLUMNS, gap, np.where(there, column, -1), np.where(there, expert, 0),
            groups,
            weight_batch_stride=gap and (ROWS + gap) * self._row_bytes,
            output_batch_stride=gap and ROWS + gap,
        )  # fmt: skip

    def _multiplied(
        self,
        form: str,
        m: int,
        n: int,
        gap: int,
        column: Array,
        matrix: Array,
        groups: Groups | None = None,
        **fields: int,
    ) -> Row:
        """Multiply and compare.

        :param column: for each column of the output, which of the activations it was made of.
        :param matrix: likewise, which m rows of the weights.
        :param fields: of the product, besides those of a plain one. Zero in a stride: no gap.
        """
        gpu, kind, k = self._gpu, int(self._kind), self._k
        name = spelled(self._kind)
        self._doing(f"{name}, {m} x {k} times {k} x {n}" + (f", {form}" if form != "plain" else ""))
        out = np.full(len(column) * (m + gap) + GUARD, np.nan, np.float32)
        row = matrix * (m + gap)
        product = gpu.product(
            kind, m, n, k, weights=self._rows(row.max() + m),
            activations=self._columns(max(n, column.max() + 1), gap), output=gpu.upload(out),
            activation_stride=gap and k + gap, output_stride=gap and m + gap, **fields,
        )  # fmt: skip
        gpu.workspace(product, groups)
        # A group's results are products with one column each.
        path = gpu.path(gpu.product(kind, m, 1, k) if groups else product)
        gpu.multiply(product, groups)
        gpu.download(product.output, out)
        part = column[:, None], row[:, None] + np.arange(m)
        references = [tuple(whole[part] for whole in self._reference(p)) for p in (path, "exact")]
        same, error, right = _judged(_strided(out, m, len(column), gap), k, references)
        return Row(name, m, n, k, path, error, same, right, form)

    def _reference(self, path: str) -> tuple[Array, Array]:
        """Every column times every row of weights, and the size of its terms."""
        if path not in self._references:
            x = self._x.astype(np.float64)
            if path != "exact":
                x = rounded(self._x, path, self._kind)
            weights = self._weights
            self._references[path] = x @ weights.T, np.sqrt((x * x) @ (weights * weights).T)
        return self._references[path]


def spelled(kind: GGMLQuantizationType) -> str:
    """Spell a type as ggml does: q4_K, iq2_xxs."""
    name = kind.name.lower()
    return name[:-1] + "K" if name.endswith("_k") else name


def rounded(x: Array, path: str, kind: GGMLQuantizationType) -> Array:
    """The activations ``x`` as a path reads them beside weights of ``kind``, in float64."""
    if path == "tensor" and kind is GGMLQuantizationType.BF16:
        bits = x.view(np.uint32)
        nearest = bits + 0x7FFF + (bits >> 16 & 1) & 0xFFFF0000  # of two as near, the even one
        return nearest.astype(np.uint32).view(np.float32).astype(np.float64)
    if path == "tensor":
        return x.astype(np.float16).astype(np.float64)
    if path == "float":
        return x.astype(np.float64)
    blocks = x.reshape(-1, 32)  # q8_1
    d = (np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
    inverse = np.where(d != 0, 1 / np.where(d == 0, 1, d), 0).astype(np.float32)
    whole: Array = np.rint(blocks * inverse) * d.astype(np.float64)
    return whole.reshape(x.shape)


def off(out: Array, reference: Array, size: Array) -> float | None:
    """``||out - reference|| / ||reference||``; none if a value is not a number.

    :param size: what each value's terms come to, sqrt(sum of squares). Where few terms cancel,
        the reference may be next to nothing; then their size is the measure.
    """
    error = float(np.linalg.norm(out - reference))
    measure = max(float(np.linalg.norm(reference)), float(np.linalg.norm(size)))
    return error / measure if np.isfinite(error) else None


def _strided(out: Array, m: int, n: int, gap: int) -> Array:
    """Columns of results; all of them become NaN where what lies between was written."""
    columns = out[: n * (m + gap)].reshape(n, m + gap)
    untouched = np.isnan(columns[:, m:]).all() and np.isnan(out[n * (m + gap) :]).all()
    return columns[:, :m].astype(np.float64) if untouched else np.full((n, m), np.nan)


def _judged(
    out: Array, k: int, references: Sequence[tuple[Array, ...]]
) -> tuple[float | None, float | None, bool]:
    """``same`` and ``error`` (see Row), and whether they are small enough."""
    (reference, size), (exact, exact_size) = references
    same, error = off(out, reference, size), off(out, exact, exact_size)
    if same is None or error is None:
        return same, error, False
    one_wrong = (np.abs(out - reference) > ONE_VALUE * size).any()  # without terms, it is zero
    # A few terms with unlucky rounding prove nothing: NOTES.md of the kernels.
    large = out.size >= 64 and k >= 1024
    return same, error, bool(same <= SAME and not one_wrong and (error <= EXACT or not large))
