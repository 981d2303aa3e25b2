"""One build's folder, tools and environment, and what both ways of building need of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from llamabuild.engine import driver_stub, jobs
from llamabuild.engine.cmake import Project
from llamabuild.errors import ToolchainError
from llamabuild.events import Listener
from llamabuild.planning import Plan
from llamabuild.probe import HostLimits
from llamabuild.toolchain import BuildTools

__all__ = ["Site", "Tools"]

#: Our CMake projects: beside the package in a wheel, at the top of a checkout.
_PROJECTS = next(
    folder
    for folder in (
        Path(__file__).parents[1] / "data" / "cmake",
        Path(__file__).parents[3] / "cmake",
    )
    if folder.is_dir()
)


@dataclass(frozen=True)
class Tools:
    """What a build needs of this machine beside the plan's own compilers."""

    build: BuildTools
    limits: HostLimits
    environ: Mapping[str, str]
    jobs: int | None = None


@dataclass(frozen=True)
class Site:
    """Where one plan is built: everything is written below ``folder``, the sources are in ``tree``.

    ``environment`` is the compilers' own.
    """

    plan: Plan
    folder: Path
    tools: Tools
    environment: Mapping[str, str]
    log: TextIO
    notify: Listener

    @property
    def tree(self) -> Path:
        """The copy of the source that is compiled."""
        return self.folder / "src"

    def project(self, name: str) -> Project:
        """One of our CMake projects, to be built in this site."""
        return Project(
            _PROJECTS / name,
            self.folder / "build",
            cmake=self.tools.build.cmake,
            ninja=self.tools.build.ninja,
            environment=self.environment,
            log=self.log,
            notify=self.notify,
        )

    def share(self) -> jobs.Share:
        """How this machine is divided among the plan's CUDA files and architectures."""
        files = len(self.plan.device)
        return jobs.share(
            pieces=files * len({arch.compute for arch in self.plan.archs}),
            cores=self.tools.limits.cores,
            memory_bytes=self.tools.limits.memory_bytes,
            bytes_per_piece=jobs.BYTES_PER_SINGLE_FILE if files == 1 else jobs.BYTES_PER_COMPILER,
            jobs=self.tools.jobs,
        )

    def driver(self) -> Path:
        """A driver library to link against."""
        return self.plan.toolkit.driver_stub or driver_stub.build(
            self.folder / "driver",
            include_dir=self.plan.toolkit.include_dir,
            compiler=self.plan.host_compiler.cc,
            environment=self.environment,
        )

    def static_runtime(self) -> Path:
        """The toolkit's own runtime as a static library: a module brings it along."""
        toolkit = self.plan.toolkit
        for folder in toolkit.library_dirs:
            for file in (folder / "libcudart_static.a", folder / "cudart_static.lib"):
                if file.is_file():
                    return file
        raise ToolchainError(
            f"{toolkit.label} has no static runtime library",
            hint="install the CUDA runtime's development files (pip: nvidia-cuda-runtime)",
        )
