"""Our own kernels, as a user without a llamafile gets them."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from llamabuild import inspect, run
from llamabuild.memo import Memo
from llamabuild.source import bundled
from llamabuild.toolchain import find_cuda

pytestmark = [pytest.mark.nvcc, pytest.mark.slow]


def test_with_no_source_at_all_there_is_a_module_that_every_gpu_can_run(
    need: Any, tmp_path: Path
) -> None:
    found = find_cuda(dict(os.environ), memo=Memo(None)).toolkits
    need(found, "a CUDA toolkit")
    oldest = str(found[-1].real[0].number)  # before DP4A, where the machine has such a toolkit
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    done = run.capture(
        [sys.executable, "-m", "llamabuild", "--arch", oldest, "--cache-dir", tmp_path / "cache"],
        env={**os.environ, "HOME": str(home)},
        cwd=work,
        timeout=600,
    )
    assert done.returncode == 0, done.text
    assert "source bundled" in done.stderr
    path = Path(done.stdout.strip())
    assert path.name == "ggml-cuda.so"

    module = inspect.read_module(path)
    assert sorted(module.exported) == sorted(bundled.describe().declared)
    assert "libcuda.so.1" not in module.needed
    coverage = inspect.coverage(module, oldest)
    assert coverage.healthy
    assert coverage.kernels

    kernels = ctypes.CDLL(str(path))  # on a machine without a driver, too
    kernels.llamabuild_architectures.restype = ctypes.c_char_p
    assert kernels.llamabuild_version() == 1
    assert kernels.llamabuild_architectures() == f"{oldest}0".encode()
