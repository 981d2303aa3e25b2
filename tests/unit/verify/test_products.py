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
from llamabuild.verify.kernels import Groups, Kernels, Product
from llamabuild.verify.model import Row, Timing
from llamabuild.verify.products import (
    BATCHED,
    GAPS,
    GUARD,
    SIZES,
    check_type,
    off,
    rounded,
    spelled,
)
from llamabuild.verify.timing import copy_bandwidth, time_type

Array = npt.NDArray[Any]
Q4_0, Q8_0 = GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0


class Gpu:
    """Multiplies what it was given, on a path, and spoils the result with ``fault``."""

    def __init__(self, path: str, fault: Callable[[Array], None] = lambda _: None) -> None:
        self.device, self._path, self._fault = 0, path, fault
        self.memory: dict[int, Array] = {}
        self._seen: dict[int, Array] = {}

    def upload(self, array: Array) -> int:
        self.memory[len(self.memory) + 1] = array.copy()
        return len(self.memory)

    def allocate(self, size: int) -> int:
        return self.upload(np.zeros(size, np.uint8))

    def download(self, memory: int, array: Array) -> None:
        array[:] = self.memory[memory]

    def product(self, kind: int, m: int, n: int, k: int, **fields: int) -> Product:
        return Product(size=ctypes.sizeof(Product), type=kind, m=m, n=n, k=k, **fields)

    def workspace(self, product: Product, groups: Groups | None = None) -> None: ...
    def fill(self, memory: int, byte: int, size: int) -> None: ...
    def copy(self, to: int, origin: int, size: int) -> None: ...

    def close(self) -> None:
        self.memory.clear()
        self._seen.clear()

    def path(self, product: Product) -> str:
        return self._path

    def info(self) -> tuple[str, int, int, int]:
        return "numpy", 0, 0, 1 << 20

    def measure(self, product: Product, copies: int, stride: int, repeats: int) -> float:
        return float(10 * product.n)

    def measure_copy(self, to: int, origin: int, size: int, repeats: int) -> float:
        return 100.0

    def multiply(self, p: Product, groups: Groups | None = None) -> None:
        rows = self.memory[p.weights]
        if p.weights not in self._seen:
            self._seen[p.weights] = to_float64(GGMLQuantizationType(p.type), rows)
        x, out = self.memory[p.activations].reshape(-1), self.memory[p.output]
        x_stride, out_stride = p.activation_stride or p.k, p.output_stride or p.m
        matrix = (p.weight_batch_stride or p.m * rows.shape[1]) // rows.shape[1]
        for item in range(groups.count if groups else p.batch or 1):
            if groups:
                expert = self.memory[groups.expert][item]
                column = self.memory[groups.column][item]
                n, first, begin = 1, expert * matrix, column * x_stride
                to = item * (p.output_batch_stride or p.m)
                if not (0 <= expert < groups.experts and 0 <= column < p.n):
                    out[to : to + p.m] = 0
                    continue
            else:
                n, first = p.n, 0 if p.weight_batch_stride == -1 else item * matrix
                begin = item * (p.activation_batch_stride or (n - 1) * x_stride + p.k)
                to = item * (p.output_batch_stride or (n - 1) * out_stride + p.m)
            weights = np.full((p.m, p.k), np.nan)  # what lies behind the memory may be anything
            there = self._seen[p.weights][first : first + p.m]
            weights[: len(there)] = there
            kind = GGMLQuantizationType(p.type)
            values = rounded(strided(x[begin:], n, p.k, x_stride), self._path, kind)
            strided(out[to:], n, p.m, out_stride)[:] = values @ weights.T
        self._fault(out)


def strided(floats: Array, columns: int, length: int, stride: int) -> Array:
    """A view of columns of so many floats, each ``stride`` behind the one before."""
    return np.lib.stride_tricks.as_strided(floats, (columns, length), (4 * stride, 4))


def rows_of(gpu: Gpu, kind: GGMLQuantizationType = Q4_0, seed: int | None = None) -> list[Row]:
    rng = np.random.default_rng(seed)
    return list(check_type(cast("Kernels", gpu), kind, rng, lambda _: None))


@pytest.mark.parametrize("path", ["scalar", "dp4a", "tensor"])
def test_right_products_are_called_right(path: str) -> None:
    rows = rows_of(Gpu(path))
    plain = {(row.m, row.n, row.k) for row in rows if row.form == "plain"}
    assert plain == {(m, n, k) for m in SIZES for n in SIZES for k in (32, 160, 4128)}
    for form, count in (("batched", len(BATCHED)), ("grouped", len(GAPS))):
        of_form = [row.k for row in rows if row.form == form]
        assert of_form == [32] * count + [160] * count + [4128] * count
    assert all(row.right and row.path == path for row in rows)
    assert all(row.same is not None and row.same < 1e-6 for row in rows)


@pytest.mark.parametrize("path", ["float", "tensor"])
@pytest.mark.parametrize("kind", FLOATS, ids=lambda kind: str(kind.name))
def test_floats_have_no_block(kind: GGMLQuantizationType, path: str) -> None:
    rows = rows_of(Gpu(path), kind)
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

    # A tenth of a usual value is little beside an unusually large one: always the same values.
    rows = rows_of(Gpu("dp4a", one_of_16641), seed=1)
    widest = [row for row in rows if row.m == row.n == max(SIZES)]
    assert len(widest) == 3
    assert all(row.same is not None and row.same < 1e-3 for row in widest)
    assert not any(row.right for row in widest)


def test_what_lies_between_columns_may_not_be_written() -> None:
    def between(out: Array) -> None:
        inside = out[:-GUARD]
        inside[np.isnan(inside)] = 0

    rows = [row for row in rows_of(Gpu("dp4a", between)) if not row.right]
    assert {(row.m, row.n) for row in rows if row.form == "plain"} == {
        (m, n) for m in SIZES for n in SIZES if (m + n) % 3
    }
    assert {row.form for row in rows} == {"plain", "batched", "grouped"}


def test_where_there_is_no_expert_the_result_is_zero_and_nothing_else() -> None:
    def nearly(out: Array) -> None:
        out[out == 0] = 1e-30

    assert {row.form for row in rows_of(Gpu("dp4a", nearly)) if not row.right} == {"grouped"}


Misread = Callable[[Product, "Groups | None", dict[int, Array]], None]


class Misreading(Gpu):
    """Multiplies what ``misread`` made of its arguments."""

    def __init__(self, misread: Misread) -> None:
        super().__init__("dp4a")
        self._misread = misread

    def multiply(self, p: Product, groups: Groups | None = None) -> None:
        self._misread(p, groups, self.memory)
        super().multiply(p, groups)


def ignored(field: str) -> Misread:
    """Of a product's strides, one."""

    def misread(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
        setattr(p, field, 0)

    return misread


def one_float_too_far(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    memory[1000] = np.roll(memory[p.activations].reshape(-1), -1)
    p.activations = 1000


def never_shared(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    p.weight_batch_stride = max(p.weight_batch_stride, 0)


def always_shared(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    p.weight_batch_stride = p.weight_batch_stride if groups else -1


def the_first_only(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    p.batch = 1


def all_but_the_last(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    if groups:
        groups.count -= 1


def in_order(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    if groups:
        memory[groups.expert][:] = np.arange(groups.count) % groups.experts


def negative_is_the_first(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    if groups:
        np.maximum(memory[groups.expert], 0, out=memory[groups.expert])


def too_large_is_the_last(p: Product, groups: Groups | None, memory: dict[int, Array]) -> None:
    if groups:
        np.minimum(memory[groups.column], p.n - 1, out=memory[groups.column])


@pytest.mark.parametrize(
    ("misread", "forms"),
    [
        (ignored("activation_stride"), {"plain", "batched", "grouped"}),
        (ignored("output_stride"), {"plain", "batched"}),
        (ignored("weight_batch_stride"), {"batched", "grouped"}),
        (ignored("activation_batch_stride"), {"batched"}),
        (ignored("output_batch_stride"), {"batched", "grouped"}),
        (never_shared, {"batched"}),
        (always_shared, {"batched"}),
        (the_first_only, {"batched"}),
        (all_but_the_last, {"grouped"}),
        (in_order, {"grouped"}),
        (negative_is_the_first, {"grouped"}),
        (too_large_is_the_last, {"grouped"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_a_module_misreads_is_found_in_that_form(misread: Misread, forms: set[str]) -> None:
    assert {row.form for row in rows_of(Misreading(misread)) if not row.right} == forms


def test_whoever_uses_what_lies_between_activations_gets_no_number() -> None:
    rows = rows_of(Misreading(one_float_too_far))
    assert {row.form for row in rows if row.error is None} == {"plain", "batched", "grouped"}


def test_unrounded_activations_are_not_what_an_integer_path_computes() -> None:
    """A path that says "dp4a" and multiplies floats is not the one that is named."""

    class Floats(Gpu):
        def multiply(self, p: Product, groups: Groups | None = None) -> None:
            self._path = "float"
            super().multiply(p, groups)
            self._path = "dp4a"

    assert not any(row.right for row in large(rows_of(Floats("dp4a"))))


def test_each_product_is_announced_before_it_starts() -> None:
    said: list[str] = []
    list(check_type(cast("Kernels", Gpu("dp4a")), Q8_0, np.random.default_rng(), said.append))
    assert said[0] == "q8_0, 1 x 32 times 32 x 1"
    assert len(said) == len(set(said)) + 3 * (len(GAPS) - 1)
    assert said[-9:] == [
        *(f"q8_0, 17 x 4128 times 4128 x {n}, batched" for n in (1, 2, 7, 17, 33, 65)),
        *["q8_0, 17 x 4128 times 4128 x 7, grouped"] * 3,
    ]


#: Below, a 127th of it is no normal number of four bytes.
ORDINARY = st.floats(2.0**-99, 2.0**99, width=32)


@given(st.lists(ORDINARY | ORDINARY.map(lambda x: -x) | st.just(0.0), min_size=32, max_size=32))
def test_rounding_to_eight_bits_is_within_half_a_step(values: list[float]) -> None:
    x = np.array(values, np.float32)
    step = float(np.abs(x).max()) / 127
    assert np.all(np.abs(rounded(x, "dp4a", Q4_0) - x) <= 0.5001 * step)


def test_activations_beside_bf16_become_the_nearest_bf16() -> None:
    x = np.array([[1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -3.14159274, 0]], np.float32)
    near = [1, 1, 1 + 2**-6, 1 + 2**-7, -3.140625, 0]
    assert rounded(x, "tensor", GGMLQuantizationType.BF16).tolist() == [near]


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
