"""The kernels compile without a warning for what each compiler here can make, and load."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llamabuild.arch import CudaArch
from llamabuild.memo import Memo
from llamabuild.toolchain import (
    compiler_environment,
    find_cuda,
    find_host_compiler,
    find_rocm,
)
from llamabuild.verify.blocks import FLOATS, QUANTIZED

KERNELS = Path(__file__).parents[3] / "kernels"
SOURCES = sorted((KERNELS / "src").glob("*.cu"))
WARNINGS = ["-Wall", "-Wextra"]


def compile_all(command: list[str], folder: Path, env: dict[str, str]) -> str:
    """What the compiler says while compiling every source; stops at the first failure."""

    def one(source: Path) -> str:
        files = ["-c", str(source), "-o", str(folder / f"{source.stem}.o")]
        argv = [*command, f"-I{KERNELS / 'include'}", *files]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, env=env)
        assert done.returncode == 0, f"{source.name}: {done.stderr}"
        return done.stdout + done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return "".join(pool.map(one, SOURCES))


@pytest.mark.nvcc
@pytest.mark.slow
@pytest.mark.parametrize(
    "archs", [("75", "90a", "120"), ("50", "61", "86")], ids=["CUDA 13", "CUDA 11.8"]
)
def test_cuda(archs: tuple[str, ...], tmp_path: Path, need: Callable[[object, str], None]) -> None:
    environ, memo = dict(os.environ), Memo(None)
    wanted = [CudaArch.from_code(f"sm_{arch}") for arch in archs]
    toolkits = find_cuda(environ, memo=memo).toolkits
    fitting = [toolkit for toolkit in toolkits if all(map(toolkit.compiles, wanted))]
    need(fitting, f"a CUDA toolkit that compiles {archs}")
    compiler = find_host_compiler(fitting[0], environ, memo=memo)
    env = compiler_environment(fitting[0], compiler, environ)
    nvcc = [str(fitting[0].nvcc), "-ccbin", str(compiler.path)]
    command = [*nvcc, "-std=c++17", "-O3", "-Werror", "all-warnings"]
    command += ["-Wno-deprecated-gpu-targets", "-Xcompiler", ",".join(["-fPIC", *WARNINGS])]
    command += [f"-gencode={arch.gencode()}" for arch in wanted]
    assert "warning" not in compile_all(command, tmp_path, env)

    module = tmp_path / "ggml-cuda.so"
    objects = [str(tmp_path / f"{source.stem}.o") for source in SOURCES]
    subprocess.run([*nvcc, "-shared", *objects, "-o", str(module)], check=True, env=env)
    kernels = ctypes.CDLL(str(module))
    kernels.llamabuild_architectures.restype = ctypes.c_char_p
    kernels.llamabuild_last_error.restype = ctypes.c_char_p
    assert kernels.llamabuild_version() == 1
    assert kernels.llamabuild_types(None, 0) == len(QUANTIZED) + len(FLOATS)
    listed = [int(arch) // 10 for arch in kernels.llamabuild_architectures().split(b",")]
    assert listed == [arch.number for arch in wanted]
    if kernels.llamabuild_device_count(ctypes.byref(ctypes.c_int())):  # no driver here
        assert b"counting devices: " in kernels.llamabuild_last_error()


@pytest.fixture(scope="module")
def hip(tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]) -> list[str]:
    """HIP's compiler, and what every source is compiled with."""
    found = find_rocm(dict(os.environ), memo=Memo(None)).toolkits
    need(found, "a ROCm (Debian: apt install hipcc libamdhip64-dev rocm-device-libs)")
    rocm = found[0]
    libraries = rocm.device_libraries
    if "gfx1100" in rocm.without_libraries:
        libraries = tmp_path_factory.mktemp("libraries")
        for file in rocm.device_libraries.iterdir():
            (libraries / file.name).symlink_to(file)
        add_processor(rocm.clang, libraries, 1100, 11000)
    command = [str(rocm.clang), f"--rocm-path={rocm.root}", f"--rocm-device-lib-path={libraries}"]
    return [*command, "-std=c++17", "-O2", "-x", "hip", "-fPIC", *WARNINGS, "-Werror"]


def add_processor(clang: Path, libraries: Path, name: int, number: int) -> None:
    """Add what the device libraries say of a processor: its number, for mathematical functions."""
    source = libraries / f"{name}.ll"
    symbol = "@__oclc_ISA_version = linkonce_odr protected addrspace(4) constant i32"
    source.write_text(f'target triple = "amdgcn-amd-amdhsa"\n{symbol} {number}, align 4\n')
    target = libraries / f"oclc_isa_version_{name}.bc"
    flags = ["-x", "ir", "-target", "amdgcn-amd-amdhsa", "-nogpulib", "-emit-llvm"]
    subprocess.run([clang, *flags, "-c", source, "-o", target], check=True)


@pytest.mark.hipcc
@pytest.mark.slow
def test_hip(hip: list[str], tmp_path: Path) -> None:
    archs = [f"--offload-arch={arch}" for arch in ("gfx906", "gfx1030", "gfx1100")]
    compile_all([*hip, *archs], tmp_path, dict(os.environ))


@pytest.mark.hipcc
@pytest.mark.parametrize(
    ("arch", "instructions"),
    [
        ("gfx906", set()),
        ("gfx908", {"v_mfma_i32_16x16x16i8"}),
        ("gfx90a", {"v_mfma_i32_16x16x16i8"}),
        ("gfx1030", set()),
        ("gfx1100", {"v_wmma_i32_16x16x16_iu8"}),
    ],
)
def test_matrix_cores_of_amd(hip: list[str], arch: str, instructions: set[str]) -> None:
    """What is compiled for a GPU with matrix cores uses them."""
    source = KERNELS / "src" / "integers_k.cu"
    command = [*hip, f"--offload-arch={arch}", "--cuda-device-only", "-S", str(source), "-o", "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"\bv_[mw][fm]ma_\w+", done.stdout)) == instructions
