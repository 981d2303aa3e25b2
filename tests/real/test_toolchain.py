"""The toolkits that are really installed here: described, and started."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llamabuild import run
from llamabuild.arch import CudaArch
from llamabuild.errors import ToolchainError
from llamabuild.memo import Memo
from llamabuild.toolchain import (
    Toolkit,
    ToolkitSearch,
    choose,
    compiler_environment,
    find_build_tools,
    find_cuda,
    find_host_compiler,
)

pytestmark = pytest.mark.nvcc

KERNEL = """
#include <cuda_fp16.h>
__global__ void scale(__half *x, float f) { x[threadIdx.x] = __float2half(f) * x[threadIdx.x]; }
extern "C" void run(__half *x) { scale<<<1, 32>>>(x, 2.0f); }
"""


@pytest.fixture(scope="module")
def memo(tmp_path_factory: pytest.TempPathFactory) -> Memo:
    return Memo(tmp_path_factory.mktemp("memo"))


@pytest.fixture(scope="module")
def search(memo: Memo, need: Callable[[object, str], None]) -> ToolkitSearch:
    search = find_cuda(os.environ, memo=memo)
    need(search.toolkits, "a CUDA toolkit")
    return search


def compile_module(toolkit: Toolkit, memo: Memo, folder: Path, environ: dict[str, str]) -> None:
    host = find_host_compiler(toolkit, environ, memo=memo)
    Path(folder, "kernel.cu").write_text(KERNEL)
    arch = toolkit.real[-1]
    done = run.capture(
        [
            toolkit.nvcc,
            *("-ccbin", host.path, "-gencode", arch.gencode(), "--shared", "-cudart", "static"),
            *(f"-L{library}" for library in toolkit.library_dirs),
            *("-Xcompiler", "-fPIC", "-o", "kernel.so", "kernel.cu"),
        ],
        env=compiler_environment(toolkit, host, environ),
        cwd=folder,
        timeout=120,
    )
    assert done.returncode == 0, done.text
    assert (folder / "kernel.so").stat().st_size > 0


def test_every_toolkit_compiles_in_its_own_environment(
    search: ToolkitSearch, memo: Memo, tmp_path: Path
) -> None:
    for number, toolkit in enumerate(search.toolkits):
        folder = tmp_path / str(number)
        folder.mkdir()
        compile_module(toolkit, memo, folder, dict(os.environ))


def test_every_toolkit_compiles_with_every_other_first_on_path(
    search: ToolkitSearch, memo: Memo, tmp_path: Path
) -> None:
    for number, toolkit in enumerate(search.toolkits):
        others = [
            str(folder)
            for other in search.toolkits
            if other != toolkit
            for folder in other.path_dirs
        ]
        environ = {**os.environ, "PATH": os.pathsep.join([*others, os.environ["PATH"]])}
        folder = tmp_path / str(number)
        folder.mkdir()
        compile_module(toolkit, memo, folder, environ)


def test_what_nvcc_says_of_its_targets_is_what_it_lists(search: ToolkitSearch) -> None:
    for toolkit in search.toolkits:
        for option, archs in (
            ("--list-gpu-code", toolkit.real),
            ("--list-gpu-arch", toolkit.virtual),
        ):
            listed = run.capture([toolkit.nvcc, option], env=os.environ, timeout=30).stdout.split()
            assert {arch.code for arch in archs if not arch.suffix} == set(listed)


def test_the_host_compilers_that_a_header_accepts_are_those_it_is_said_to(
    search: ToolkitSearch, memo: Memo
) -> None:
    for toolkit in search.toolkits:
        host = find_host_compiler(toolkit, os.environ, memo=memo)
        assert toolkit.gcc_max is not None
        for major, accepted in ((toolkit.gcc_max, True), (toolkit.gcc_max + 1, False)):
            done = run.capture(
                [
                    *(host.path, "-E", "-x", "c++", "-U__GNUC__", f"-D__GNUC__={major}"),
                    *("-D__CUDACC__", f"-I{toolkit.include_dir}"),
                    *("-include", "crt/host_config.h", os.devnull),
                ],
                env=os.environ,
                timeout=30,
            )
            assert ("unsupported GNU version" in done.text) is not accepted


def test_a_second_search_gives_the_same_answer(search: ToolkitSearch, memo: Memo) -> None:
    assert find_cuda(os.environ, memo=memo) == search


def test_two_toolkits_side_by_side_share_the_work_as_they_can(
    search: ToolkitSearch, need: Callable[[object, str], None]
) -> None:
    """With CUDA 11.8 and 13 here, 6.1 and 9.0 take the old one and nothing takes 6.1 and 12.0."""
    majors = {toolkit.version.split(".")[0] for toolkit in search.toolkits}
    need({"11", "13"} <= majors, "CUDA 11.8 and CUDA 13 side by side")
    old, new = CudaArch(61), CudaArch(120)
    assert choose(search, [old, CudaArch(90)], cublas=False).toolkit.version.startswith("11.")
    assert choose(search, [new], cublas=False).toolkit.version.startswith("13.")
    with pytest.raises(ToolchainError) as caught:
        choose(search, [old, new], cublas=False)
    assert "--per-arch" in caught.value.hint


def test_the_build_tools_are_here(memo: Memo) -> None:
    tools = find_build_tools(os.environ, memo=memo)
    for program in (tools.cmake, tools.ninja):
        assert run.capture([program, "--version"], env=os.environ, timeout=30).returncode == 0
