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
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild.memo import Memo
from llamabuild.probe import detect_nvidia
from llamabuild.source import SourceTree, open_source
from llamabuild.toolchain import find_cuda
from llamabuild.verify import hosting, verify
from llamabuild.verify.trial import Trial, attempt

from .conftest import SOURCES
from .hosts import NO_DEVICE, load_without_gpu

Fake = Callable[..., Trial]

#: How a stand-in ends: host.h.
ALL_RIGHT, WRONG_RESULT, CANNOT_LOAD, GAVE_UP = 0, 1, 2, 4
FAKE_MODULE = Path(__file__).with_name("hosts") / "fake_module.c"

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


def release_of(source: SourceTree) -> str | None:
    """The newest release with these sources; None for a tree of ggml's."""
    return (source.version or "").split("-")[-1] if source.layout == "classic" else None


def headers_of(source: SourceTree) -> list[Path]:
    return [source.root / folder for folder in source.includes]


def run_in(program: Path, module: Path, time_limit: float, environ: Any = ENVIRON) -> Trial:
    return attempt([program], [str(module), "0"], environ=environ, time_limit=time_limit)


@pytest.fixture(scope="session")
def named(need: Any, shelf: Path) -> list[tuple[SourceTree, str]]:
    """The classic sources at hand, oldest first, and how to name each."""
    found = []
    for spec in SOURCES:
        if not spec.startswith("pypi:"):
            source = described(spec, shelf)
            if release_of(source) not in (None, *WITHOUT_HOST):
                found.append((source, spec))
    need(found, "a llamafile of 0.6.2 to 0.9.3 in LLAMABUILD_TEST_SOURCES")
    return sorted(found, key=lambda pair: [int(n) for n in str(release_of(pair[0])).split(".")])


@pytest.fixture(scope="session")
def classics(named: list[tuple[SourceTree, str]]) -> list[SourceTree]:
    return [source for source, _ in named]


@pytest.fixture(scope="session")
def quants(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The hosts' own block formats, as a library."""
    out = tmp_path_factory.mktemp("quants") / "quants.so"
    files, flags = [hosting.SOURCES / "quants.c"], ["-shared", "-fPIC"]
    library = ctypes.CDLL(str(hosting.compile_c(files, out, ENVIRON, flags=flags)))
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
def classic(request: pytest.FixtureRequest, classics: list[SourceTree]) -> SourceTree:
    return classics[0 if request.param == "oldest" else -1]


@pytest.fixture(scope="session")
def classic_host(classic: SourceTree, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hosting.compile_host(classic, tmp_path_factory.mktemp("classic") / "host", ENVIRON)


def compile_fake(classic: SourceTree, out: Path, fault: str = "0", without: str = "") -> Path:
    """Compile a module that multiplies on the CPU, with a fault."""
    code = FAKE_MODULE.read_text()
    # Nobody calls the symbols that the code does not define: any address will do.
    idle = [
        symbol
        for symbol in hosting.looked_up(release_of(classic) or "")
        if symbol != without and not re.search(rf"\b{symbol}\(", code)
    ]
    headers = headers_of(classic)
    return hosting.compile_c(
        [FAKE_MODULE, hosting.SOURCES / "quants.c"],
        out,
        ENVIRON,
        headers=[*headers, hosting.SOURCES],
        defines=hosting.classic_defines(headers) | {"FAULT": fault},
        flags=[
            *("-shared", "-fPIC", "-fvisibility=hidden"),
            *(f"-Wl,--defsym={symbol}=ggml_cuda_link" for symbol in idle),
        ],
    )


@pytest.fixture
def fake(classic: SourceTree, classic_host: Path, tmp_path: Path) -> Fake:
    """Compile a faulty module, and run it in the host."""

    def run_fake(fault: str = "0", *, without: str = "", time_limit: float = 120) -> Trial:
        module = compile_fake(classic, tmp_path / "ggml-cuda.so", fault, without)
        return run_in(classic_host, module, time_limit)

    return run_fake


def test_right_products_pass(fake: Fake) -> None:
    trial = fake()
    assert (trial.returncode, trial.ended) == (ALL_RIGHT, True), trial.words
    rows = trial.all("row")
    assert {(row["type"], row["n"]) for row in rows} == {
        (name, n) for name in FORMATS for n in (1, 4, 64)
    }
    # The fake rounds nothing but the results.
    assert all(row["error"] < 1e-7 for row in rows)
    assert all(row["worst"] < 1e-6 for row in rows)


def test_one_wrong_value_is_a_wrong_result(fake: Fake) -> None:
    trial = fake("WRONG_VALUE")
    assert (trial.returncode, trial.ended) == (WRONG_RESULT, True), trial.words
    rows = trial.all("row")
    assert len(rows) == 12
    assert not any(row["right"] for row in rows)
    # The last of them shows why the norm alone would not do.
    assert rows[-1]["error"] < 1e-2


@pytest.mark.parametrize("fault", ["MISSED_VALUE", "REFUSES"])
def test_what_is_no_number_is_a_wrong_result(fake: Fake, fault: str) -> None:
    trial = fake(fault)
    assert (trial.returncode, trial.ended) == (WRONG_RESULT, True), trial.words
    rows = trial.all("row")
    assert all(row["error"] is row["worst"] is None and not row["right"] for row in rows)


def test_a_trapped_kernel_is_a_failure_and_its_words_come_through(fake: Fake) -> None:
    trial = fake("TRAPS")
    assert (trial.returncode, trial.ended) == (GAVE_UP, False)
    assert trial.said("failed", str, "") == "the module called exit(1)"
    assert trial.all("row") == []
    assert "CUDA kernel vec_dot_q8_0_q8_1_impl has no device code" in trial.words


def test_a_module_that_dies_half_way_leaves_what_was_done(fake: Fake) -> None:
    trial = fake("DIES")
    assert not trial.ended
    assert trial.ending == "crashed (SIGABRT) at q4_0, 262 x 1376 times 1376 x 64"
    assert [row["n"] for row in trial.all("row")] == [1, 4]


def test_a_module_that_hangs_is_ended(fake: Fake) -> None:
    trial = fake("HANGS", time_limit=2)
    assert trial.ending == "did not answer within 2 seconds at q4_0, 262 x 1376 times 1376 x 1"


def test_no_device_is_an_answer_of_its_own(fake: Fake) -> None:
    trial = fake("NO_GPU")
    assert trial.returncode == NO_DEVICE, trial.words
    assert trial.said("no_device", str, "")


def test_a_missing_symbol_is_named(fake: Fake) -> None:
    without = "ggml_backend_cuda_split_buffer_type"
    trial = fake(without=without)
    assert trial.returncode == CANNOT_LOAD
    assert trial.said("cannot_load", str, "") == f"missing symbols: {without}"


def test_what_is_no_library_cannot_be_loaded(classic_host: Path, tmp_path: Path) -> None:
    text = tmp_path / "ggml-cuda.so"
    text.write_text("no module\n")
    for module in (text, tmp_path, tmp_path / "absent.so"):
        trial = run_in(classic_host, module, 60)
        assert trial.returncode == CANNOT_LOAD
        assert str(module) in trial.said("cannot_load", str, "")


def test_verify_drives_a_classic_module_with_its_source(
    classic: SourceTree, tmp_path: Path
) -> None:
    module = compile_fake(classic, tmp_path / "ggml-cuda.so")
    verdict = verify(module, source=classic, environ=ENVIRON, types=["q4_K"])
    assert verdict.passed, verdict.error
    assert verdict.complete
    assert [(row.type, row.n) for row in verdict.rows] == [("q4_K", n) for n in (1, 4, 64)]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("TRAPS", "no device code compatible with CUDA arch 600"),
        ("WRONG_VALUE", "12 of 12 products are wrong"),
        ("DIES", "crashed (SIGABRT) at q4_0, 262 x 1376 times 1376 x 64"),
    ],
)
def test_verify_says_what_a_classic_module_does_wrong(
    classic: SourceTree, tmp_path: Path, fault: str, words: str
) -> None:
    module = compile_fake(classic, tmp_path / "ggml-cuda.so", fault)
    verdict = verify(module, source=classic, environ=ENVIRON)
    assert verdict.error is not None
    assert words in verdict.error.message


def test_every_source_has_a_host_and_it_says_what_an_empty_library_lacks(
    real_source: str, shelf: Path, tmp_path: Path
) -> None:
    empty = hosting.compile_c([], tmp_path / "empty.so", ENVIRON, flags=["-shared"])
    source = described(real_source, shelf)
    if release_of(source) in WITHOUT_HOST:
        with pytest.raises(hosting.CannotCompile):
            hosting.compile_host(source, tmp_path / "host", ENVIRON)
        return
    trial = run_in(hosting.compile_host(source, tmp_path / "host", ENVIRON), empty, 60)
    assert trial.returncode == CANNOT_LOAD
    lacking = trial.said("cannot_load", str, "")
    assert "ggml_backend_cuda_init" in lacking
    assert ("ggml_cuda_link" if release_of(source) else "ggml_backend_graph_compute") in lacking


def test_the_host_asks_for_what_the_checkouts_at_hand_ask_for() -> None:
    """An unpacked llamafile has no loader's source to compare with; a checkout has."""
    loaders = [path for spec in SOURCES if (path := Path(spec, "llamafile", "cuda.c")).is_file()]
    for loader in loaders:
        header = (loader.parent / "version.h").read_text()
        version = re.search(r"MAJOR (\d+)\n.*MINOR (\d+)\n.*PATCH (\d+)", header)
        assert version
        if tuple(map(int, version.groups())) >= (0, 6, 2):
            looked_up = re.findall(r'imp\(lib, "(\w+)"\)', loader.read_text())
            assert hosting.looked_up(".".join(version.groups())) == tuple(looked_up)


@pytest.mark.parametrize("release", [*WITHOUT_HOST, "0.10", "1.0"])
def test_other_loaders_are_not_guessed_at(release: str) -> None:
    with pytest.raises(hosting.CannotCompile, match=re.escape(release)):
        hosting.looked_up(release)


def test_headers_of_something_else_are_refused(classics: list[SourceTree], tmp_path: Path) -> None:
    elsewhere = replace(classics[0], root=tmp_path)
    with pytest.raises(hosting.CannotCompile, match=r"no ggml-backend-impl\.h in"):
        hosting.compile_host(elsewhere, tmp_path / "host", ENVIRON)


# --- modules that somebody built ------------------------------------------------------------------


@pytest.fixture(scope="session")
def classic_module(
    need: Any, shelf: Path, named: list[tuple[SourceTree, str]]
) -> tuple[Path, SourceTree]:
    """The oldest of the classic sources at hand, built for the oldest architecture there is."""
    toolkits = find_cuda(ENVIRON, memo=Memo(None)).toolkits
    need(toolkits, "a CUDA toolkit")
    arch = min(arch for toolkit in toolkits for arch in toolkit.real)
    source, spec = named[0]
    (built,) = llamabuild.build(arch.name, spec, cache_dir=str(shelf / "cache"))
    return built.path, source


def test_a_module_loads_where_there_is_no_gpu(
    classic_module: tuple[Path, SourceTree], tmp_path: Path
) -> None:
    """All symbols are there, the table is taken, and the answer is: no device."""
    path, source = classic_module
    trial = load_without_gpu(path, source, tmp_path)
    assert trial.returncode == NO_DEVICE, trial.words
    assert "welcome to CUDA SDK" in trial.words


@pytest.mark.gpu
def test_modules_multiply_on_the_gpu(
    need: Any, request: pytest.FixtureRequest, shelf: Path
) -> None:
    need(detect_nvidia(ENVIRON).gpus, "a GPU")
    given = [entry.rpartition("=") for entry in MODULES]
    modules = [(Path(path), described(spec, shelf)) for spec, _, path in given]
    if not modules:
        source, spec = request.getfixturevalue("named")[0]
        (built,) = llamabuild.build("native", spec, cache_dir=str(shelf / "cache"))
        modules = [(built.path, source)]
    for path, source in modules:
        verdict = verify(path, source=source, environ=ENVIRON)
        assert verdict.passed, f"{verdict.error}\n{verdict.rows}"
        assert len(verdict.rows) == 12
