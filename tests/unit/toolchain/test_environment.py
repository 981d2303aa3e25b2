"""The environment of a compiler: its own toolkit, and no other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from llamabuild.toolchain import (
    HostCompiler,
    Toolkit,
    compiler_environment,
    hip_environment,
    ignored_variables,
)

from .conftest import Sandbox

GXX = HostCompiler(Path("/usr/bin/g++"), Path("/usr/bin/gcc"), "gcc", "12.2.0", "PATH")


def path_of(sandbox: Sandbox, toolkit: Toolkit) -> list[str]:
    return compiler_environment(toolkit, GXX, sandbox.environ)["PATH"].split(os.pathsep)


def test_its_own_folders_go_first_and_other_toolkits_folders_are_left_out(sandbox: Sandbox) -> None:
    one = sandbox.toolkit(sandbox.root / "one", "12.8.93").parent
    two = sandbox.toolkit(sandbox.root / "two", "13.0.88").parent
    shims = sandbox.program(sandbox.root / "shims/ptxas").parent
    harmless = sandbox.root / "harmless"
    sandbox.environ["PATH"] = os.pathsep.join(map(str, (shims, harmless, one, two)))
    for toolkit in sandbox.find().toolkits:
        own = [str(folder) for folder in toolkit.path_dirs]
        assert path_of(sandbox, toolkit) == [*own, str(harmless)]


@pytest.mark.parametrize("tool", ["nvcc", "ptxas", "cicc", "nvcc.exe"])
def test_any_one_tool_makes_a_folder_a_toolkits(sandbox: Sandbox, tool: str) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    folder = sandbox.program(sandbox.root / "x" / tool).parent
    sandbox.environ["PATH"] = str(folder)
    toolkit = next(toolkit for toolkit in sandbox.find().toolkits)
    assert str(folder) not in path_of(sandbox, toolkit)


def test_the_first_ptxas_on_path_is_its_own_even_where_the_system_has_another(
    sandbox: Sandbox,
) -> None:
    nvcc = sandbox.debian_toolkit()
    sandbox.toolkit(sandbox.root / "opt/cuda")
    sandbox.program(sandbox.root / "usr/local/bin/ptxas")
    sandbox.environ["PATH"] = f"{sandbox.root / 'usr/local/bin'}:{sandbox.root / 'usr/bin'}"
    found = {toolkit.version: toolkit for toolkit in sandbox.find().toolkits}
    firsts = {
        version: shutil.which("ptxas", path=os.pathsep.join(path_of(sandbox, toolkit)))
        for version, toolkit in found.items()
    }
    assert firsts == {
        "11.8.89": str(sandbox.root / "usr/bin/ptxas"),
        "13.0.88": str(sandbox.root / "opt/cuda/bin/ptxas"),
    }
    assert path_of(sandbox, found["11.8.89"])[0] == str(nvcc.parent)


def test_the_systems_own_folders_stay_because_the_linker_is_there(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    (toolkit,) = sandbox.find().toolkits
    sandbox.environ["PATH"] = "/usr/bin:/bin"
    assert path_of(sandbox, toolkit)[-2:] == ["/usr/bin", "/bin"]


@pytest.mark.parametrize(
    "variable",
    [
        "NVCC_APPEND_FLAGS",
        "NVCC_PREPEND_FLAGS",
        "CXXFLAGS",
        "CUDAFLAGS",
        "CPATH",
        "LDFLAGS",
        "_CL_",
    ],
)
def test_what_the_cache_key_cannot_see_does_not_reach_the_compiler_and_is_told(
    sandbox: Sandbox, variable: str
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    sandbox.environ |= {variable: "-O0", "HOME": "/home/me"}
    (toolkit,) = sandbox.find().toolkits
    child = compiler_environment(toolkit, GXX, sandbox.environ)
    assert variable not in child
    assert child["HOME"] == "/home/me"
    assert ignored_variables(sandbox.environ) == (variable,)


@pytest.mark.parametrize(
    "variable", ["CUDA_HOME", "CUDA_PATH", "CUDACXX", "CUDAHOSTCXX", "CUDAARCHS", "CXX"]
)
def test_what_the_plan_has_decided_is_not_decided_again_by_cmake(
    sandbox: Sandbox, variable: str
) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    (toolkit,) = sandbox.find().toolkits
    assert variable not in compiler_environment(toolkit, GXX, {variable: "x"})
    assert ignored_variables({variable: "x"}) == ()


@pytest.mark.parametrize(
    "flags", ["", " ", "-ccbin=/env/bin/x86_64-conda-linux-gnu-c++", " -ccbin g++-12"]
)
def test_naming_a_host_compiler_as_conda_does_is_no_reason_to_speak(flags: str) -> None:
    assert ignored_variables({"NVCC_PREPEND_FLAGS": flags}) == ()


def test_what_msvcs_script_set_is_passed_on_with_the_toolkit_still_first(sandbox: Sandbox) -> None:
    sandbox.toolkit(sandbox.root / "opt/cuda")
    (toolkit,) = sandbox.find().toolkits
    msvc = HostCompiler(
        Path("cl.exe"), Path("cl.exe"), "msvc", "14.44.35207", "vswhere",
        environment=(("INCLUDE", "vc/include"), ("PATH", "/vc/bin")),
    )  # fmt: skip
    sandbox.environ["PATH"] = "/windows"
    child = compiler_environment(toolkit, msvc, sandbox.environ)
    assert child["INCLUDE"] == "vc/include"
    own = [str(folder) for folder in toolkit.path_dirs]
    assert child["PATH"].split(os.pathsep) == [*own, "/vc/bin", "/windows"]


@pytest.mark.parametrize(
    "variable",
    ["HIP_PLATFORM", "HIP_PATH", "ROCM_PATH", "HIP_DEVICE_LIB_PATH", "HIPCXX", "CXX", "CPATH"],
)
def test_what_compiles_for_amd_is_not_decided_by_what_the_user_has_set(variable: str) -> None:
    child = hip_environment({variable: "nvidia", "HOME": "/home/me"})
    assert child.get(variable) == ("amd" if variable == "HIP_PLATFORM" else None)
    assert child["HOME"] == "/home/me"


def test_a_trees_own_cmake_is_told_of_the_very_rocm(sandbox: Sandbox) -> None:
    sandbox.rocm(sandbox.root / "opt/rocm")
    (rocm,) = sandbox.find_rocm().toolkits
    child = hip_environment({"ROCM_PATH": "/another"}, rocm=rocm)
    assert child["ROCM_PATH"] == str(rocm.root)
    assert child["HIP_DEVICE_LIB_PATH"] == str(rocm.device_libraries)


@pytest.mark.parametrize("variable", ["CCC_OVERRIDE_OPTIONS", "HIPCC_COMPILE_FLAGS_APPEND"])
def test_options_that_hide_in_a_variable_are_left_out_and_told(variable: str) -> None:
    assert variable not in hip_environment({variable: "+-O0"})
    assert ignored_variables({variable: "+-O0"}) == (variable,)
