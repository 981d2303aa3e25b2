"""One build's folder, tools and environment, and what both ways of building need of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from llamabuild.arch import CudaArch
from llamabuild.engine import jobs
from llamabuild.engine.cmake import Project
from llamabuild.events import Listener
from llamabuild.planning import Plan
from llamabuild.probe import HostLimits
from llamabuild.shipped import shipped
from llamabuild.toolchain import BuildTools

__all__ = ["Site", "Tools"]


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
            shipped("cmake") / name,
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
        # PTX and machine code of one architecture come out of one compilation.
        targets = {
            arch.compute if isinstance(arch, CudaArch) else str(arch) for arch in self.plan.archs
        }
        return jobs.share(
            pieces=files * len(targets),
            cores=self.tools.limits.cores,
            memory_bytes=self.tools.limits.memory_bytes,
            bytes_per_piece=jobs.BYTES_PER_SINGLE_FILE if files == 1 else jobs.BYTES_PER_COMPILER,
            jobs=self.tools.jobs,
        )
