"""Modules in the hands of programs that load them as llamafile and ggml's users do.

The host itself is tested with fakes, compiled against the headers of the classic sources that
``LLAMABUILD_TEST_SOURCES`` names. ``LLAMABUILD_TEST_MODULES`` may name finished modules to try on a
GPU: ``SOURCE=PATH``, several separated by commas, with the source as ``--source`` takes it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild.memo import Memo
from llamabuild.probe import detect_nvidia
from llamabuild.source import SourceTree, open_source
from llamabuild.toolchain import find_cuda

from . import hosts
from .conftest import SOURCES

Fake = Callable[..., hosts.Outcome]

FORMATS = {"q4_0": (32, 18), "q8_0": (32, 34), "q4_K": (256, 144), "q6_K": (256, 210)}
WITHOUT_HOST = ("0.6", "0.6.1")  # they want another set of functions, and register no backend
ENVIRON = dict(os.environ)
MODULES = [entry for entry in ENVIRON.get("LLAMABUILD_TEST_MODULES", "").split(",") if entry]


def described(spec: str, folder: Path) -> SourceTree:
    return open_source(spec, scratch=folder, environ=ENVIRON, cwd=Path.cwd(), memo=Memo(None))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where sources are unpacked."""
    return tmp_path_factory.mktemp("sources")


@pytest.fixture(scope="session")
def named(need: Any, shelf: Path) -> list[tuple[hosts.Module, str]]:
    """The classic sources at hand, oldest first: modules to be, and what to build them from."""
    found = []
    for spec in SOURCES:
        if not spec.startswith("pypi:"):
            module = hosts.Module.of(shelf / "absent.so", described(spec, shelf))
            if module.release not in (None, *WITHOUT_HOST):
                found.append((module, spec))
    need(found, "a llamafile of 0.6.2 to 0.9.3 in LLAMABUILD_TEST_SOURCES")
    return sorted(found, key=lambda pair: [int(n) for n in str(pair[0].release).split(".")])


@pytest.fixture(scope="session")
def classics(named: list[tuple[hosts.Module, str]]) -> list[hosts.Module]:
    return [module for module, _ in named]


@pytest.fixture(scope="session")
def quants(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The hosts' own block formats, as a library."""
    out = tmp_path_factory.mktemp("quants") / "quants.so"
    library = ctypes.CDLL(str(hosts.compile_c(["quants.c"], out, flags=["-shared", "-fPIC"])))
    library.half_to_double.restype = ctypes.c_double
    return library


# --- the reference that everything is measured by -------------------------------------------------


@pytest.fixture
def numpy(need: Any) -> Any:
    need(find_spec("numpy"), "the numpy package")
    return importlib.import_module("numpy")


@pytest.fixture
def gguf(need: Any) -> Any:
    need(find_spec("gguf"), "the gguf package")
    return importlib.import_module("gguf")


def test_every_half_precision_number_is_read_as_numpy_reads_it(
    quants: ctypes.CDLL, numpy: Any
) -> None:
    bits = range(1 << 16)
    expected = numpy.array(bits, dtype=numpy.uint16).view(numpy.float16).astype(float)
    assert numpy.array_equal([quants.half_to_double(x) for x in bits], expected, equal_nan=True)


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_mean_what_gguf_says(quants: ctypes.CDLL, numpy: Any, gguf: Any, name: str) -> None:
    values_per_block, block_bytes = FORMATS[name]
    count = 500
    blocks = numpy.random.default_rng(1).integers(0, 256, (count, block_bytes), numpy.uint8)
    for at in {"q4_K": (0, 2), "q6_K": (208,)}.get(name, (0,)):
        blocks[:, at + 1] &= 0xBF  # factors below two: no infinity, every sign, subnormals too
    values = numpy.empty(count * values_per_block)
    assert quants.dequantize(name.encode(), blocks.ctypes, count, values.ctypes) == 0
    expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name.upper()])
    # gguf computes in single precision; q4_K subtracts two numbers of up to 2 * 63 * 15.
    numpy.testing.assert_allclose(values, expected.astype(float).ravel(), rtol=1e-6, atol=1e-3)


def test_an_unknown_format_is_not_guessed(quants: ctypes.CDLL) -> None:
    assert quants.dequantize(b"q9_9", b"", 0, None) != 0


# --- the host itself, with a module that multiplies on the CPU ------------------------------------


@pytest.fixture(scope="session", params=["oldest", "newest"])
def classic(request: pytest.FixtureRequest, classics: list[hosts.Module]) -> hosts.Module:
    return classics[0 if request.param == "oldest" else -1]


@pytest.fixture(scope="session")
def classic_host(classic: hosts.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hosts.compile_host(classic, tmp_path_factory.mktemp("classic") / "host")


@pytest.fixture
def fake(classic: hosts.Module, classic_host: Path, tmp_path: Path) -> Fake:
    """Compile a module that multiplies on the CPU, with a fault, and run it in the host."""
    code = (Path(hosts.__file__).parent / "fake_module.c").read_text()

    def run_fake(fault: str = "0", *, without: str = "", timeout: float = 120) -> hosts.Outcome:
        # Nobody calls the symbols that the code does not define: any address will do.
        idle = [
            symbol
            for symbol in hosts.looked_up(classic.release or "")
            if symbol != without and not re.search(rf"\b{symbol}\(", code)
        ]
        module = hosts.compile_c(
            ["fake_module.c", "quants.c"],
            tmp_path / "ggml-cuda.so",
            classic.headers,
            hosts.classic_defines(classic.headers) | {"FAULT": fault},
            flags=[
                *("-shared", "-fPIC", "-fvisibility=hidden"),
                *(f"-Wl,--defsym={symbol}=ggml_cuda_link" for symbol in idle),
            ],
        )
        return hosts.run(classic_host, module, timeout)

    return run_fake


def test_right_products_pass(fake: Fake) -> None:
    outcome = fake()
    assert outcome.exit_code == 0, outcome.stderr
    assert not outcome.crashed
    assert {(case.type, case.n) for case in outcome.cases} == {
        (name, n) for name in FORMATS for n in (1, 4, 64)
    }
    # The fake rounds nothing but the results.
    assert all(case.error is not None and case.error < 1e-7 for case in outcome.cases)
    assert all(case.worst is not None and case.worst < 1e-6 for case in outcome.cases)


def test_one_wrong_value_is_a_wrong_result(fake: Fake) -> None:
    outcome = fake("WRONG_VALUE")
    assert (outcome.exit_code, outcome.crashed) == (1, False), outcome.stderr
    assert len(outcome.cases) == 12
    assert not any(case.right for case in outcome.cases)
    # The last of them shows why the norm alone would not do.
    assert outcome.cases[-1].error is not None
    assert outcome.cases[-1].error < 1e-2


@pytest.mark.parametrize("fault", ["MISSED_VALUE", "REFUSES"])
def test_what_is_no_number_is_a_wrong_result(fake: Fake, fault: str) -> None:
    outcome = fake(fault)
    assert (outcome.exit_code, outcome.crashed) == (1, False), outcome.stderr
    assert all(case.error is case.worst is None and not case.right for case in outcome.cases)


def test_a_trapped_kernel_is_a_crash_and_its_words_come_through(fake: Fake) -> None:
    outcome = fake("TRAPS")
    assert outcome.crashed
    assert outcome.exit_code == 4
    assert outcome.cases == ()
    assert "CUDA kernel vec_dot_q8_0_q8_1_impl has no device code" in outcome.stderr


def test_a_module_that_dies_half_way_leaves_what_was_done(fake: Fake) -> None:
    outcome = fake("DIES")
    assert outcome.crashed
    assert outcome.exit_code < 0
    assert [case.n for case in outcome.cases] == [1, 4]


def test_a_module_that_hangs_is_ended(fake: Fake) -> None:
    outcome = fake("HANGS", timeout=2)
    assert (outcome.exit_code, outcome.crashed) == (124, True)


def test_no_device_is_an_answer_of_its_own(fake: Fake) -> None:
    outcome = fake("NO_GPU")
    assert (outcome.exit_code, outcome.crashed) == (3, False), outcome.stderr


def test_a_missing_symbol_is_named(fake: Fake) -> None:
    without = "ggml_backend_cuda_split_buffer_type"
    outcome = fake(without=without)
    assert (outcome.exit_code, outcome.crashed) == (2, False)
    assert f"missing symbols: {without}\n" in outcome.stderr


def test_what_is_no_library_cannot_be_loaded(classic_host: Path, tmp_path: Path) -> None:
    text = tmp_path / "ggml-cuda.so"
    text.write_text("no module\n")
    for module in (text, tmp_path, tmp_path / "absent.so"):
        outcome = hosts.run(classic_host, module, 60)
        assert (outcome.exit_code, outcome.crashed) == (2, False)
        assert "cannot load" in outcome.stderr
        assert str(module) in outcome.stderr


def test_every_source_has_a_host_and_it_says_what_an_empty_library_lacks(
    real_source: str, shelf: Path, tmp_path: Path
) -> None:
    empty = hosts.compile_c([], tmp_path / "empty.so", flags=["-shared"])
    module = hosts.Module.of(empty, described(real_source, shelf))
    if module.release in WITHOUT_HOST:
        with pytest.raises(hosts.HostError):
            hosts.compile_host(module, tmp_path / "host")
        return
    outcome = hosts.run(hosts.compile_host(module, tmp_path / "host"), empty, 60)
    assert outcome.exit_code == 2
    assert "ggml_backend_cuda_init" in outcome.stderr
    needed = "ggml_cuda_link" if module.release else "ggml_backend_graph_compute"
    assert needed in outcome.stderr


def test_the_host_asks_for_what_the_checkouts_at_hand_ask_for() -> None:
    """An unpacked llamafile has no loader's source to compare with; a checkout has."""
    loaders = [path for spec in SOURCES if (path := Path(spec, "llamafile", "cuda.c")).is_file()]
    for loader in loaders:
        header = (loader.parent / "version.h").read_text()
        version = re.search(r"MAJOR (\d+)\n.*MINOR (\d+)\n.*PATCH (\d+)", header)
        assert version
        if tuple(map(int, version.groups())) >= (0, 6, 2):
            looked_up = re.findall(r'imp\(lib, "(\w+)"\)', loader.read_text())
            assert hosts.looked_up(".".join(version.groups())) == tuple(looked_up)


@pytest.mark.parametrize("release", [*WITHOUT_HOST, "0.10", "1.0"])
def test_other_loaders_are_not_guessed_at(release: str) -> None:
    with pytest.raises(hosts.HostError, match=re.escape(release)):
        hosts.looked_up(release)


def test_headers_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(hosts.HostError, match=r"no ggml-backend-impl\.h in"):
        hosts.compile_classic([tmp_path], tmp_path / "host", release="0.8.1")


# --- modules that somebody built ------------------------------------------------------------------


@pytest.fixture(scope="session")
def classic_module(need: Any, shelf: Path, named: list[tuple[hosts.Module, str]]) -> hosts.Module:
    """The oldest of the classic sources at hand, built for the oldest architecture there is."""
    toolkits = find_cuda(ENVIRON, memo=Memo(None)).toolkits
    need(toolkits, "a CUDA toolkit")
    arch = min(arch for toolkit in toolkits for arch in toolkit.real)
    _, spec = named[0]
    (built,) = llamabuild.build(arch.name, spec, cache_dir=str(shelf / "cache"))
    return hosts.Module.of(built.path, built.plan.source)


def test_a_module_loads_where_there_is_no_gpu(classic_module: hosts.Module, tmp_path: Path) -> None:
    """All symbols are there, the table is taken, and the answer is: no device."""
    outcome = hosts.try_without_gpu(classic_module, tmp_path)
    assert (outcome.exit_code, outcome.crashed) == (3, False), outcome.stderr
    assert "welcome to CUDA SDK" in outcome.stderr


@pytest.mark.gpu
def test_modules_multiply_on_the_gpu(
    need: Any, request: pytest.FixtureRequest, shelf: Path, tmp_path: Path
) -> None:
    need(detect_nvidia(ENVIRON).gpus, "a GPU")
    given = [entry.rpartition("=") for entry in MODULES]
    modules = [hosts.Module.of(Path(path), described(spec, shelf)) for spec, _, path in given] or [
        request.getfixturevalue("classic_module")
    ]
    for number, module in enumerate(modules):
        program = hosts.compile_host(module, tmp_path / f"host{number}")
        outcome = hosts.run(program, module.path, 300)
        assert outcome.exit_code == 0, f"{module.path}\n{outcome.stderr}\n{outcome.cases}"
        assert len(outcome.cases) == 12
