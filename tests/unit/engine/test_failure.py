"""A failed build is told by its first error, not by its last page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.engine.failure import explain

NINJA = """\
[1/9] g++ preprocessor
[2/9] cicc compute_90
ggml-cuda.cu(4): warning #177-D: function "error_free" was declared but never referenced
[3/9] g++
FAILED: [code=1] stages/host.o
cd /x && g++ -c x.cudafe1.cpp -o stages/host.o
ggml-cuda.cu:9199:1: warning: 'noreturn' function does return
{error}
{context}
ninja: build stopped: subcommand failed.
"""


@pytest.mark.parametrize(
    "error",
    [
        "ggml-cuda.cu:17:5: error: 'x' was not declared in this scope",
        'ggml-cuda.cu(17): error: identifier "x" is undefined',
        "ggml-cuda.cu(17): error C2065: 'x': undeclared identifier",
        "ptxas fatal   : Value 'sm_60' is not defined for option 'gpu-name'",
        "/usr/bin/ld: cannot find -lcuda: No such file or directory",
        "nvcc error   : 'cicc' died due to signal 9 (Kill signal)",
        "fatal error: cublas_v2.h: No such file or directory",
        "ggml-cuda.cu: undefined reference to `cuDeviceGet'",
    ],
)
def test_the_first_error_after_the_failed_command(error: str) -> None:
    failure = explain(NINJA.format(error=error, context="    17 | x").splitlines())
    assert failure.error == error
    assert failure.command == "cd /x && g++ -c x.cudafe1.cpp -o stages/host.o"
    assert failure.code == 1
    assert failure.context == ("    17 | x",)


def test_older_ninjas_print_no_code() -> None:
    failure = explain(["FAILED: stages/host.o", "g++ -c x", "x.cu:1:1: error: no"])
    assert (failure.code, failure.error) == (None, "x.cu:1:1: error: no")


def test_cmake_itself() -> None:
    lines = ["-- Detecting", "CMake Error at CMakeLists.txt:7 (find_package):", "  no CUDA", ""]
    failure = explain(lines)
    assert failure.error == "CMake Error at CMakeLists.txt:7 (find_package):"
    assert failure.context == ("  no CUDA",)


def test_without_any_error_the_last_line_speaks() -> None:
    assert explain(["FAILED: x", "cmd", "something odd", ""]).error == "something odd"


@given(st.lists(st.text()))
def test_any_log_can_be_explained(lines: list[str]) -> None:
    explain(lines)
