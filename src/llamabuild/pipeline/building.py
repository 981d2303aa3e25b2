"""Have what was planned: from the cache, or from the compilers and read back before publication."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llamabuild import __version__, engine, inspect, probe, toolchain
from llamabuild.errors import CompilationError, ModuleRejectedError, StoreError
from llamabuild.pipeline.serving import gpu_architecture, gpus_here, require
from llamabuild.pipeline.stages import Job, detect
from llamabuild.planning import Plan
from llamabuild.store import Artifact, export

__all__ = ["Built", "build"]


@dataclass(frozen=True)
class Built:
    """A finished module, and whether the cache had it. ``seconds`` is wall time.

    :param inspected: what it was read to be before it was published; none where the cache had it.
    """

    artifact: Artifact
    plan: Plan
    cached: bool
    seconds: float
    inspected: inspect.Module | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The module's file in the cache."""
        return self.artifact.path

    @property
    def module(self) -> inspect.Module:
        """What the module is read to be."""
        return self.inspected or inspect.read_module(self.path)

    def to_json(self) -> dict[str, Any]:
        """The element of ``artifacts`` in ``build --json``."""
        described = self.plan.describe()
        shown = ("archs", "flavor", "backend", "source", "toolkit", "defines", "flags")
        return {
            "path": str(self.path),
            "key": self.artifact.key,
            "cached": self.cached,
            **{name: described[name] for name in shown},
            "sha256": self.artifact.manifest["sha256"],
            "size_bytes": self.artifact.manifest["size_bytes"],
            "seconds": round(self.seconds, 3),
        }


def build(job: Job) -> tuple[Built, ...]:
    """Have every planned module, from the cache or from the compilers; in the plans' order."""
    wanted = {name: gpu_architecture(name) for name in job.request.require_gpus}
    built = tuple(_build_one(job, made) for made in job.plans)
    _tell_whom_it_serves(job, wanted, built)
    if job.request.output:
        for result in built:
            _export(job.request.output, result, alone=len(built) == 1)
    return built


def _build_one(job: Job, made: Plan) -> Built:
    began = time.monotonic()
    if not job.request.rebuild:
        artifact = job.store.lookup(made.key, job.notify)
        if artifact is not None:
            return Built(artifact, made, cached=True, seconds=time.monotonic() - began)
    with job.store.claim(made.key, job.notify) as staging:
        # Somebody else may have built it while we waited.
        artifact = None if job.request.rebuild else job.store.lookup(made.key, job.notify)
        if artifact is not None:
            return Built(artifact, made, cached=True, seconds=time.monotonic() - began)
        tools = engine.Tools(
            build=toolchain.find_build_tools(job.environ, memo=job.memo),
            limits=probe.host_limits(),
            environ=job.environ,
            jobs=job.request.jobs,
        )
        try:
            with staging.log.open("w", encoding="utf-8") as log:
                module = engine.compile_plan(made, staging.work, tools, log, job.notify)
            found = _inspected(made, module)
        except (CompilationError, ModuleRejectedError, StoreError) as error:
            error.message += f"\nlog: {staging.log}"
            error.args = (error.message,)
            raise
        except OSError as error:
            raise StoreError(
                f"the build folder {staging.work} cannot be written: {error.strerror or error}",
                hint="make room on that disk, or name another folder with --cache-dir",
            ) from error
        module.rename(staging.entry / made.module)
        artifact = job.store.publish(staging, made.module, _manifest(made, found))
    return Built(
        artifact,
        made,
        cached=False,
        seconds=time.monotonic() - began,
        inspected=replace(found, path=artifact.path),
    )


def _inspected(made: Plan, path: Path) -> inspect.Module:
    """Read the module back; one that is not what was asked for is never published."""
    module = inspect.read_module(path)
    problems = inspect.check(
        module,
        archs=[str(item) for item in made.archs],
        exports=made.exports,
        allowed_needed=made.may_need,
    )
    if problems:
        raise ModuleRejectedError(
            "the finished module is not what was asked for:\n"
            + "\n".join(f"- {problem}" for problem in problems),
            hint="nothing was published; -v shows the compilers' own words",
        )
    return module


def _tell_whom_it_serves(job: Job, wanted: Mapping[str, str], built: tuple[Built, ...]) -> None:
    """Refuse what does not serve a GPU that it must; warn, once, of one that is here.

    An answer from the cache takes no look at the GPUs: its compilation did.
    """
    gpus: tuple[probe.Gpu, ...] = ()
    if not all(result.cached for result in built):
        gpus = (job.detection or detect(job.environ)).gpus
    if not (wanted or gpus):
        return
    modules = [result.module for result in built]
    require(wanted, modules)
    for note in gpus_here(gpus, modules, job.source.levels if job.source else ()):
        job.notify(note)


def _export(output: str, result: Built, *, alone: bool) -> None:
    """Copy a module to ``--output``; several of them into a folder for each architecture."""
    if not alone:
        folder = "-".join(str(item) for item in result.plan.archs)
        output = f"{Path(output) / folder}{os.sep}"
    export(result.artifact, output)


def _manifest(made: Plan, module: inspect.Module) -> dict[str, Any]:
    return {
        **made.describe(),
        "needed": list(module.needed),
        "exported": [name for name in module.exported if name.startswith("ggml")],
        "glibc": module.glibc,
        "glibcxx": module.glibcxx,
        "llamabuild": __version__,
    }
