"""The kernels on the GPU of this machine, against float64."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks" / "kernels"


@pytest.mark.gpu
@pytest.mark.nvcc
@pytest.mark.slow
def test_every_type_on_this_gpu(tmp_path: Path, need: Callable[[object, str], None]) -> None:
    smi = shutil.which("nvidia-smi")
    need(smi, "an NVIDIA GPU")
    need(shutil.which("nvcc"), "nvcc")
    assert smi
    query = [smi, "--query-gpu=compute_cap", "--format=csv,noheader", "--id=0"]
    arch = subprocess.check_output(query, text=True).strip().replace(".", "")
    module = tmp_path / "ggml-cuda.so"
    subprocess.run(["sh", BENCHMARKS / "build.sh", module, arch], check=True)
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "check.py", module, "--quick"],
        check=False,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "batched" in done.stdout
    assert "grouped" in done.stdout
