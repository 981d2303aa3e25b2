"""``verify`` and ``bench`` from end to end, with a module whose GPU is the host's processor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamabuild.probe import detect_gpus

HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "kernels"
STAND_IN = HERE / "verify" / "stand_in.cpp"

Verify = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def compile_stand_in(need: Any) -> Callable[[Path, Path], Path]:
    compiler = shutil.which("g++") or shutil.which("c++")
    need(compiler, "a C++ compiler")
    assert compiler

    def compile_with(sources: Path, out: Path) -> Path:
        warnings = ["-Wall", "-Wextra", "-Werror"]
        includes = [f"-I{sources}", f"-I{KERNELS / 'include'}"]
        options = ["-std=c++17", "-O2", "-shared", "-fPIC"]
        subprocess.run([compiler, *options, *warnings, *includes, STAND_IN, "-o", out], check=True)
        return out

    return compile_with


@pytest.fixture(scope="session")
def module(
    compile_stand_in: Callable[[Path, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return compile_stand_in(KERNELS / "src", tmp_path_factory.mktemp("module") / "ggml-cuda.so")


def llamabuild(command: str, *words: str | Path, fault: str = "") -> Any:
    environ = {**os.environ, "FAULT": fault}
    return subprocess.run(
        [sys.executable, "-m", "llamabuild", command, *words],
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_every_type_and_shape_is_tried_and_right(module: Path) -> None:
    done = llamabuild("verify", module, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["passed"]
    assert document["flavor"] == "bundled"
    assert not document["not_shown"]
    rows = document["rows"]
    assert len({row["type"] for row in rows}) == 23
    assert {row["form"] for row in rows} == {"plain", "batched", "grouped"}
    for size in ("m", "n"):
        sizes = {row[size] for row in rows if row["form"] == "plain"}
        assert sizes == {1, 2, 7, 8, 33, 129}
    q4_0 = [row for row in rows if row["type"] == "q4_0"]
    for form in ("plain", "batched", "grouped"):
        assert {row["k"] for row in q4_0 if row["form"] == form} == {32, 160, 4128}
    assert all(row["same"] < 1e-5 for row in rows)
    # What rounding to eight bits costs: were it nothing, this would not be the module's product.
    assert all(1e-4 < row["error"] < 1e-2 for row in rows if row["k"] > 4096 and row["m"] > 8)


def test_a_wrong_shift_is_found_and_its_type_is_named(
    compile_stand_in: Callable[[Path, Path], Path], tmp_path: Path
) -> None:
    sources = tmp_path / "src"
    shutil.copytree(KERNELS / "src", sources)
    formats = (sources / "formats.h").read_text()
    planted = formats.replace(">> 4 & 0x0f0f0f0f", ">> 3 & 0x0f0f0f0f", 1)  # both nibbles of q4_0
    assert planted != formats
    (sources / "formats.h").write_text(planted)
    module = compile_stand_in(sources, tmp_path / "ggml-cuda.so")
    done = llamabuild("verify", module, "--types", "q4_0,q8_0", "--json")
    assert done.returncode == 7
    document = json.loads(done.stdout)
    assert not document["passed"]
    assert document["error"]["code"] == 7
    assert {row["type"] for row in document["rows"] if not row["right"]} == {"q4_0"}
    assert "of q4_0; the first is 1 x 32 times 32 x 1 (scalar)" in done.stderr


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("crash", "crashed (SIGABRT) at q4_0, 1 x 32 times 32 x 1"),
        ("refuse", "failed at q4_0, 1 x 32 times 32 x 1: multiplying: out of memory (status 2)"),
        ("exit", "no device code compatible with CUDA arch 600"),
        ("exit", "--arch native"),
        ("crash_grouped", "crashed (SIGABRT) at q4_0, 17 x 32 times 32 x 7, grouped"),
        ("untouched", "129 x 32 times 32 x 1 (scalar), not a number"),
        ("beyond", "126 of 135 products are wrong"),
        ("first_only", "18 of 135 products are wrong, of q4_0; the first is 17 x 32 times"),
        ("first_only", "32 x 1, batched (scalar), not a number"),
        ("clamp", "9 of 135 products are wrong"),
        ("clamp", "17 x 32 times 32 x 7, grouped (scalar), off by"),
    ],
)
def test_what_a_module_does_wrong_is_exit_code_7(module: Path, fault: str, words: str) -> None:
    done = llamabuild("verify", module, "--types", "q4_0", fault=fault)
    assert done.returncode == 7, done.stderr
    assert words in done.stderr
    assert "  try: " in done.stderr


def test_a_hang_is_ended(module: Path) -> None:
    done = llamabuild("verify", module, "--types", "q4_0", "--time-limit", "3", fault="hang")
    assert done.returncode == 7
    assert "did not answer within 3 seconds at q4_0, 1 x 32 times 32 x 1" in done.stderr
    assert "--time-limit" in done.stderr


def test_what_a_module_prints_is_not_taken_for_its_report(module: Path) -> None:
    done = llamabuild("verify", module, "--types", "Q4_0", "--json", fault="noise")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len(document["rows"]) == 135
    assert "\033" not in document["words"]


def test_without_a_gpu_it_is_exit_code_3(module: Path) -> None:
    done = llamabuild("verify", module, "--json", fault="no_device")
    # Where there is a GPU, it is the module that does not see it.
    expected = 7 if detect_gpus(os.environ).gpus else 3
    assert done.returncode == expected, done.stderr
    assert json.loads(done.stdout)["error"]["code"] == expected


def test_a_gpu_that_is_not_there_is_exit_code_3(module: Path) -> None:
    done = llamabuild("verify", module, "--device", "1")
    assert done.returncode == 3
    assert "the module sees 1 GPU, and so none of number 1" in done.stderr


def test_bench_times_each_product(module: Path) -> None:
    options = ["--types", "q4_0,q6_K", "--shapes", "64x256,32x512", "--columns", "1,4"]
    done = llamabuild("bench", module, *options, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [(row["type"], row["m"], row["n"], row["k"]) for row in document["rows"]] == [
        (kind, m, n, k)
        for m, k in ((64, 256), (32, 512))
        for kind in ("q4_0", "q6_K")
        for n in (1, 4)
    ]
    first = document["rows"][0]
    moved = 64 * 256 // 32 * 18 + 4 * (256 + 64)
    assert first["bytes_per_second"] == pytest.approx(moved / first["microseconds"] * 1e6)
    assert first["operations_per_second"] == pytest.approx(
        2 * 64 * 256 / first["microseconds"] * 1e6
    )
    assert first["share"] == pytest.approx(
        first["bytes_per_second"] / document["copy_bytes_per_second"]
    )
    table = llamabuild("bench", module, *options).stdout.splitlines()
    assert table[0].split() == [
        "type",
        "m",
        "n",
        "k",
        "path",
        "us",
        "GB/s",
        "of",
        "copy",
        "TFLOP/s",
    ]
    assert len(table) == 9


def test_a_bench_that_crashes_is_exit_code_7(module: Path) -> None:
    done = llamabuild("bench", module, "--types", "q4_0", fault="crash")
    assert done.returncode == 7
    assert "crashed (SIGABRT) at q4_0, 4096 x 14336" in done.stderr


def test_only_our_own_kernels_are_timed(compile_library: Callable[[str], Path]) -> None:
    names = ("ggml_backend_cuda_init", "ggml_backend_cuda_get_device_count")
    library = compile_library("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
    done = llamabuild("bench", library)
    assert done.returncode == 2
    assert "only our own kernels can be timed" in done.stderr


@pytest.fixture
def compile_library(need: Any, tmp_path: Path) -> Callable[[str], Path]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    need(compiler, "a C compiler")
    assert compiler

    def compile_text(text: str) -> Path:
        source, out = tmp_path / "library.c", tmp_path / "library.so"
        source.write_text(text)
        subprocess.run([compiler, "-shared", "-fPIC", source, "-o", out], check=True)
        return out

    return compile_text


def test_a_library_that_is_no_module_is_not_called_one(
    compile_library: Callable[[str], Path],
) -> None:
    done = llamabuild("verify", compile_library("void something_else(void) {}"))
    assert done.returncode == 7
    assert "is no GPU module: it exports none of llamabuild_version, ggml_cuda_link" in done.stderr


@pytest.mark.gpu
def test_what_a_ggml_module_needs_to_be_tried_is_said(
    compile_library: Callable[[str], Path], need: Any
) -> None:
    need(detect_gpus(os.environ).gpus, "a GPU")
    names = ("ggml_backend_cuda_init", "ggml_backend_cuda_get_device_count")
    library = compile_library("".join(f"int {name}(void) {{ return 1; }}\n" for name in names))
    done = llamabuild("verify", library)
    assert done.returncode == 0, done.stderr
    assert "loads as a self-contained module" in done.stdout
    assert "finds 1 GPU" in done.stdout
    assert "not shown: products (q4_0, q8_0, q4_K, q6_K)" in done.stdout
    assert "name that with --source" in done.stdout


def test_missing_functions_are_named(compile_library: Callable[[str], Path]) -> None:
    done = llamabuild("verify", compile_library("int llamabuild_version(void) { return 1; }"))
    assert done.returncode == 7
    assert "lacks llamabuild_last_error, llamabuild_architectures" in done.stderr


def test_a_module_without_its_ggml_is_no_failure(
    compile_library: Callable[[str], Path], need: Any, tmp_path: Path
) -> None:
    """backend-dl modules lie beside llama.cpp's libraries, and not in the cache."""
    base = compile_library("void ggml_init(void) {}").rename(tmp_path / "libggml-base.so.0")
    (tmp_path / "library.c").write_text("void ggml_backend_init(void) {}")
    module = tmp_path / "libggml-cuda.so"
    subprocess.run(
        [shutil.which("gcc") or "cc", "-shared", "-fPIC", tmp_path / "library.c",
         "-Wl,--no-as-needed", base, "-o", module],
        check=True,
    )  # fmt: skip
    base.unlink()
    done = llamabuild("verify", module)
    if not detect_gpus(os.environ).gpus:
        assert done.returncode == 3
        return
    assert done.returncode == 0, done.stderr
    assert "it needs libggml-base.so.0, which comes with llama.cpp" in done.stdout


def test_what_is_no_library_is_exit_code_7(tmp_path: Path) -> None:
    text = tmp_path / "ggml-cuda.so"
    text.write_text("no module\n")
    done = llamabuild("verify", text)
    assert done.returncode == 7
    assert "cannot be loaded" in done.stderr


def test_the_package_to_install_is_named(module: Path, tmp_path: Path) -> None:
    (tmp_path / "gguf.py").write_text("raise ImportError('gguf is away')")
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "llamabuild", "verify", module],
        env=environ,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 4
    assert "gguf is away" in done.stderr
    assert "pip install --upgrade 'llamabuild[verify]'" in done.stderr


@pytest.mark.gpu
@pytest.mark.nvcc
@pytest.mark.slow
def test_our_own_kernels_are_built_and_right_on_this_gpu(need: Any, tmp_path: Path) -> None:
    need(shutil.which("nvidia-smi"), "an NVIDIA GPU")
    done = llamabuild("verify", "--cache-dir", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert len({row["type"] for row in document["rows"]}) == 25
    assert len({(row["type"], row["form"]) for row in document["rows"]}) == 3 * 25
