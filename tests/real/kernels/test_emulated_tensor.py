"""The kernels for the tensor cores of 7.5 to 8.9, run thread by thread on the host: a wrong index
or a missing wait is caught without a card.
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
SMALL, LARGE = 100 * 1024, 227 * 1024  # shared memory for small tiles, and for large ones


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, need: Need) -> ctypes.CDLL:
    return build("emulated_tensor.cpp", tmp_path_factory, need)


def check(
    host: ctypes.CDLL,
    kind: Type,
    m: int,
    n: int,
    k: int,
    *,
    shared: int = LARGE,
    integers: bool = False,
    batch: int = 1,
    blocks: int = 1,
) -> None:
    """Multiply matrices, on a GPU for so many blocks, and compare with the product in float64.

    :param integers: quantized weights as they are, not as 16-bit floats.
    """
    rng = np.random.default_rng([int(kind), m, n, k])
    rows = random_rows(kind, m * batch, k, rng)
    weights = aligned(rows.nbytes, 0)
    weights[:] = rows.ravel()
    x = rng.normal(size=(batch, n, k)).astype(np.float32)
    output = np.full((batch, n, m), np.nan, np.float32)
    columns = 128 if n <= 128 else -(-n // 256) * 256
    prepared = batch * columns * (-(-k // 256) * 256 * 2 + 16)
    workspace = aligned(prepared + 8 * blocks * batch * n * m * 4, 0xFF)  # NaN wherever it is read
    stuck = host.emulate_tensor(
        int(kind), ctypes.c_void_p(weights.ctypes.data), ctypes.c_void_p(x.ctypes.data),
        ctypes.c_void_p(output.ctypes.data), ctypes.c_void_p(workspace.ctypes.data),
        m, n, k, rows.shape[1], batch, blocks, shared, integers,
    )  # fmt: skip
    assert stuck == 0
    # Quantized weights are rounded to 16-bit floats; kernels/NOTES.md has what an H200 measured.
    limit = 1e-5 if kind in FLOATS or integers else 1e-3
    compare(kind, rows, rounded(x, "dp4a" if integers else "tensor", kind), output, limit)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("m", "n"), [(7, 5), (41, 8), (20, 70)])
def test_integers_match_the_reference(host, kind, m, n):
    check(host, kind, m, n, 512 + GGML_QUANT_SIZES[kind][0], integers=True)


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize(("m", "n", "shared"), [(7, 9, SMALL), (70, 40, SMALL), (130, 33, LARGE)])
def test_quantized_weights_as_floats_match_the_reference(host, kind, m, n, shared):
    check(host, kind, m, n, 512 + GGML_QUANT_SIZES[kind][0], shared=shared)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: kind.name)
@pytest.mark.parametrize(
    ("m", "n", "k", "shared"),
    [(7, 3, 8, SMALL), (70, 33, 520, SMALL), (130, 130, 264, LARGE), (9, 40, 1032, LARGE)],
)
def test_floats_match_the_reference(host, kind, m, n, k, shared):
    check(host, kind, m, n, k, shared=shared)


@pytest.mark.parametrize("kind", [Type.Q4_0, Type.F16], ids=lambda kind: kind.name)
def test_batches_and_parts_of_k_match_the_reference(host, kind):
    check(host, kind, 40, 9, 2048, batch=2)
    check(host, kind, 40, 9, 4096, blocks=2)
    if kind is Type.Q4_0:
        check(host, kind, 40, 8, 8192, blocks=4, integers=True)
