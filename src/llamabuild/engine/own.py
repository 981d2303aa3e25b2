"""``classic`` and ``self-contained`` modules: our own CMake project, ``cmake/module``."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from llamabuild import run
from llamabuild.engine import stages
from llamabuild.engine.cmake import quote
from llamabuild.engine.site import Site
from llamabuild.errors import CompilationError
from llamabuild.events import Note

__all__ = ["build"]

#: nvcc's tools write their files here, below the source.
_STAGES = "stages"
#: Relative cost of nvcc's steps, read off llamafile 0.9.3 (cicc 407 s, ptxas 142 s, host 23 s).
_WEIGHTS = {"cicc": 70.0, "ptxas": 25.0, "compiler": 4.0}


def build(site: Site) -> Path:
    """Compile and link a module; errors as in :func:`~llamabuild.engine.build.compile_plan`."""
    plan, tree = site.plan, site.tree
    for name, text in plan.source.generated:
        (tree / name).write_text(text, encoding="utf-8")
    share = site.share()
    site.notify(Note("detail", f"{share.jobs} jobs, each divided {share.split} ways"))
    flags = _nvcc_flags(site, share.split)
    values: dict[str, str | list[str]] = {
        "CMAKE_C_COMPILER": str(plan.host_compiler.cc),
        "CMAKE_CXX_COMPILER": str(plan.host_compiler.path),
        "CMAKE_BUILD_TYPE": "None",
        "LLAMABUILD_ROOT": str(tree),
        "LLAMABUILD_MODULE": Path(plan.module).stem,
        "LLAMABUILD_HOST_SOURCES": list(plan.source.core),
        "LLAMABUILD_NVCC": str(plan.toolkit.nvcc),
        "LLAMABUILD_NVCC_FLAGS": flags,
        "LLAMABUILD_DEFINES": list(plan.defines),
        "LLAMABUILD_INCLUDES": [str(tree / name) for name in plan.source.includes],
        "LLAMABUILD_HOST_FLAGS": [*plan.host_flags, *_anonymous(site)],
        "LLAMABUILD_LINK_FLAGS": list(plan.link_flags),
        "LLAMABUILD_LIBRARIES": _libraries(site),
    }
    graph = _graph(site, flags)
    if graph is None:
        values["LLAMABUILD_DEVICE_SOURCES"] = list(plan.device)
    else:
        for name, text in graph.files.items():
            (tree / name).write_text(text, encoding="utf-8")
        script = site.folder / "stages.cmake"
        script.write_text(_script(graph, tree), encoding="utf-8")
        values["LLAMABUILD_STAGES"] = str(script)
    project = site.project("module")
    project.configure(values)
    project.build(
        "module",
        jobs=share.jobs,
        environment=graph.environment if graph else None,
        weights=_weights(graph) if graph else None,
    )
    return project.folder / plan.module


def _nvcc_flags(site: Site, split: int) -> list[str]:
    """The plan's flags, with this machine's compiler and its share of the cores."""
    plan = site.plan
    divided = [f"--split-compile={split}"] if split > 1 and plan.toolkit.split_compile else []
    return [
        *("-ccbin", str(plan.host_compiler.path)),
        *plan.device_flags,
        *divided,
        *(f"-Xcompiler={flag}" for flag in plan.host_flags),
        *(f"-I{name}" for name in plan.source.includes),
        *(f"-D{define}" for define in plan.defines),
    ]


def _anonymous(site: Site) -> list[str]:
    """Keep the build folder's name out of ``__FILE__``: CMake names sources by absolute path."""
    gnu = site.plan.host_compiler.kind != "msvc"
    return [f"-ffile-prefix-map={site.tree}/="] if gnu else []


def _libraries(site: Site) -> list[str]:
    """Replace the toolkit's libraries by files to link; leave the system's names as they are."""
    cublas = site.plan.toolkit.cublas
    files = {"cuda": site.driver, "cudart_static": site.static_runtime}
    linked = []
    for name in site.plan.libraries:
        if name == "cublas" and cublas is not None:
            linked.append(str(cublas.library))
        else:
            linked.append(str(files[name]()) if name in files else name)
    return linked


def _graph(site: Site, flags: list[str]) -> stages.Graph | None:
    """Ask nvcc for its own steps, where there is one CUDA file and its plan can be read."""
    plan = site.plan
    if len(plan.device) != 1 or plan.host_compiler.kind == "msvc":
        return None  # many files keep the cores busy anyway; nvcc quotes for cmd.exe on Windows
    (device,) = plan.device
    (site.tree / _STAGES).mkdir(exist_ok=True)
    try:
        done = run.capture(
            [
                plan.toolkit.nvcc,
                *("--dryrun", "--keep", "--keep-dir", _STAGES),
                *flags,
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


def _script(graph: stages.Graph, tree: Path) -> str:
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


def _weights(graph: stages.Graph) -> Mapping[str, float]:
    return {stage.label: _WEIGHTS.get(stage.tool, 0.2) for stage in graph.stages}
