"""From a plan to a module, in a folder of its own.

What is compiled is a copy of exactly those files that the source's digest covers, under a
relative name: the user's folder is never written to, and neither its path nor the cache's gets
into the module.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from llamabuild import run
from llamabuild.engine import driver_stub, jobs, stages
from llamabuild.engine.cmake import Project, quote
from llamabuild.errors import CompilationError, StoreError, ToolchainError
from llamabuild.events import Listener, Note
from llamabuild.planning import Plan
from llamabuild.probe import HostLimits
from llamabuild.toolchain import BuildTools, Toolkit, compiler_environment

__all__ = ["Tools", "compile_plan"]

#: The reusable CMake project; beside the package in a wheel, at the top of a checkout.
_PROJECT = next(
    folder
    for folder in (
        Path(__file__).parents[1] / "data" / "cmake",
        Path(__file__).parents[3] / "cmake",
    )
    if (folder / "CMakeLists.txt").is_file()
)

#: Relative cost of nvcc's steps, read off llamafile 0.9.3 (cicc 407 s, ptxas 142 s, host 23 s).
_WEIGHTS = {"cicc": 70.0, "ptxas": 25.0, "compiler": 4.0}


@dataclass(frozen=True)
class Tools:
    """What a build needs of this machine beside the plan's own compilers."""

    build: BuildTools
    limits: HostLimits
    environ: Mapping[str, str]
    jobs: int | None = None


def compile_plan(plan: Plan, folder: Path, tools: Tools, log: TextIO, notify: Listener) -> Path:
    """Build ``plan`` inside ``folder`` and return the module's path in it.

    :param folder: an existing private folder; everything is written below it.
    :raises CompilationError: a compiler, linker or CMake failed.
    :raises ToolchainError: a tool cannot be started.
    """
    environment = compiler_environment(plan.toolkit, plan.host_compiler, tools.environ)
    try:
        tree = _copy_source(plan, folder / "src")
        if plan.flavor == "backend-dl":
            return _build_tree(plan, folder, tree, tools, environment, log, notify)
        return _build_own(plan, folder, tree, tools, environment, log, notify)
    except OSError as error:
        raise StoreError(
            f"the build folder {folder} cannot be written: {error.strerror or error}",
            hint="make room on that disk, or name another folder with --cache-dir",
        ) from error


def _copy_source(plan: Plan, target: Path) -> Path:
    for name in plan.source.files:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(plan.source.root / name, copy)
    return target


def _build_own(
    plan: Plan,
    folder: Path,
    tree: Path,
    tools: Tools,
    environment: Mapping[str, str],
    log: TextIO,
    notify: Listener,
) -> Path:
    """``classic`` and ``self-contained``: our own CMake project."""
    source = plan.source
    share = jobs.share(
        pieces=len(plan.device) * len({arch.compute for arch in plan.archs}),
        cores=tools.limits.cores,
        memory_bytes=tools.limits.memory_bytes,
        bytes_per_piece=(
            jobs.BYTES_PER_SINGLE_FILE if len(plan.device) == 1 else jobs.BYTES_PER_COMPILER
        ),
        jobs=tools.jobs,
    )
    notify(Note("detail", f"{share.jobs} jobs, each divided {share.split} ways"))
    flags = [
        *("-ccbin", str(plan.host_compiler.path)),
        *plan.nvcc_flags,
        *_split_flags(plan, share),
        *(f"-Xcompiler={flag}" for flag in plan.host_flags),
        *(f"-I{name}" for name in source.includes),
        *(f"-D{define}" for define in plan.defines),
    ]
    values: dict[str, str | list[str]] = {
        "CMAKE_C_COMPILER": str(plan.host_compiler.cc),
        "CMAKE_CXX_COMPILER": str(plan.host_compiler.path),
        "CMAKE_BUILD_TYPE": "None",
        "LLAMABUILD_ROOT": str(tree),
        "LLAMABUILD_MODULE": Path(plan.module).stem,
        "LLAMABUILD_HOST_SOURCES": list(source.core),
        "LLAMABUILD_NVCC": str(plan.toolkit.nvcc),
        "LLAMABUILD_NVCC_FLAGS": flags,
        "LLAMABUILD_DEFINES": list(plan.defines),
        "LLAMABUILD_INCLUDES": [str(tree / name) for name in source.includes],
        "LLAMABUILD_HOST_FLAGS": [*plan.host_flags, *_anonymous(plan, tree)],
        "LLAMABUILD_LINK_FLAGS": list(plan.link_flags),
        "LLAMABUILD_LIBRARIES": _libraries(plan, folder, environment),
    }
    extra: Mapping[str, str] = {}
    weights: dict[str, float] = {}
    graph = _stages(plan, tree, flags, environment, notify) if len(plan.device) == 1 else None
    if graph is None:
        values["LLAMABUILD_DEVICE_SOURCES"] = list(plan.device)
    else:
        for name, text in graph.files.items():
            (tree / name).write_text(text, encoding="utf-8")
        script = folder / "stages.cmake"
        script.write_text(_stage_script(graph, tree), encoding="utf-8")
        values["LLAMABUILD_STAGES"] = str(script)
        extra = graph.environment
        weights = {stage.label: _WEIGHTS.get(stage.tool, 0.2) for stage in graph.stages}
    project = Project(
        _PROJECT,
        folder / "build",
        cmake=tools.build.cmake,
        ninja=tools.build.ninja,
        environment=environment,
        log=log,
        notify=notify,
    )
    project.configure(values)
    project.build("module", jobs=share.jobs, environment=extra, weights=weights)
    return folder / "build" / plan.module


def _anonymous(plan: Plan, tree: Path) -> list[str]:
    """Keep the build folder's name out of ``__FILE__``: CMake names sources by absolute path."""
    return [] if plan.host_compiler.kind == "msvc" else [f"-ffile-prefix-map={tree}/="]


def _split_flags(plan: Plan, share: jobs.Share) -> list[str]:
    """How nvcc divides the work inside one translation unit; changes time, not meaning."""
    if share.split > 1 and plan.toolkit.split_compile:
        return [f"--split-compile={share.split}", f"-Xptxas=--split-compile={share.split}"]
    return []


def _libraries(plan: Plan, folder: Path, environment: Mapping[str, str]) -> list[str]:
    """Replace the toolkit's libraries by files to link; leave the system's names as they are."""
    files = []
    for name in plan.libraries:
        if name == "cuda":
            files.append(str(_driver(plan, folder, environment)))
        elif name == "cublas" and plan.toolkit.cublas is not None:
            files.append(str(plan.toolkit.cublas.library))
        elif name == "cudart_static":
            files.append(str(_toolkit_library(plan.toolkit, name)))
        else:
            files.append(name)
    return files


def _driver(plan: Plan, folder: Path, environment: Mapping[str, str]) -> Path:
    return plan.toolkit.driver_stub or driver_stub.build(
        folder / "driver",
        include_dir=plan.toolkit.include_dir,
        compiler=plan.host_compiler.cc,
        environment=environment,
    )


def _toolkit_library(toolkit: Toolkit, name: str) -> Path:
    for folder in toolkit.library_dirs:
        for file in (folder / f"lib{name}.a", folder / f"{name}.lib"):
            if file.is_file():
                return file
    raise ToolchainError(
        f"CUDA {toolkit.version} in {toolkit.root} has no {name} library",
        hint="install the CUDA runtime's development files (pip: nvidia-cuda-runtime)",
    )


def _stages(
    plan: Plan, tree: Path, flags: list[str], environment: Mapping[str, str], notify: Listener
) -> stages.Graph | None:
    """nvcc's own steps for the one CUDA file, or none where its plan cannot be read."""
    if plan.host_compiler.kind == "msvc":
        return None  # nvcc quotes for cmd.exe there
    (device,) = plan.device
    keep = "stages"
    (tree / keep).mkdir(exist_ok=True)
    try:
        done = run.capture(
            [
                plan.toolkit.nvcc,
                *("--dryrun", "--keep", "--keep-dir", keep),
                *flags,
                *("-c", device, "-o", f"{keep}/host.o"),
            ],
            env=environment,
            cwd=tree,
            timeout=60,
        )
        if done.returncode:
            raise CompilationError(f"nvcc refuses its arguments: {done.text.strip()}")
        digest = hashlib.sha256(plan.key.encode()).hexdigest()[:8]
        return stages.parse(
            done.text,
            folder=keep,
            host_compiler=str(plan.host_compiler.cc),
            module_id=f"_{digest}_{len(device)}_ggml_cuda",
        )
    except (stages.NotUnderstood, run.TimedOut) as error:
        notify(Note("warning", f"{error}; compiling with one nvcc, which takes longer"))
        return None


def _stage_script(graph: stages.Graph, tree: Path) -> str:
    """One ``add_custom_command`` a stage, and the list of objects to link."""
    lines = []
    for stage in graph.stages:
        makes = " ".join(quote(str(tree / name)) for name in stage.makes)
        needs = " ".join(quote(str(tree / name)) for name in stage.needs)
        command = " ".join(quote(word) for word in stage.argv)
        lines.append(
            f"add_custom_command(OUTPUT {makes}\n  COMMAND {command}\n  DEPENDS {needs}\n"
            f"  WORKING_DIRECTORY {quote(str(tree))} COMMENT {quote(stage.label)} VERBATIM)\n"
        )
    objects = " ".join(quote(str(tree / name)) for name in graph.objects)
    return "".join(lines) + f"set(llamabuild_stage_objects {objects})\n"


def _build_tree(
    plan: Plan,
    folder: Path,
    tree: Path,
    tools: Tools,
    environment: Mapping[str, str],
    log: TextIO,
    notify: Listener,
) -> Path:
    """``backend-dl``: the tree's own CMake, which knows its own build best."""
    source, toolkit = plan.source, plan.toolkit
    assert source.ggml_cmake is not None
    defines = [f"-D{define}" for define in plan.defines]
    values: dict[str, str | list[str]] = {
        "CMAKE_C_COMPILER": str(plan.host_compiler.cc),
        "CMAKE_CXX_COMPILER": str(plan.host_compiler.path),
        "CMAKE_CUDA_COMPILER": str(toolkit.nvcc),
        "CMAKE_CUDA_HOST_COMPILER": str(plan.host_compiler.path),
        "CMAKE_CUDA_ARCHITECTURES": [str(arch) for arch in plan.archs],
        "CMAKE_C_FLAGS": shlex.join(defines),
        "CMAKE_CXX_FLAGS": shlex.join(defines),
        "CMAKE_CUDA_FLAGS": shlex.join([*plan.nvcc_flags, *defines]),
        "CMAKE_MODULE_LINKER_FLAGS": shlex.join(plan.link_flags),
        "CUDAToolkit_ROOT": str(toolkit.root),
        "CUDA_cuda_driver_LIBRARY": str(_driver(plan, folder, environment)),
        "CMAKE_BUILD_TYPE": "Release",
        **dict(option.split("=", 1) for option in plan.cmake_options),
    }
    if toolkit.cublas is not None:
        values["CUDA_cublas_LIBRARY"] = str(toolkit.cublas.library)
    share = jobs.share(
        pieces=len(plan.device),
        cores=tools.limits.cores,
        memory_bytes=tools.limits.memory_bytes,
        bytes_per_piece=jobs.BYTES_PER_COMPILER,
        jobs=tools.jobs,
    )
    project = Project(
        tree / source.ggml_cmake,
        folder / "build",
        cmake=tools.build.cmake,
        ninja=tools.build.ninja,
        environment=environment,
        log=log,
        notify=notify,
    )
    project.configure(values)
    project.build("ggml-cuda", jobs=share.jobs)
    found = sorted((folder / "build").rglob(plan.module))
    if not found:
        raise CompilationError(
            f"the tree's own build ended well but made no {plan.module}",
            hint="this tree may be too old for GGML_BACKEND_DL: try --flavor self-contained",
        )
    return found[0]
