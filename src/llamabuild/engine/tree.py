"""``backend-dl`` modules: the tree's own CMake, which knows its own build best."""

from __future__ import annotations

import shlex
from pathlib import Path

from llamabuild.engine import nvcc
from llamabuild.engine.site import Site
from llamabuild.errors import CompilationError
from llamabuild.toolchain import Rocm, Toolkit

__all__ = ["build"]

#: Trees link HIP's runtime by themselves. Where clang does it too (``--hip-link``), clang 15 and
#: older leave the folder that it was found in behind in the module's run path.
_OWN_LINKING = {"cuda": (), "hip": ("-no-hip-rt",)}


def build(site: Site) -> Path:
    """Configure the tree and build its module; errors as in ``compile_plan``."""
    plan = site.plan
    assert plan.source.ggml_cmake is not None
    plain = [*(f"-D{define}" for define in plan.defines), f"-ffile-prefix-map={site.tree}/="]
    values: dict[str, str | list[str]] = {
        "CMAKE_C_COMPILER": str(plan.host_compiler.cc),
        "CMAKE_CXX_COMPILER": str(plan.host_compiler.path),
        "CMAKE_C_FLAGS": shlex.join(plain),
        "CMAKE_CXX_FLAGS": shlex.join(plain),
        "CMAKE_MODULE_LINKER_FLAGS": shlex.join([*plan.link_flags, *_OWN_LINKING[plan.backend]]),
        "CMAKE_BUILD_TYPE": "Release",
        # As llama.cpp's own releases: its libraries lie side by side, wherever that is.
        "CMAKE_BUILD_WITH_INSTALL_RPATH": "ON",
        "CMAKE_INSTALL_RPATH": "$ORIGIN",
        "LLAMABUILD_TREE": str(site.tree / plan.source.ggml_cmake),
        **(
            _for_amd(site, plan.toolkit)
            if isinstance(plan.toolkit, Rocm)
            else _for_nvidia(site, plan.toolkit)
        ),
        **dict(option.split("=", 1) for option in plan.cmake_options),
    }
    target = {"cuda": "ggml-cuda", "hip": "ggml-hip"}[plan.backend]
    project = site.project("tree")
    project.configure(values)
    project.build(target, jobs=site.share().jobs)
    found = sorted(project.folder.rglob(plan.module))
    if not found:
        raise CompilationError(
            f"the tree's own build ended well but made no {plan.module}",
            hint="this tree may be too old for GGML_BACKEND_DL: try --flavor self-contained",
        )
    return found[0]


def _for_nvidia(site: Site, toolkit: Toolkit) -> dict[str, str | list[str]]:
    plan = site.plan
    defines = [f"-D{define}" for define in plan.defines]
    anonymous = f"-Xcompiler=-ffile-prefix-map={site.tree}/="
    values: dict[str, str | list[str]] = {
        "CMAKE_CUDA_COMPILER": str(toolkit.nvcc),
        "CMAKE_CUDA_HOST_COMPILER": str(plan.host_compiler.path),
        "CMAKE_CUDA_ARCHITECTURES": [str(arch) for arch in plan.archs],
        "CMAKE_CUDA_FLAGS": shlex.join([*plan.device_flags, *defines, anonymous]),
        # CMake looks for them below the toolkit's root; Debian's lie in the system's own folder.
        "CUDAToolkit_INCLUDE_DIRECTORIES": str(toolkit.include_dir),
        "CUDA_cuda_driver_LIBRARY": str(nvcc.driver(site, toolkit)),
        # Linked in, as in our own modules: every machine with a driver can load the result.
        "CUDA_cudart_LIBRARY": str(nvcc.static_runtime(toolkit)),
        "CMAKE_CUDA_STANDARD_LIBRARIES": "-ldl -lrt -lpthread",
        "CMAKE_CXX_STANDARD_LIBRARIES": "-ldl -lrt -lpthread",
    }
    if toolkit.cublas is not None:
        values["CUDA_cublas_LIBRARY"] = str(toolkit.cublas.library)
    return values


def _for_amd(site: Site, rocm: Rocm) -> dict[str, str | list[str]]:
    plan = site.plan
    defines = [f"-D{define}" for define in plan.defines]
    anonymous = f"-ffile-prefix-map={site.tree}/="
    libraries = f"--rocm-device-lib-path={rocm.device_libraries}"
    return {
        "CMAKE_HIP_COMPILER": str(rocm.clang),
        "CMAKE_HIP_COMPILER_ROCM_ROOT": str(rocm.root),
        "CMAKE_HIP_ARCHITECTURES": [str(target) for target in plan.archs],
        "CMAKE_HIP_FLAGS": shlex.join(
            [f"--rocm-path={rocm.root}", libraries, *plan.device_flags, *defines, anonymous]
        ),
        "CMAKE_PREFIX_PATH": str(rocm.root),
        # Older ROCms' package files ask for a CMake that today's no longer imitates.
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
    }
