"""Products of a ``bundled`` module on shapes that are awkward on purpose, against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from llamabuild.verify.blocks import QUANTIZED, random_rows, to_float64
from llamabuild.verify.kernels import Kernels
from llamabuild.verify.model import Row

__all__ = ["GUARD", "SIZES", "check_type", "off", "rounded"]

Array: TypeAlias = npt.NDArray[Any]

#: Rows and columns: one, a pair, around the widest matrix-vector kernel (8), tiles with a rest.
SIZES = (1, 2, 7, 8, 33, 129)
#: Bounds for ``same`` and for ``error`` (see Row); and for a single value, which could hide in the
#: norm of 16,641 of them.
SAME, EXACT, ONE_VALUE = 1e-3, 1e-2, 5e-2
#: Floats between columns of the output, and behind the last, that nobody may touch.
GAP, GUARD = 8, 64


@dataclass(frozen=True)
class Inputs:
    """What all products of one type and one k share: the largest; others take a part of it."""

    kind: GGMLQuantizationType
    rows: Array
    weights: Array
    x: Array

    @classmethod
    def drawn(cls, kind: GGMLQuantizationType, k: int, rng: np.random.Generator) -> Inputs:
        """Draw fresh random ones."""
        rows = random_rows(kind, max(SIZES), k, rng)
        x = rng.normal(size=(max(SIZES), k)).astype(np.float32)
        return cls(kind, rows, to_float64(kind, rows), x)


def check_type(
    gpu: Kernels,
    kind: GGMLQuantizationType,
    rng: np.random.Generator,
    doing: Callable[[str], None],
) -> Iterator[Row]:
    """Multiply every shape with blocks of ``kind``.

    :param doing: is told of each product before it starts: it may be the last.
    :raises KernelError: the module refused one.
    """
    block = GGML_QUANT_SIZES[kind][0] if kind in QUANTIZED else 8
    name = spelled(kind)
    for k in (block, 5 * block, 4096 + block):
        inputs = Inputs.drawn(kind, k, rng)
        weights, x = gpu.upload(inputs.rows), gpu.upload(inputs.x)
        references = {"exact": _reference(inputs.weights, inputs.x.astype(np.float64))}
        for m in SIZES:
            for n in SIZES:
                doing(f"{name}, {m} x {k} times {k} x {n}")
                gap = GAP * ((m + n) % 2)
                out = np.full(n * (m + gap) + GUARD, np.nan, np.float32)
                product = gpu.product(
                    int(kind), m, n, k, weights=weights, activations=x, output=gpu.upload(out),
                    output_stride=m + gap,
                )  # fmt: skip
                gpu.workspace(product)
                path = gpu.path(product)
                gpu.multiply(product)
                gpu.download(product.output, out)
                if path not in references:
                    references[path] = _reference(inputs.weights, rounded(inputs.x, path))
                parts = [tuple(part[:n, :m] for part in references[p]) for p in (path, "exact")]
                yield _judged(name, k, path, _strided(out, m, n, gap), parts)
        gpu.close()


def spelled(kind: GGMLQuantizationType) -> str:
    """Spell a type as ggml does: q4_K, iq2_xxs."""
    name = kind.name.lower()
    return name[:-1] + "K" if name.endswith("_k") else name


def rounded(x: Array, path: str) -> Array:
    """The activations ``x`` as a path reads them, in float64."""
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


def _reference(weights: Array, x: Array) -> tuple[Array, Array]:
    """Every product, column by column, and the size of its terms."""
    return x @ weights.T, np.sqrt((x * x) @ (weights * weights).T)


def _strided(out: Array, m: int, n: int, gap: int) -> Array:
    """Columns of results; all of them become NaN where what lies between was written."""
    columns = out[: n * (m + gap)].reshape(n, m + gap)
    untouched = np.isnan(columns[:, m:]).all() and np.isnan(out[n * (m + gap) :]).all()
    return columns[:, :m].astype(np.float64) if untouched else np.full((n, m), np.nan)


def _judged(
    name: str, k: int, path: str, out: Array, references: Sequence[tuple[Array, ...]]
) -> Row:
    (reference, size), (exact, exact_size) = references
    same, error = off(out, reference, size), off(out, exact, exact_size)
    n, m = out.shape
    right = False
    if same is not None and error is not None:
        worst = float((np.abs(out - reference) / size).max())
        # A few terms with unlucky rounding prove nothing: NOTES.md of the kernels.
        large = m * n >= 64 and k >= 1024
        right = same <= SAME and worst <= ONE_VALUE and (error <= EXACT or not large)
    return Row(name, m, n, k, path, error, same, right)
