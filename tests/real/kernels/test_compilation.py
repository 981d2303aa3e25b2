"""The kernels compile without a warning for what each compiler here can make, and load."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llamabuild.arch import CudaArch
from llamabuild.memo import Memo
from llamabuild.toolchain import compiler_environment, find_cuda, find_host_compiler
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


def hip_command(need: Callable[[object, str], None], *archs: str) -> list[str]:
    """HIP's compiler and what every source is compiled with."""
    hipcc = shutil.which("hipcc")
    need(hipcc, "hipcc")
    assert hipcc
    command = [hipcc, "-std=c++17", "-O2", "-x", "hip", *WARNINGS, "-Werror"]
    return command + [f"--offload-arch={arch}" for arch in archs]


HIP_ENV = {**os.environ, "HIP_PLATFORM": "amd"}


@pytest.mark.hipcc
@pytest.mark.slow
def test_hip(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    compile_all(hip_command(need, "gfx906", "gfx1030"), tmp_path, HIP_ENV)


@pytest.mark.hipcc
@pytest.mark.parametrize(("arch", "there"), [("gfx906", False), ("gfx908", True), ("gfx90a", True)])
def test_matrix_cores_of_amd(arch: str, there: bool, need: Callable[[object, str], None]) -> None:
    """What is compiled for a GPU with matrix cores uses them."""
    source = KERNELS / "src" / "integers_k.cu"
    command = [*hip_command(need, arch), "--cuda-device-only", "-S", str(source), "-o", "-"]
    command += ["-Wno-unused-command-line-argument"]  # hipcc adds libraries
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=HIP_ENV)
    assert done.returncode == 0, done.stderr
    assert ("v_mfma_i32_16x16x16i8" in done.stdout) is there
