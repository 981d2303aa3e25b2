"""Modules without a CMake build of their own: ours, ``cmake/module``."""

from __future__ import annotations

from pathlib import Path

from llamabuild.engine import clang, nvcc
from llamabuild.engine.graph import Graph
from llamabuild.engine.site import Site
from llamabuild.events import Note
from llamabuild.toolchain import Rocm

__all__ = ["build"]


def build(site: Site) -> Path:
    """Compile and link a module; errors as in :func:`~llamabuild.engine.build.compile_plan`."""
    plan, tree = site.plan, site.tree
    for name, text in plan.source.generated:
        (tree / name).write_text(text, encoding="utf-8")
    share = site.share()
    site.notify(Note("detail", f"{share.jobs} jobs, each divided {share.split} ways"))
    values: dict[str, str | list[str]] = {
        "CMAKE_C_COMPILER": str(plan.host_compiler.cc),
        "CMAKE_CXX_COMPILER": str(plan.host_compiler.path),
        "CMAKE_BUILD_TYPE": "None",
        "LLAMABUILD_ROOT": str(tree),
        "LLAMABUILD_MODULE": Path(plan.module).stem,
        "LLAMABUILD_HOST_SOURCES": list(plan.source.core),
        "LLAMABUILD_DEFINES": list(plan.defines),
        "LLAMABUILD_INCLUDES": [str(tree / name) for name in plan.source.includes],
        "LLAMABUILD_HOST_FLAGS": [*plan.host_flags, *_anonymous(site)],
        "LLAMABUILD_LINK_FLAGS": list(plan.link_flags),
    }
    graph: Graph | None
    if isinstance(plan.toolkit, Rocm):
        graph = clang.graph(site, plan.toolkit)
        values["LLAMABUILD_LIBRARIES"] = clang.libraries(site, plan.toolkit)
    else:
        flags = nvcc.flags(site, plan.toolkit, share.split)
        values["LLAMABUILD_LIBRARIES"] = nvcc.libraries(site, plan.toolkit)
        values["LLAMABUILD_NVCC"] = str(plan.toolkit.nvcc)
        values["LLAMABUILD_NVCC_FLAGS"] = flags
        graph = nvcc.graph(site, plan.toolkit, flags)
    if graph is None:
        values["LLAMABUILD_DEVICE_SOURCES"] = list(plan.device)
    else:
        for name, text in graph.files.items():
            (tree / name).write_text(text, encoding="utf-8")
        script = site.folder / "stages.cmake"
        script.write_text(graph.script(tree), encoding="utf-8")
        values["LLAMABUILD_STAGES"] = str(script)
    project = site.project("module")
    project.configure(values)
    project.build(
        "module",
        jobs=share.jobs,
        environment=graph.environment if graph else None,
        weights=graph.weights() if graph else None,
    )
    return project.folder / plan.module


def _anonymous(site: Site) -> list[str]:
    """Keep the build folder's name out of ``__FILE__``: CMake names sources by absolute path."""
    gnu = site.plan.host_compiler.kind != "msvc"
    return [f"-ffile-prefix-map={site.tree}/="] if gnu else []
