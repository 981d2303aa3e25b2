"""Random blocks of every type, and what they mean in float64 according to the ``gguf`` package."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, quants
from gguf import GGMLQuantizationType as Type

__all__ = ["FLOATS", "QUANTIZED", "random_rows", "to_float64"]

#: Where a block keeps its 16-bit floats. Random bytes there would be infinities now and then.
_HALVES: Mapping[Type, tuple[int, ...]] = {
    Type.Q4_0: (0,), Type.Q4_1: (0, 2), Type.Q5_0: (0,), Type.Q5_1: (0, 2), Type.Q8_0: (0,),
    Type.Q2_K: (80, 82), Type.Q3_K: (108,), Type.Q4_K: (0, 2), Type.Q5_K: (0, 2),
    Type.Q6_K: (208,), Type.IQ4_NL: (0,), Type.IQ4_XS: (0,), Type.MXFP4: (), Type.NVFP4: (),
    Type.IQ2_XXS: (0,), Type.IQ2_XS: (0,), Type.IQ2_S: (0,), Type.IQ3_XXS: (0,), Type.IQ3_S: (0,),
    Type.IQ1_S: (0,), Type.IQ1_M: (), Type.TQ1_0: (52,), Type.TQ2_0: (64,),
}  # fmt: skip
QUANTIZED = tuple(_HALVES)
FLOATS = (Type.F16, Type.BF16)


def _scales(rng: np.random.Generator, count: int) -> npt.NDArray[np.float16]:
    size: npt.NDArray[np.float64] = rng.uniform(0.001, 0.004, count) * rng.choice([-1, 1], count)
    return size.astype(np.float16)


def random_rows(kind: Type, m: int, k: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """``m`` rows of ``k`` weights with every bit pattern that a file may hold, scales of one size.

    :return: bytes, one row each.
    """
    if kind is Type.F16:
        return rng.normal(0, 0.1, (m, k)).astype(np.float16).view(np.uint8)
    if kind is Type.BF16:
        high = rng.normal(0, 0.1, (m, k)).astype(np.float32).view(np.uint32) >> 16
        return high.astype(np.uint16).view(np.uint8)
    weights, size = GGML_QUANT_SIZES[kind]
    count = m * k // weights
    blocks = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in _HALVES[kind]:
        blocks[:, at : at + 2] = _scales(rng, count).view(np.uint8).reshape(count, 2)
    if kind is Type.MXFP4:
        blocks[:, 0] = rng.integers(118, 124, count)
    elif kind is Type.NVFP4:
        blocks[:, :4] = rng.integers(0, 0x50, (count, 4))
    elif kind is Type.IQ1_M:  # the scale's nibbles lie on top of four words of small scales
        words = blocks[:, 48:56].copy().view(np.uint16) & 0x0FFF
        scale = _scales(rng, count).view(np.uint16)[:, None] >> np.array([0, 4, 8, 12])
        blocks[:, 48:56] = (words | (scale.astype(np.uint16) & 15) << 12).view(np.uint8)
    return blocks.reshape(m, -1)


def to_float64(kind: Type, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The weights of ``rows``."""
    if kind is Type.F16:
        return rows.view(np.float16).astype(np.float64)
    return quants.dequantize(rows, kind).astype(np.float64)
