"""The kernels on the host: how they are compiled there, and what they are compared with."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
from gguf import GGMLQuantizationType as Type

from llamabuild.verify.blocks import to_float64

HERE = Path(__file__).parent
SOURCES = HERE.parents[2] / "kernels" / "src"
Need: TypeAlias = Callable[[object, str], None]


def build(name: str, folders: pytest.TempPathFactory, need: Need) -> ctypes.CDLL:
    """The library that ``name`` of this folder becomes."""
    compiler = shutil.which("g++")
    need(compiler, "g++")
    assert compiler
    library = folders.mktemp("emulated") / "library.so"
    flags = ["-std=c++17", "-O1", "-w", "-shared", "-fPIC", f"-I{SOURCES}"]
    subprocess.run([compiler, *flags, HERE / name, "-o", library], check=True)
    return ctypes.CDLL(str(library))


def aligned(size: int, byte: int) -> npt.NDArray[np.uint8]:
    """``size`` bytes at a multiple of 16."""
    memory = np.full(size + 16, byte, np.uint8)
    start = -memory.ctypes.data % 16
    return memory[start : start + size]


def compare(
    kind: Type,
    rows: npt.NDArray[np.uint8],
    x: npt.NDArray[Any],
    output: npt.NDArray[np.float32],
    limit: float,
) -> None:
    """``x`` and ``output``: [batch][column]; ``rows`` of all products."""
    batch, _, m = output.shape
    dense = to_float64(kind, rows).reshape(batch, m, -1)
    reference = np.einsum("bmk,bnk->bnm", dense, x)
    difference = np.linalg.norm(output - reference)
    assert difference <= limit * np.linalg.norm(reference), (output.shape, x.shape)
