"""The kernels of Hopper's warpgroups, run thread by thread on the host: a wrong index or a missing
wait is caught without a card.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from llamabuild.verify.blocks import FLOATS, random_rows
from llamabuild.verify.products import rounded

from .emulated import Need, aligned, build, compare

QUANTIZED = (Type.Q4_0, Type.Q4_K, Type.Q6_K, Type.MXFP4, Type.IQ2_XS)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, need: Need) -> ctypes.CDLL:
    return build("emulated_hopper.cpp", tmp_path_factory, need)


def check(
    host: ctypes.CDLL, kind: Type, m: int, n: int, k: int, *, batch: int = 1, blocks: int = 1
) -> None:
    """Multiply matrices, on a GPU for so many blocks, and compare with the product in float64."""
    rng = np.random.default_rng([int(kind), m, n, k])
    rows = random_rows(kind, m * batch, k, rng)
    weights = aligned(rows.nbytes, 0)
    weights[:] = rows.ravel()
    x = rng.normal(size=(batch, n, k)).astype(np.float32)
    output = np.full((batch, n, m), np.nan, np.float32)
    columns = 128 if n <= 128 else -(-n // 256) * 256
    prepared = batch * columns * (-(-k // 256) * 256 * 2 + 16)
    workspace = aligned(prepared + blocks * batch * n * m * 4, 0xFF)  # NaN wherever it is read
    stuck = host.emulate_warpgroups(
        int(kind), ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(x.ctypes.data),
        ctypes.c_void_p(output.ctypes.data), ctypes.c_void_p(workspace.ctypes.data),
        m, n, k, rows.shape[1], batch, blocks,
    )  # fmt: skip
    assert stuck == 0
    # Quantized weights are rounded to 16-bit floats; kernels/NOTES.md has what an H200 measured.
    limit = 1e-5 if kind in FLOATS else 1e-3
    compare(kind, rows, rounded(x, "tensor", kind), output, limit)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("m", "n"), [(7, 5), (300, 33)])
def test_quantized_weights_match_the_reference(host, kind, m, n):
    check(host, kind, m, n, 512 + GGML_QUANT_SIZES[kind][0])


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("m", "n", "k"), [(7, 2, 8), (130, 5, 264), (129, 33, 520), (40, 100, 1032), (200, 257, 64)]
)
def test_floats_match_the_reference(host, kind, m, n, k):
    check(host, kind, m, n, k)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.F16], ids=lambda kind: kind.name)
def test_batches_and_parts_of_k_match_the_reference(host, kind):
    check(host, kind, 40, 9, 2048, batch=2)
    for blocks in (2, 3, 4):  # of pairs, which add their halves; through memory; both
        check(host, kind, 40, 9, 2048, blocks=blocks)
