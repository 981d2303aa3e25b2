"""The kernels for few columns and those for AMD's matrix cores, run thread by thread on the host: a
wrong index or a missing wait is caught without a card.
"""

from __future__ import annotations

import ctypes
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from llamabuild.verify.blocks import FLOATS, QUANTIZED, random_rows
from llamabuild.verify.products import rounded

from .emulated import Need, aligned, build, compare

Floats: TypeAlias = npt.NDArray[np.float32]
KINDS = (Type.Q4_0, Type.Q4_K, Type.Q6_K, Type.MXFP4, Type.IQ2_XS, Type.F16)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, need: Need) -> ctypes.CDLL:
    return build("emulated_kernels.cpp", tmp_path_factory, need)


def check(host: ctypes.CDLL, kind: Type, n: int, blocks: str, *, wave: int) -> None:
    """Multiply matrices of a few shapes and compare with the product in float64.

    :param wave: on matrix cores for waves of so many threads; 0: without them.
    """
    block = GGML_QUANT_SIZES[kind][0] if kind is not Type.F16 else 8
    k = {"one": block, "few": 5 * block, "span and a bit": 4096 + block}[blocks]
    # Always the same numbers: where a single result is next to nothing, its rounding is not.
    rng = np.random.default_rng([int(kind), n, k, wave])
    m, batch = int(rng.choice([1, 7, 41])), int(rng.choice([1, 2]))
    multiprocessors = int(rng.choice([1, 8]))
    rows = random_rows(kind, m * batch, k, rng)
    weights = aligned(rows.nbytes, 0)
    weights[:] = rows.ravel()
    x = rng.normal(size=(batch, n, k)).astype(np.float32)
    output = np.full((batch, n, m), np.nan, np.float32)
    most_parts = 2 * multiprocessors * batch * n * m * 4
    workspace = aligned(batch * n * k // 32 * 48 + most_parts, 0xFF)  # NaN wherever it is read
    stuck = host.emulate_multiply(
        int(kind), ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(x.ctypes.data),
        ctypes.c_void_p(output.ctypes.data), ctypes.c_void_p(workspace.ctypes.data),
        m, n, k, rows.shape[1], batch, multiprocessors, wave,
    )  # fmt: skip
    assert stuck == 0
    compare(kind, rows, as_read(kind, x), output, 1e-5)


def as_read(kind: Type, x: Floats) -> npt.NDArray[Any]:
    """The activations as products with weights of ``kind`` read them, those of integers rounded."""
    return rounded(x, "float" if kind in FLOATS else "dp4a", kind)


def stream(host: ctypes.CDLL, kind: Type, m: int, k: int, batch: int, multiprocessors: int) -> None:
    rng = np.random.default_rng([int(kind), m, k, multiprocessors])  # as in check
    rows = random_rows(kind, m * batch, k, rng)
    weights = aligned(rows.nbytes, 0)
    weights[:] = rows.ravel()
    x = rng.normal(size=(batch, 1, k)).astype(np.float32)
    output = np.full((batch, 1, m), np.nan, np.float32)
    stuck = host.emulate_stream(
        int(kind), ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(x.ctypes.data),
        ctypes.c_void_p(output.ctypes.data), m, k, rows.shape[1], batch, multiprocessors,
    )  # fmt: skip
    assert stuck == 0
    compare(kind, rows, as_read(kind, x), output, 1e-5)


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS], ids=lambda kind: kind.name)
def test_streams_of_rows_match_the_reference(host, kind):
    block = 1024 if kind in FLOATS else max(GGML_QUANT_SIZES[kind][0], 64)
    stream(host, kind, m=8, k=block, batch=2, multiprocessors=4)
    stream(host, kind, m=41, k=2048 + 3 * block, batch=1, multiprocessors=2)


@pytest.mark.parametrize("multiprocessors", [1, 3, 64])
@pytest.mark.parametrize("k", [64, 960, 2112, 14336, 32768])
def test_streams_of_any_shape_match_the_reference(host, k, multiprocessors):
    for m in (1, 2, 33):
        stream(host, Type.Q4_0, m, k, 1, multiprocessors)
        if k >= 1024:  # shorter rows of 16-bit floats, or longer ones, are not for this kernel
            stream(host, Type.F16, m, min(k + 8, 16384), 1, multiprocessors)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 9])
@pytest.mark.parametrize("blocks", ["one", "few", "span and a bit"])
def test_kernels_match_the_reference(host, kind, n, blocks):
    check(host, kind, n, blocks, wave=0)


@pytest.mark.parametrize("wave", [64, 32], ids=["MFMA", "WMMA"])
@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("n", "blocks"), [(5, "span and a bit"), (8, "one"), (17, "few"), (33, "one")]
)
def test_matrix_cores_match_the_reference(host, kind, n, blocks, wave):
    check(host, kind, n, blocks, wave=wave)


@pytest.mark.parametrize("wave", [64, 32], ids=["MFMA", "WMMA"])
@pytest.mark.parametrize("kind", [Type.Q4_0, Type.Q2_K], ids=lambda kind: kind.name)
def test_matrix_cores_take_several_tiles_of_columns(host, kind, wave):
    check(host, kind, 65, "few", wave=wave)
