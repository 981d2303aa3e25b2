"""The reference, and what is called right, with a GPU made of numpy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.verify.blocks import FLOATS, QUANTIZED, random_rows, to_float64
from llamabuild.verify.kernels import Kernels, Product
from llamabuild.verify.model import Row, Timing
from llamabuild.verify.products import GUARD, SIZES, check_type, off, rounded, spelled
from llamabuild.verify.timing import copy_bandwidth, time_type

Array = npt.NDArray[Any]
Q4_0, Q8_0 = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0


class Gpu:
    """Multiplies what it was given, on a path, and spoils the result with ``fault``."""

    def __init__(self, path: str, fault: Callable[[Array], None] = lambda _: None) -> None:
        self.device, self._path, self._fault = 0, path, fault
        self._memory: dict[int, Array] = {}
        self._seen: dict[str, Array] = {}

    def upload(self, array: Array) -> int:
        self._memory[len(self._memory) + 1] = array.copy()
        return len(self._memory)

    def allocate(self, size: int) -> int:
        return self.upload(np.zeros(size, np.uint8))

    def download(self, memory: int, array: Array) -> None:
        array[:] = self._memory[memory]

    def product(self, kind: int, m: int, n: int, k: int, **fields: int) -> Product:
        return Product(size=ctypes.sizeof(Product), type=kind, m=m, n=n, k=k, **fields)

    def workspace(self, product: Product) -> None: ...
    def fill(self, memory: int, byte: int, size: int) -> None: ...
    def copy(self, to: int, origin: int, size: int) -> None: ...

    def close(self) -> None:
        self._memory.clear()
        self._seen.clear()

    def path(self, product: Product) -> str:
        return self._path

    def info(self) -> tuple[str, int, int, int]:
        return "numpy", 0, 0, 1 << 20

    def measure(self, product: Product, copies: int, stride: int, repeats: int) -> float:
        return float(10 * product.n)

    def measure_copy(self, to: int, origin: int, size: int, repeats: int) -> float:
        return 100.0

    def multiply(self, product: Product) -> None:
        if "weights" not in self._seen:
            kind = GGMLQuantizationType(product.type)
            self._seen["weights"] = to_float64(kind, self._memory[product.weights])
            self._seen["x"] = rounded(self._memory[product.activations], self._path)
        weights, x = self._seen["weights"], self._seen["x"]
        whole = self._memory[product.output]
        out = whole[: product.n * product.output_stride].reshape(product.n, -1)
        out[:, : product.m] = x[: product.n] @ weights[: product.m].T
        self._fault(whole)


def rows_of(gpu: Gpu, kind: GGMLQuantizationType = Q4_0) -> list[Row]:
    return list(check_type(cast("Kernels", gpu), kind, np.random.default_rng(), lambda _: None))


@pytest.mark.parametrize("path", ["scalar", "dp4a", "tensor"])
def test_right_products_are_called_right(path: str) -> None:
    rows = rows_of(Gpu(path))
    assert {(row.m, row.n) for row in rows} == {(m, n) for m in SIZES for n in SIZES}
    assert {row.k for row in rows} == {32, 160, 4128}
    assert all(row.right and row.path == path for row in rows)
    assert all(row.same is not None and row.same < 1e-6 for row in rows)


@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: str(kind.name))
def test_floats_have_no_block(kind: GGMLQuantizationType) -> None:
    rows = rows_of(Gpu("float"), kind)
    assert {row.k for row in rows} == {8, 40, 4104}
    assert all(row.right for row in rows)


def one_value(out: Array) -> None:
    out[0] += 0.1 * np.nanmax(np.abs(out)) + 0.01


def missed(out: Array) -> None:
    out[0] = np.nan


def beyond_the_end(out: Array) -> None:
    out[-1] = 0


@pytest.mark.parametrize("fault", [one_value, missed, beyond_the_end])
def test_wrong_products_are_called_wrong(fault: Callable[[Array], None]) -> None:
    assert not any(row.right for row in rows_of(Gpu("dp4a", fault)))


def large(rows: list[Row]) -> list[Row]:
    """Products of which few values can cancel."""
    return [row for row in rows if row.m * row.n >= 64 and row.k > 4096]


def test_a_small_error_in_every_value_is_found() -> None:
    def scaled(out: Array) -> None:
        out *= 1.002

    assert not any(row.right for row in large(rows_of(Gpu("dp4a", scaled))))


def test_one_wrong_value_cannot_hide_among_many() -> None:
    def one_of_16641(out: Array) -> None:
        out[0] += 0.1 * np.sqrt(np.nanmean(out**2))

    widest = [row for row in rows_of(Gpu("dp4a", one_of_16641)) if row.m == row.n == max(SIZES)]
    assert len(widest) == 3
    assert all(row.same is not None and row.same < 1e-3 for row in widest)
    assert not any(row.right for row in widest)


def test_what_lies_between_columns_may_not_be_written() -> None:
    def between(out: Array) -> None:
        inside = out[:-GUARD]
        inside[np.isnan(inside)] = 0

    gaps = [row for row in rows_of(Gpu("dp4a", between)) if (row.m + row.n) % 2]
    assert gaps
    assert not any(row.right for row in gaps)


def test_unrounded_activations_are_not_what_an_integer_path_computes() -> None:
    """A path that says "dp4a" and multiplies floats is not the one that is named."""

    class Floats(Gpu):
        def multiply(self, product: Product) -> None:
            self._path = "float"
            super().multiply(product)
            self._path = "dp4a"

    assert not any(row.right for row in large(rows_of(Floats("dp4a"))))


def test_each_product_is_announced_before_it_starts() -> None:
    said: list[str] = []
    list(check_type(cast("Kernels", Gpu("dp4a")), Q8_0, np.random.default_rng(), said.append))
    assert said[0] == "q8_0, 1 x 32 times 32 x 1"
    assert len(said) == 3 * len(SIZES) ** 2


#: Below, a 127th of it is no normal number of four bytes.
ORDINARY = st.floats(2.0**-99, 2.0**99, width=32)


@given(st.lists(ORDINARY | ORDINARY.map(lambda x: -x) | st.just(0.0), min_size=32, max_size=32))
def test_rounding_to_eight_bits_is_within_half_a_step(values: list[float]) -> None:
    x = np.array(values, np.float32)
    step = float(np.abs(x).max()) / 127
    assert np.all(np.abs(rounded(x, "dp4a") - x) <= 0.5001 * step)


def test_where_terms_cancel_their_size_is_the_measure() -> None:
    nothing, terms = np.zeros((1, 1)), np.full((1, 1), 2.0)
    assert off(np.full((1, 1), 0.002), nothing, terms) == pytest.approx(1e-3)
    assert off(np.full((1, 1), np.nan), nothing, terms) is None
    assert off(np.full((1, 1), np.inf), nothing, terms) is None


@pytest.mark.parametrize("kind", [*QUANTIZED, *FLOATS], ids=lambda kind: str(kind.name))
def test_random_rows_are_whole_blocks_of_ordinary_numbers(kind: GGMLQuantizationType) -> None:
    k = 2 * GGML_QUANT_SIZES[kind][0]
    rows = random_rows(kind, 50, k, np.random.default_rng())
    weights = to_float64(kind, rows)
    assert weights.shape == (50, k)
    assert np.isfinite(weights).all()
    assert 1e-4 < np.abs(weights).mean() < 1e3
    assert not np.array_equal(rows, random_rows(kind, 50, k, np.random.default_rng()))


def test_types_are_spelled_as_ggml_does() -> None:
    names = {spelled(kind) for kind in (*QUANTIZED, *FLOATS)}
    assert {"q4_0", "q4_K", "q6_K", "iq2_xxs", "iq1_m", "tq2_0", "mxfp4", "bf16"} < names


def test_times_become_rates() -> None:
    gpu = cast("Kernels", Gpu("dp4a"))
    bandwidth = copy_bandwidth(gpu)
    assert bandwidth == pytest.approx(2 * (1 << 17) / 100e-6)
    one, eight = time_type(gpu, Q4_0, (64, 256), (1, 8), bandwidth, lambda _: None)
    assert (one.n, eight.n) == (1, 8)
    assert isinstance(one, Timing)
    assert one.microseconds == one.least == one.most == 10.0
    moved = 64 * 256 * 18 / 32 + 4 * (256 + 64)
    assert one.bytes_per_second == pytest.approx(moved / 10e-6)
    assert one.share == pytest.approx(one.bytes_per_second / bandwidth)
    assert eight.operations_per_second == pytest.approx(2 * 64 * 256 * 8 / 80e-6)
