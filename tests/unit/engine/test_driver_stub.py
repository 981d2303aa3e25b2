"""The stand-in of the driver library defines what cuda.h declares, under the names it links by."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llamabuild.engine import driver_stub
from llamabuild.errors import ToolchainError

HEADER = """
#define cuDeviceTotalMem cuDeviceTotalMem_v2
    #define cuMemcpyHtoD                        __CUDA_API_PTDS(cuMemcpyHtoD_v2)
#define CUDA_VERSION 13000
#define cuda_unrelated 1
CUresult CUDAAPI cuInit(unsigned int Flags);
CUresult CUDAAPI cuDeviceTotalMem(size_t *bytes, CUdevice dev);
CUresult CUDAAPI
cuMemCreate(CUmemGenericAllocationHandle *handle);
typedef void (CUDA_CB *CUhostFn)(void *userData);
"""


def test_declared_and_renamed_functions() -> None:
    assert driver_stub.functions(HEADER) == (
        "cuDeviceTotalMem",
        "cuDeviceTotalMem_v2",
        "cuInit",
        "cuMemCreate",
        "cuMemcpyHtoD_v2",
    )


def test_without_the_header_it_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"cuda\.h cannot be read") as caught:
        driver_stub.build(
            tmp_path / "stub", include_dir=tmp_path, compiler=Path("cc"), environment={}
        )
    assert "nvidia-cuda-runtime" in caught.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="the fake compiler is a shell script")
def test_a_compiler_that_cannot_link_is_named(tmp_path: Path) -> None:
    (tmp_path / "cuda.h").write_text(HEADER)
    compiler = tmp_path / "fake-cc"
    compiler.write_text("#!/bin/sh\necho 'ld: no output today' >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(ToolchainError, match="no output today"):
        driver_stub.build(
            tmp_path / "stub", include_dir=tmp_path, compiler=compiler, environment={}
        )
    source = (tmp_path / "stub" / "driver_stub.c").read_text()
    assert "int cuMemCreate(void) { return 100; }" in source
