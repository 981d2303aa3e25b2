"""The device functions of kernels/, compiled by g++ and compared with gguf's own dequantizer."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

from llamabuild.verify.blocks import QUANTIZED, random_rows, to_float64

HERE = Path(__file__).parent
SOURCES = HERE.parents[2] / "kernels" / "src"

Array: TypeAlias = npt.NDArray[Any]
Need: TypeAlias = Callable[[object, str], None]


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    seed = np.random.SeedSequence().entropy
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, need: Need) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("c++")
    need(compiler, "a C++ compiler")
    assert compiler
    library = tmp_path_factory.mktemp("host") / "libhost.so"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    sanitizers = ["-fsanitize=undefined", "-fno-sanitize-recover"]
    subprocess.run(
        [compiler, "-std=c++17", "-O1", *warnings, *sanitizers, "-shared", "-fPIC", f"-I{SOURCES}",
         HERE / "host_build.cpp", "-o", library],
        check=True,
    )  # fmt: skip
    host = ctypes.CDLL(str(library))
    host.host_half.restype = ctypes.c_float
    return host


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def unpack(host: ctypes.CDLL, kind: Type, row: Array, k: int) -> Array:
    out = np.full(k, np.nan, np.float32)
    assert host.host_unpack(int(kind), pointer(row), k, pointer(out)) == 0
    return out


def quantize(host: ctypes.CDLL, x: Array) -> tuple[Array, Array, Array]:
    """The blocks of 32, all of their bytes, and their (d, sum) for each half."""
    blocks = np.empty(len(x) // 32, [("q", np.int8, 32), ("half", np.float32, (2, 2))])
    blocks.view(np.uint8)[:] = 0x7F
    host.host_quantize(pointer(x), len(x), pointer(blocks))
    return blocks, blocks["q"].ravel(), blocks["half"]


def relative(out: Array, reference: Array) -> float:
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("blocks", [1, 2, 37])
def test_every_weight_is_what_the_file_format_says(host, rng, kind, blocks):
    k = blocks * GGML_QUANT_SIZES[kind][0]
    row = random_rows(kind, 1, k, rng)
    expected = to_float64(kind, row)[0]
    np.testing.assert_allclose(
        unpack(host, kind, row, k), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max()
    )


@pytest.mark.parametrize("kind", QUANTIZED, ids=lambda kind: kind.name)
@pytest.mark.parametrize("blocks", [1, 7, 16])
def test_products_match_the_reference(host, rng, kind, blocks):
    k = blocks * GGML_QUANT_SIZES[kind][0]
    rows = random_rows(kind, 33, k, rng)
    weights = to_float64(kind, rows)
    x = rng.normal(size=k).astype(np.float32)
    blocks_of_32, q, halves = quantize(host, x)
    quantized = q * np.repeat(halves[:, 0, 0].astype(np.float64), 32)
    out = np.full(len(rows), np.nan)
    one = ctypes.c_float()
    for i, row in enumerate(rows):
        assert (
            host.host_dot(int(kind), pointer(row), k, pointer(blocks_of_32), ctypes.byref(one)) == 0
        )
        out[i] = one.value
    assert relative(out, weights @ quantized) < 1e-5
    assert relative(out, weights @ x) < 2e-2


def test_quantization_is_within_half_a_step_and_keeps_the_sums(host, rng):
    x = (rng.normal(size=4096) * 10.0 ** rng.uniform(-6, 6, 4096)).astype(np.float32)
    _, q, halves = quantize(host, x)
    d = np.repeat(halves[:, :, 0], 16)
    assert np.array_equal(halves[:, 0, 0], halves[:, 1, 0])
    assert np.all(np.abs(x - q * d) <= d * 0.5001)
    sums = q.astype(np.int64).reshape(-1, 16).sum(axis=1) * halves[:, :, 0].ravel().astype(float)
    np.testing.assert_allclose(halves[:, :, 1].ravel(), sums, rtol=1e-6)
    assert np.abs(q).reshape(-1, 32).max(axis=1).min() == 127


def test_zeros_stay_zero_and_a_nan_is_not_lost(host):
    x = np.zeros(64, np.float32)
    x[40] = np.nan
    _, q, halves = quantize(host, x)
    assert not q.any()
    assert not halves[0].any()
    assert np.isnan(halves[1]).all()


def test_every_half_is_converted(host):
    bits = np.arange(1 << 16, dtype=np.uint16)
    out = np.array([host.host_half(ctypes.c_uint16(b)) for b in bits.tolist()], np.float32)
    np.testing.assert_array_equal(out, bits.view(np.float16).astype(np.float32))


def test_types_that_do_not_exist_are_refused(host):
    empty = np.zeros(1, np.uint8)
    for number in (-1, 0, 4, 5, 9, 1000):
        assert host.host_unpack(number, pointer(empty), 32, pointer(empty)) == 1
    assert Type.F16 not in QUANTIZED
