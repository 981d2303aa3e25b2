"""The environment in which a compiler is started."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from llamabuild import run
from llamabuild.looking import is_file
from llamabuild.toolchain.model import HostCompiler, Rocm, Toolkit
from llamabuild.toolchain.programs import NVCC_FLAGS

__all__ = ["compiler_environment", "hip_environment", "ignored_variables"]

#: Variables that change what is compiled, though nobody sees it in the command: the cache key
#: could not tell the results apart. (INCLUDE and LIB are MSVC's own, and stay.)
HIDDEN_INPUTS = (
    *NVCC_FLAGS,
    "CUDAFLAGS",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CPATH",
    "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH",
    "LIBRARY_PATH",
    "CL",
    "_CL_",
    "LINK",
    "_LINK_",
)

#: Variables that name a toolkit, a compiler or architectures: the plan has decided these already.
DECIDED = (
    "CUDACXX",
    "CUDAHOSTCXX",
    "NVCC_CCBIN",
    "CUDAARCHS",
    "CUDA_HOME",
    "CUDA_PATH",
    "CUDA_ROOT",
    "CUDAToolkit_ROOT",
    "CC",
    "CXX",
)

#: The same for HIP. Beside these, CCC_OVERRIDE_OPTIONS edits every command of clang unseen.
HIDDEN_HIP = ("CCC_OVERRIDE_OPTIONS", "HIPCC_COMPILE_FLAGS_APPEND", "HIPCC_LINK_FLAGS_APPEND")
DECIDED_HIP = (
    *("ROCM_PATH", "ROCM_HOME", "HIP_PATH", "HIP_DEVICE_LIB_PATH", "DEVICE_LIB_PATH"),
    *("HIP_CLANG_PATH", "HIP_COMPILER", "HIP_RUNTIME", "HIPCXX", "HIPFLAGS", "HIPARCHS"),
)


def compiler_environment(
    toolkit: Toolkit, host_compiler: HostCompiler, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment for every compiler of one build.

    nvcc calls its own tools by name, and dies if another toolkit's ``ptxas`` answers. So the
    toolkit's folders stand first on PATH, and every other folder that holds nvcc, ptxas or cicc is
    left out. Only the folders of the system itself stay, because the linker is there too; they
    come after the toolkit's, which has every tool.
    """
    system = {os.path.realpath(folder) for folder in ("/usr/bin", "/bin")}

    def foreign(folder: Path) -> bool:
        if os.path.realpath(folder) in system:
            return False
        return any(
            is_file(folder / f"{tool}{ending}")
            for tool in ("nvcc", "ptxas", "cicc")
            for ending in ("", ".exe")
        )

    msvc = dict(host_compiler.environment)
    added = [Path(folder) for folder in msvc.pop("PATH", "").split(os.pathsep) if folder]
    return run.environment(
        environ,
        path_first=[*toolkit.path_dirs, *added],
        path_without=foreign,
        unset=(*HIDDEN_INPUTS, *DECIDED),
        update=msvc,
    )


def hip_environment(environ: Mapping[str, str], *, rocm: Rocm | None = None) -> dict[str, str]:
    """Return the environment for every compiler of one build for AMD GPUs.

    clang is told by arguments where everything is. The variables are for what a tree's own CMake
    starts: where nvcc is installed too, ``hipcc`` and ``hipconfig`` would take that, and with
    ROCM_PATH alone clang does not look beside itself for device libraries.
    """
    decided = {"HIP_PLATFORM": "amd"}
    if rocm is not None:
        decided["ROCM_PATH"] = str(rocm.root)
        decided["HIP_DEVICE_LIB_PATH"] = str(rocm.device_libraries)
    return run.environment(
        environ,
        unset=(*HIDDEN_INPUTS, *DECIDED, *HIDDEN_HIP, *DECIDED_HIP),
        update=decided,
    )


def ignored_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that compilers' environments leave out and a user may miss.

    conda sets NVCC_PREPEND_FLAGS to name its host compiler, which the search finds by itself; that
    alone is no reason to speak.
    """
    return tuple(
        name
        for name in (*HIDDEN_INPUTS, *HIDDEN_HIP)
        if re.sub(r"(-ccbin|--compiler-bindir)[= ]\S+", "", environ.get(name, "")).strip()
    )
