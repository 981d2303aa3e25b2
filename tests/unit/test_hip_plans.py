"""Plans for AMD GPUs: what the sources, the flags and the ROCm make of one module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.rocms import rocm

from llamabuild.arch import hip_target
from llamabuild.errors import LlamabuildError, SourceError, UsageError
from llamabuild.planning import Plan, make_plan, rocm_needs
from llamabuild.settings import resolve
from llamabuild.source import SourceTree
from llamabuild.toolchain import Machine, Rocm

ROCM = rocm("6.2.41134", "gfx906", "gfx1030")
CLASSIC = SourceTree(
    kind="llamafile",
    version="0.8.1",
    root=Path("/home/user/x"),
    files=("ggml-cuda.cu",),
    digest="ab" * 32,
    layout="classic",
    flavors=("classic",),
    origin="x.llamafile",
    device=("ggml-cuda.cu",),
    includes=(".",),
    defines=("NDEBUG",),
    fast_math=True,
    levels=(61, 75),
    markers=(
        "device:GGML_CUDA_FORCE_MMQ",
        "device:GGML_USE_HIPBLAS",
        "device:GGML_USE_TINYBLAS",
    ),
)
TREE = replace(
    CLASSIC,
    kind="ggml",
    layout="split",
    flavors=("backend-dl", "self-contained"),
    device=("src/ggml-cuda/a.cu",),
    core=("src/ggml.c",),
    nvcc_flags=("--extended-lambda",),
    markers=("cmake:GGML_HIP", "cmake:GGML_CUDA_FORCE_MMQ", "device:GGML_USE_HIP"),
    ggml_cmake=".",
    declared=("ggml_backend_cuda_init", "ggml_backend_cuda_reg"),
    hip_oldest=(6, 1),
    hip_why="its CMake asks for it",
)


def planned(source: SourceTree = CLASSIC, rocm: Rocm = ROCM, **given: Any) -> Plan:
    return make_plan(
        resolve({"backend": "hip", **given}, {}),
        archs=rocm.targets,
        toolkit=rocm,
        host_compiler=rocm.host_compiler,
        source=source,
        machine=Machine("linux", "x86_64"),
    )


def test_a_classic_module_for_amd() -> None:
    plan = planned()
    assert (plan.backend, plan.flavor, plan.module) == ("hip", "classic", "ggml-rocm.so")
    assert plan.defines == ("NDEBUG", "GGML_USE_HIPBLAS", "GGML_USE_TINYBLAS")
    assert plan.device_flags[:3] == ("--offload-arch=gfx906", "--offload-arch=gfx1030", "-O3")
    assert plan.libraries == ("amdhip64", "dl", "rt", "pthread")
    assert "libamdhip64.so.*" in plan.may_need
    assert not [name for name in plan.may_need if "cuda" in name or "blas" in name]
    assert plan.warnings == ()  # no code stands in for another's on AMD
    assert "the module needs libamdhip64.so.6 where it runs" in plan.notes
    assert plan.describe()["backend"] == "hip"
    assert plan.describe()["archs"] == ["gfx906", "gfx1030"]


def test_nothing_of_nvccs_reaches_clang() -> None:
    for plan in (planned(), planned(TREE, flavor="self-contained"), planned(TREE)):
        words = [*plan.device_flags, *plan.host_flags, *plan.defines]
        assert not [word for word in words if "fast" in word or "gencode" in word]
        assert "--extended-lambda" not in words
        assert "GGML_USE_CUBLAS" not in words
        assert not [option for option in plan.cmake_options if option.startswith("GGML_CUDA=")]


def test_a_tree_for_amd_in_both_flavors() -> None:
    loadable = planned(TREE, force_mmq=True)
    assert loadable.module == "libggml-hip.so"
    assert {"GGML_HIP=ON", "GGML_BACKEND_DL=ON", "GGML_CUDA_FORCE_MMQ=ON"} <= set(
        loadable.cmake_options
    )
    assert loadable.device_flags == ()
    whole = planned(TREE, flavor="self-contained")
    assert whole.module == "ggml-rocm.so"
    assert "GGML_USE_HIP" in whole.defines
    assert "hipblas" in whole.libraries
    assert {"libhipblas.so.*", "librocblas.so.*"} <= set(whole.may_need)


def test_an_older_tree_has_another_word_for_amd() -> None:
    old = replace(TREE, markers=("device:GGML_USE_HIPBLAS",))
    assert "GGML_USE_HIPBLAS" in planned(old, flavor="self-contained").defines


def test_a_generic_target_asks_for_the_code_objects_that_have_it() -> None:
    rocm = replace(ROCM, targets=(*ROCM.targets, hip_target("gfx10-3-generic")))
    for flavor in TREE.flavors:
        plan = planned(TREE, rocm=rocm, flavor=flavor)
        assert "-mcode-object-version=6" in plan.device_flags
        assert any("6.3" in note for note in plan.notes)
    assert "-mcode-object-version=6" not in planned().device_flags


def test_hipblas_is_what_cublas_is() -> None:
    plan = planned(blas="cublas")
    assert "hipblas" in plan.libraries
    assert "GGML_USE_TINYBLAS" not in plan.defines


def test_fast_math_means_divisions_and_square_roots_only() -> None:
    flag = "-fno-hip-fp32-correctly-rounded-divide-sqrt"
    assert flag in planned(fast_math=True).device_flags
    assert flag not in planned(fast_math=False).device_flags
    with pytest.raises(SourceError, match="--fast-math"):
        planned(TREE, fast_math=True)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"compress": "size"}, UsageError, "--compress is for nvcc"),
        ({"host_compiler": "g++"}, UsageError, "--host-compiler is for nvcc"),
        ({"literal": True}, UsageError, "--literal is for nvcc"),
        ({"no_iq": True}, SourceError, "--no-iq"),
        ({"flavor": "backend-dl"}, SourceError, "cannot be built as backend-dl"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(
    given: dict[str, Any], error: type[LlamabuildError], words: str
) -> None:
    with pytest.raises(error, match=words):
        planned(**given)


def test_a_variable_that_names_nvccs_host_compiler_is_no_mistake() -> None:
    request = resolve({"backend": "hip"}, {"LLAMABUILD_HOST_COMPILER": "g++-11"})
    plan = make_plan(
        request,
        archs=ROCM.targets,
        toolkit=ROCM,
        host_compiler=ROCM.host_compiler,
        source=CLASSIC,
        machine=Machine("linux", "x86_64"),
    )
    assert plan.host_compiler.kind == "clang"


@pytest.mark.parametrize("source", [replace(CLASSIC, markers=()), replace(TREE, markers=())])
def test_a_source_without_code_for_amd(source: SourceTree) -> None:
    request = resolve({"backend": "hip"}, {})
    with pytest.raises(SourceError, match="it has no code for AMD GPUs"):
        rocm_needs(request, source)
    with pytest.raises(SourceError, match="it has no code for AMD GPUs"):
        planned(source)


@pytest.mark.parametrize(
    ("source", "given", "hipblas", "oldest"),
    [
        (CLASSIC, {}, "", None),
        (CLASSIC, {"blas": "cublas"}, "linked", None),
        (replace(CLASSIC, hip_blas="it includes its headers"), {}, "includes", None),
        (replace(CLASSIC, hip_oldest=(5, 5), hip_why="__hmax"), {}, "", (5, 5)),
        (TREE, {}, "linked", (6, 1)),
        (TREE, {"flavor": "self-contained"}, "linked", (6, 1)),
    ],
)
def test_what_a_source_asks_of_rocm(
    source: SourceTree, given: dict[str, Any], hipblas: str, oldest: tuple[int, int] | None
) -> None:
    needs = rocm_needs(resolve({"backend": "hip", **given}, {}), source)
    assert needs.oldest == oldest
    assert bool(needs.hipblas) == bool(hipblas)
    assert hipblas in needs.hipblas


def test_the_key_knows_what_decides_the_code() -> None:
    keys = [
        planned().key,
        planned(rocm=replace(ROCM, targets=ROCM.targets[:1])).key,
        planned(rocm=replace(ROCM, llvm="19.0.0")).key,
        planned(rocm=replace(ROCM, device_digest="4567")).key,
        planned(fast_math=True).key,
        planned(blas="cublas").key,
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("change", [{"root": Path("/elsewhere")}, {"found_via": "ROCM_PATH"}])
def test_the_key_does_not_know_folders(change: dict[str, Any]) -> None:
    assert planned(rocm=replace(ROCM, **change)).key == planned().key
