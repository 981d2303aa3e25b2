"""nvcc's part in a module of ours: its arguments, its steps as a graph, its libraries."""

from __future__ import annotations

import hashlib
from pathlib import Path

from llamabuild import run
from llamabuild.engine import driver_stub, stages
from llamabuild.engine.graph import Graph
from llamabuild.engine.site import Site
from llamabuild.errors import CompilationError, ToolchainError
from llamabuild.events import Note
from llamabuild.toolchain import Toolkit

__all__ = ["driver", "flags", "graph", "libraries", "static_runtime"]

#: nvcc's tools write their files here, below the source.
_STAGES = "stages"


def flags(site: Site, toolkit: Toolkit, split: int) -> list[str]:
    """The plan's flags, with this machine's compiler and its share of the cores."""
    plan = site.plan
    divided = [f"--split-compile={split}"] if split > 1 and toolkit.split_compile else []
    return [
        *("-ccbin", str(plan.host_compiler.path)),
        *plan.device_flags,
        *divided,
        *(f"-Xcompiler={flag}" for flag in plan.host_flags),
        *(f"-I{name}" for name in plan.source.includes),
        *(f"-D{define}" for define in plan.defines),
    ]


def graph(site: Site, toolkit: Toolkit, arguments: list[str]) -> Graph | None:
    """Ask nvcc for its own steps, where there is one CUDA file and its plan can be read.

    :raises CompilationError: nvcc refuses its arguments.
    """
    plan = site.plan
    if len(plan.device) != 1 or plan.host_compiler.kind == "msvc":
        return None  # many files keep the cores busy anyway; nvcc quotes for cmd.exe on Windows
    (device,) = plan.device
    (site.tree / _STAGES).mkdir(exist_ok=True)
    try:
        done = run.capture(
            [
                toolkit.nvcc,
                *("--dryrun", "--keep", "--keep-dir", _STAGES),
                *arguments,
                *("-c", device, "-o", f"{_STAGES}/host.o"),
            ],
            env=site.environment,
            cwd=site.tree,
            timeout=60,
        )
        if done.returncode:
            raise CompilationError(f"nvcc refuses its arguments: {done.text.strip()}")
        digest = hashlib.sha256(plan.key.encode()).hexdigest()[:8]
        return stages.parse(
            done.text,
            folder=_STAGES,
            host_compiler=str(plan.host_compiler.cc),
            module_id=f"_{digest}_9_ggml_cuda",
        )
    except (stages.NotUnderstood, run.TimedOut) as error:
        site.notify(Note("warning", f"{error}; compiling with one nvcc, which takes longer"))
        return None


def libraries(site: Site, toolkit: Toolkit) -> list[str]:
    """Replace the toolkit's libraries by files to link; leave the system's names as they are."""
    linked = []
    for name in site.plan.libraries:
        if name == "cublas" and toolkit.cublas is not None:
            linked.append(str(toolkit.cublas.library))
        elif name == "cuda":
            linked.append(str(driver(site, toolkit)))
        elif name == "cudart_static":
            linked.append(str(static_runtime(toolkit)))
        else:
            linked.append(name)
    return linked


def driver(site: Site, toolkit: Toolkit) -> Path:
    """A driver library to link against."""
    return toolkit.driver_stub or driver_stub.build(
        site.folder / "driver",
        include_dir=toolkit.include_dir,
        compiler=site.plan.host_compiler.cc,
        environment=site.environment,
    )


def static_runtime(toolkit: Toolkit) -> Path:
    """The toolkit's own runtime as a static library: a module brings it along.

    :raises ToolchainError: it has none.
    """
    for folder in toolkit.library_dirs:
        for file in (folder / "libcudart_static.a", folder / "cudart_static.lib"):
            if file.is_file():
                return file
    raise ToolchainError(
        f"{toolkit.label} has no static runtime library",
        hint="install the CUDA runtime's development files (pip: nvidia-cuda-runtime)",
    )
