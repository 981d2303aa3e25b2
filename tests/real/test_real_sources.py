"""The main job on sources that nobody here wrote.

``LLAMABUILD_TEST_SOURCES`` names them as ``--source`` takes them: llamafiles, their folders, trees,
archives. One source comes from the package index in any case: a llama.cpp of March 2024 with all
of its GPU code in one file. A modern one, of a hundred files, is marked slow.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild import inspect
from llamabuild.arch import CudaArch
from llamabuild.memo import Memo
from llamabuild.pipeline import Built
from llamabuild.toolchain import Toolkit, find_cuda

from .hosts import NO_DEVICE, load_without_gpu

pytestmark = pytest.mark.nvcc

ONE_FILE = "pypi:llama-cpp-python==0.2.56"
MODERN = "pypi:llama-cpp-python==0.3.36"


@pytest.fixture(scope="session")
def toolkits(need: Any) -> tuple[Toolkit, ...]:
    found = find_cuda(dict(os.environ), memo=Memo(None)).toolkits
    need(found, "a CUDA toolkit")
    return found


def built_with(toolkits: tuple[Toolkit, ...], source: str, **options: Any) -> Built:
    """Build for 6.1, the architecture of the failure that started it all, or the oldest."""
    archs = sorted(arch for found in toolkits for arch in found.real)
    arch = CudaArch(61) if CudaArch(61) in archs else archs[0]
    (built,) = llamabuild.build(arch.name, source, **options)
    module = inspect.read_module(built.path)
    assert module.labels == (str(arch),)
    assert not any(name.startswith(("libstdc++", "libcudart")) for name in module.needed)
    assert built.plan.exports
    assert set(built.plan.exports) <= set(module.exported)
    return built


def test_a_given_source_builds_with_and_without_forced_mmq(
    toolkits: tuple[Toolkit, ...], real_source: str, tmp_path: Path
) -> None:
    usual = built_with(toolkits, real_source)
    forced = built_with(toolkits, real_source, force_mmq=True)
    assert usual.artifact.key != forced.artifact.key
    source = usual.plan.source
    if usual.plan.flavor != "backend-dl" and source.version not in {"0.6", "0.6.1"}:
        trial = load_without_gpu(usual.path, source, tmp_path)
        assert trial.returncode == NO_DEVICE, trial.words


@pytest.mark.network
def test_one_file_of_the_package_index(
    toolkits: tuple[Toolkit, ...], need: Any, tmp_path: Path
) -> None:
    need(any(found.cublas for found in toolkits), "a CUDA toolkit with cuBLAS")
    built = built_with(toolkits, ONE_FILE, force_mmq=True)
    assert built.plan.flavor == "self-contained"
    assert "GGML_CUDA_FORCE_MMQ" in built.plan.defines
    module = inspect.read_module(built.path)
    assert {"ggml_backend_cuda_init", "ggml_mul_mat", "ggml_init"} <= set(module.exported)
    assert not [name for name in module.undefined if name.startswith("ggml")]
    assert any(name.startswith("libcublas.so") for name in module.needed)
    (entry,) = module.entries
    assert any("mul_mat_vec_q" in kernel.name for kernel in entry.kernels or ())
    trial = load_without_gpu(built.path, built.plan.source, tmp_path)
    assert trial.returncode == NO_DEVICE, trial.words


@pytest.mark.network
@pytest.mark.slow
def test_a_modern_tree_by_its_own_cmake(toolkits: tuple[Toolkit, ...], need: Any) -> None:
    need(any(found.cublas for found in toolkits), "a CUDA toolkit with cuBLAS")
    built = built_with(toolkits, MODERN, fa="off", flavor="backend-dl", force_mmq=True)
    assert built.path.name == "libggml-cuda.so"
    needed = inspect.read_module(built.path).needed
    assert any(name.startswith("libggml-base.so") for name in needed)
    assert "libcuda.so.1" in needed


def test_the_same_source_in_another_folder_has_the_same_key(
    real_source: str, tmp_path: Path, need: Any
) -> None:
    import shutil

    need(Path(real_source).is_file(), "a source that is a file")
    copy = tmp_path / 'another "name".llamafile'
    shutil.copyfile(real_source, copy)
    keys = {
        plan.key
        for source in (real_source, str(copy))
        for plan in llamabuild.plan("all-major", source)
    }
    assert len(keys) == 1
