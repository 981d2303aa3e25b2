"""A plan says everything about a module, and its key nothing about folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llamabuild.arch import CudaArch
from llamabuild.errors import SourceError, ToolchainError
from llamabuild.planning import Plan, make_plan, needs_cublas
from llamabuild.settings import resolve
from llamabuild.source import ClassicRecipe, SourceTree, bundled
from llamabuild.toolchain import Cublas, HostCompiler, Machine, Toolkit

TOOLKIT = Toolkit(
    version="13.0.88",
    root=Path("/opt/cuda"),
    nvcc=Path("/opt/cuda/bin/nvcc"),
    found_via="PATH",
    named=False,
    real=(CudaArch(75), CudaArch(90)),
    virtual=(CudaArch(75, virtual=True), CudaArch(90, virtual=True)),
    pieces=(("ptxas", "13.0.88"),),
    path_dirs=(Path("/opt/cuda/bin"),),
    include_dir=Path("/opt/cuda/include"),
    library_dirs=(Path("/opt/cuda/lib64"),),
    cublas=Cublas(
        "13.0.2", Path("/opt/cuda/include"), Path("/opt/cuda/lib64/libcublas.so"), "libcublas.so.13"
    ),
    driver_stub=None,
    gcc_max=15,
    clang_max=20,
    msvc=None,
    glibc_below="",
    split_compile=True,
    compress_mode=True,
    threads=True,
)
GCC = HostCompiler(Path("/usr/bin/g++"), Path("/usr/bin/gcc"), "gcc", "12.2.0", "PATH")
MSVC = HostCompiler(Path("C:/VC/cl.exe"), Path("C:/VC/cl.exe"), "msvc", "19.40", "vswhere")
LINUX = Machine("linux", "x86_64")

CLASSIC = SourceTree(
    kind="llamafile",
    version="0.8.1",
    root=Path("/home/user/x"),
    files=("ggml-cuda.cu", "ggml.h"),
    digest="ab" * 32,
    layout="classic",
    flavors=("classic",),
    origin="x.llamafile",
    device=("ggml-cuda.cu",),
    defines=("NDEBUG", "GGML_MULTIPLATFORM"),
    fast_math=False,
    markers=("device:GGML_CUDA_FORCE_MMQ", "device:GGML_USE_TINYBLAS"),
    recipe=ClassicRecipe("0.8.1", "0.8.1", ("NDEBUG",), ("ggml_cuda_link",), False, False, "bool"),
)
TREE = replace(
    CLASSIC,
    kind="ggml",
    layout="split",
    flavors=("backend-dl", "self-contained"),
    device=("src/ggml-cuda/a.cu", "src/ggml-cuda/template-instances/mmq-instance-iq1_s.cu"),
    core=("src/ggml.c",),
    fast_math=True,
    markers=(
        "cmake:GGML_CUDA_FORCE_MMQ",
        "cmake:GGML_CUDA_COMPRESSION_MODE",
        "device:GGML_CUDA_FORCE_MMQ",
        "device:GGML_CUDA_NO_IQ_QUANTS",
    ),
    ggml_cmake=".",
    recipe=None,
    declared=("ggml_backend_cuda_init", "ggml_backend_cuda_reg"),
)


def planned(
    source: SourceTree = CLASSIC, machine: Machine = LINUX, kit: Toolkit = TOOLKIT, **given: Any
) -> Plan:
    return make_plan(
        resolve(given, {}),
        archs=(CudaArch(75), CudaArch(90, virtual=True)),
        toolkit=kit,
        host_compiler=MSVC if machine.system == "windows" else GCC,
        source=source,
        machine=machine,
    )


def test_a_classic_module_is_what_its_loader_looks_for() -> None:
    plan = planned()
    assert (plan.flavor, plan.module) == ("classic", "ggml-cuda.so")
    assert plan.device_flags == (
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=compute_90",
    )
    assert plan.defines == ("NDEBUG", "GGML_MULTIPLATFORM", "GGML_USE_TINYBLAS")
    assert plan.exports == ("ggml_cuda_link",)
    assert "-static-libstdc++" in plan.link_flags
    assert "cublas" not in plan.libraries
    assert not any(pattern.startswith("libstdc++") for pattern in plan.may_need)


@pytest.mark.parametrize(
    ("source", "flavor", "where"),
    [
        (CLASSIC, "classic", "defines"),
        (TREE, "self-contained", "defines"),
        (TREE, "backend-dl", "cmake_options"),
    ],
)
def test_force_mmq_in_every_flavor(source: SourceTree, flavor: str, where: str) -> None:
    def said(plan: Plan) -> bool:
        return any("GGML_CUDA_FORCE_MMQ" in word for word in getattr(plan, where))

    assert said(planned(source, flavor=flavor, force_mmq=True))
    assert not said(planned(source, flavor=flavor))


def test_the_key_changes_with_everything_that_matters() -> None:
    base = planned()
    different = [
        planned(force_mmq=True),
        planned(fast_math=True),
        planned(defines=["A=1"]),
        planned(nvcc_flags=["-lineinfo"]),
        planned(cxx_runtime="shared"),
        planned(compress="size"),
        planned(blas="cublas"),
        planned(replace(CLASSIC, digest="cd" * 32)),
        planned(TREE),
        planned(TREE, flavor="self-contained"),
        planned(TREE, flavor="self-contained", no_iq=True),
        replace(base, archs=(CudaArch(75),)),
        replace(base, toolkit=replace(TOOLKIT, version="13.1.0")),
        replace(base, host_compiler=replace(GCC, version="13.1.0")),
        planned(machine=Machine("linux", "aarch64")),
    ]
    keys = {plan.key for plan in (base, *different)}
    assert len(keys) == len(different) + 1


def test_the_key_ignores_folders_and_the_way_things_were_found() -> None:
    moved = replace(
        planned(replace(CLASSIC, root=Path("/elsewhere"), origin="y", version="0.8")),
        toolkit=replace(TOOLKIT, root=Path("/usr/lib/cuda"), found_via="CUDA_HOME", named=True),
        host_compiler=replace(GCC, path=Path("/opt/bin/g++"), found_via="CXX"),
    )
    assert moved.key == planned().key


def test_what_a_source_needs_of_nvcc_is_said_unless_its_own_cmake_does() -> None:
    tree = replace(TREE, nvcc_flags=("--extended-lambda",))
    assert "--extended-lambda" in planned(tree, flavor="self-contained").device_flags
    assert "--extended-lambda" not in planned(tree).device_flags
    assert "--extended-lambda" not in planned().device_flags


def test_a_release_whose_tinyblas_needs_a_newer_compiler_is_refused_before_it_starts() -> None:
    assert CLASSIC.recipe is not None
    old = replace(CLASSIC, recipe=replace(CLASSIC.recipe, tinyblas_cuda=(12, 0)))
    cublas = Cublas("11.11", Path("/i"), Path("/l/libcublas.so"), "libcublas.so.11")
    toolkit = replace(TOOLKIT, version="11.8.89", cublas=cublas)
    with pytest.raises(ToolchainError, match=r"CUDA 12\.0 or newer") as caught:
        planned(old, kit=toolkit)
    assert "--blas cublas" in caught.value.hint
    assert planned(old, kit=toolkit, blas="cublas")
    assert planned(replace(old, version=None), kit=toolkit)  # only resembles that release
    assert planned(old)


def test_our_own_kernels_need_no_library_and_show_only_their_interface() -> None:
    kernels = bundled.describe()
    plan = planned(kernels)
    assert (plan.flavor, plan.module) == ("bundled", "ggml-cuda.so")
    assert not {"cuda", "cublas"} & set(plan.libraries)
    assert "-fvisibility=hidden" in plan.host_flags
    assert "llamabuild_multiply" in plan.exports
    assert "GGML_CUDA_FORCE_MMQ" in planned(kernels, force_mmq=True).defines
    assert planned(kernels, force_mmq=True).key != plan.key
    for impossible in ({"blas": "cublas"}, {"force_cublas": True}, {"no_iq": True}, {"fa": "all"}):
        with pytest.raises(SourceError, match="our own kernels"):
            planned(kernels, **impossible)


def test_our_own_kernels_have_code_for_9_0a_alone_wherever_the_toolkit_can_make_it() -> None:
    asked = (CudaArch(75), CudaArch(90), CudaArch(90, virtual=True))

    def made(source: SourceTree, *more: CudaArch) -> tuple[CudaArch, ...]:
        kit = replace(TOOLKIT, real=(*TOOLKIT.real, *more))
        plan = make_plan(
            resolve({}, {}),
            archs=asked,
            toolkit=kit,
            host_compiler=GCC,
            source=source,
            machine=LINUX,
        )
        archs = tuple(arch for arch in plan.archs if isinstance(arch, CudaArch))
        told = [flag for flag in plan.device_flags if flag.startswith("-gencode")]
        assert told == [f"-gencode={arch.gencode()}" for arch in archs]
        return archs

    own = CudaArch(90, "a")
    assert set(made(bundled.describe(), own)) == {asked[0], own, asked[2]}
    assert made(bundled.describe()) == asked
    assert made(CLASSIC, own) == asked


def test_no_iq_leaves_files_out() -> None:
    assert len(planned(TREE, flavor="self-contained").device) == 2
    assert planned(TREE, flavor="self-contained", no_iq=True).device == ("src/ggml-cuda/a.cu",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"no_iq": True}, "--no-iq"),
        ({"fa": "all"}, "--fa all"),
        ({"force_cublas": True}, "--force-cublas"),
        ({"flavor": "backend-dl"}, "cannot be built as backend-dl"),
    ],
)
def test_a_flag_that_means_nothing_to_the_source_is_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        planned(**given)
    assert caught.value.hint


def test_compression_modes_need_a_new_nvcc() -> None:
    assert "--compress-mode=size" in planned(compress="size").device_flags
    assert "GGML_CUDA_COMPRESSION_MODE=size" in planned(TREE, compress="size").cmake_options
    with pytest.raises(ToolchainError, match="no compression modes") as caught:
        make_plan(
            resolve({"compress": "size"}, {}),
            archs=(CudaArch(75),),
            toolkit=replace(TOOLKIT, compress_mode=False),
            host_compiler=GCC,
            source=CLASSIC,
            machine=LINUX,
        )
    assert "12.8" in caught.value.hint


def test_cublas_is_linked_where_nothing_else_multiplies() -> None:
    assert needs_cublas(resolve({}, {}), TREE)
    assert not needs_cublas(resolve({}, {}), CLASSIC)
    assert needs_cublas(resolve({"blas": "cublas"}, {}), CLASSIC)
    plan = planned(TREE, flavor="self-contained")
    assert "cublas" in plan.libraries
    assert "libcublas.so.*" in plan.may_need
    assert "the module needs libcublas.so.13 where it runs" in plan.notes


def test_a_tree_of_its_own_cmake_gets_options_only() -> None:
    plan = planned(TREE, defines=["A=1"])
    assert plan.module == "libggml-cuda.so"
    assert "GGML_BACKEND_DL=ON" in plan.cmake_options
    assert plan.exports == ("ggml_backend_init",)
    assert "libggml-base.so*" in plan.may_need
    assert plan.defines == ("A=1",)
    assert not any(flag.startswith("-gencode") for flag in plan.device_flags)


def test_windows_gets_msvcs_words_and_never_gccs() -> None:
    plan = planned(machine=Machine("windows", "x86_64"))
    assert plan.module == "ggml-cuda.dll"
    assert "/MT" in plan.host_flags
    every = (*plan.host_flags, *plan.link_flags, *plan.libraries)
    assert not any(word.startswith(("-", "lib")) for word in every)
    assert set(plan.libraries) == {"cudart_static", "cuda"}
    assert not any(pattern.endswith(".so.6") for pattern in plan.may_need)


def test_aarch64_keeps_the_register_that_llamafile_needs() -> None:
    jetson = Machine("linux", "aarch64")
    assert "-ffixed-x28" in planned(machine=jetson).host_flags
    assert "-ffixed-x28" not in planned(TREE, jetson, flavor="self-contained").host_flags
    assert "-ffixed-x28" not in planned().host_flags


def test_a_shared_runtime_may_be_needed() -> None:
    plan = planned(cxx_runtime="shared")
    assert "-static-libstdc++" not in plan.link_flags
    assert "libstdc++.so.6" in plan.may_need


@pytest.mark.parametrize(
    ("archs", "passed"),
    [
        ((50, 60, 70, 75, 80, 90), ["6.1"]),  # what llamafile 0.8.1 was shipped with
        ((50, 60, 61, 70, 75, 80, 90), []),
        ((60,), ["6.1"]),
        ((61,), []),  # a 6.0 card runs nothing of it: that is another matter
        ((70,), ["7.5"]),
        ((90,), []),
    ],
)
def test_gpus_that_would_land_on_older_code_are_named(
    archs: tuple[int, ...], passed: list[str]
) -> None:
    plan = make_plan(
        resolve({}, {}),
        archs=tuple(CudaArch(number) for number in archs),
        toolkit=TOOLKIT,
        host_compiler=GCC,
        source=replace(CLASSIC, levels=(60, 61, 70, 75, 80)),
        machine=LINUX,
    )
    assert [text.split()[2] for text in plan.warnings] == passed
    assert plan.key == replace(plan, warnings=()).key
