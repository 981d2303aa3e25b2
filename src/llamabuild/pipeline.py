"""The stages of a request, one after another; the Python API and the command line stand on it.

Each stage takes a :class:`Job` and returns it with one more question answered. ``PLANNING``
answers what will be built; :func:`build` then asks the cache or the compilers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamabuild import arch, engine, inspect, probe, source, toolchain
from llamabuild.arch import CudaArch, Item, Keyword
from llamabuild.errors import (
    ArchitectureError,
    CompilationError,
    ModuleRejectedError,
    SourceError,
    StoreError,
)
from llamabuild.events import Listener, Note
from llamabuild.memo import Memo
from llamabuild.planning import Plan, make_plan, needs_cublas
from llamabuild.probe import Detection
from llamabuild.settings import Request
from llamabuild.source import SourceTree
from llamabuild.store import Artifact, Store, cache_root, export
from llamabuild.toolchain import HostCompiler, Machine, Toolkit, ToolkitSearch

__all__ = [
    "PLANNING",
    "Built",
    "Job",
    "Store",
    "build",
    "depends_on",
    "detect",
    "open_store",
    "plan",
    "start",
]


@dataclass(frozen=True)
class Job:
    """A request on its way: what was asked, and what each stage has found so far."""

    request: Request
    environ: Mapping[str, str]
    cwd: Path
    notify: Listener
    store: Store
    items: tuple[Item, ...] = ()
    detection: Detection | None = None
    wanted: tuple[CudaArch, ...] = ()
    source: SourceTree | None = None
    toolkits: ToolkitSearch | None = None
    plans: tuple[Plan, ...] = ()

    @property
    def memo(self) -> Memo:
        """What earlier starts found out about compilers and sources."""
        return Memo(self.store.base / "probes")

    @property
    def visible(self) -> tuple[CudaArch, ...]:
        """The architectures of the GPUs that were found."""
        gpus = self.detection.gpus if self.detection else ()
        return tuple(sorted({CudaArch(int(gpu.arch)) for gpu in gpus}))


@dataclass(frozen=True)
class Built:
    """A finished module, and whether the cache had it. ``seconds`` is wall time."""

    artifact: Artifact
    plan: Plan
    cached: bool
    seconds: float

    @property
    def path(self) -> Path:
        """The module's file in the cache."""
        return self.artifact.path

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


def detect(environ: Mapping[str, str]) -> Detection:
    """Look at the GPUs of this machine."""
    return probe.detect_nvidia(environ)


def open_store(request: Request, environ: Mapping[str, str], notify: Listener) -> Store:
    """Open the cache that a request means."""
    return Store(cache_root(request.cache_dir, environ, notify))


def start(request: Request, environ: Mapping[str, str], cwd: Path, notify: Listener) -> Job:
    """Make a job of a request, with nothing found yet."""
    return Job(request, environ, cwd, notify, open_store(request, environ, notify))


def read_architectures(job: Job) -> Job:
    """Parse the list, and say what decided it where that was not the command line."""
    request = job.request
    if request.origin("arch") not in {"--arch", "default"}:
        job.notify(Note("info", f"architectures {request.arch}, from {request.origin('arch')}"))
    return replace(job, items=arch.parse(request.arch))


def look_at_gpus(job: Job) -> Job:
    """Look for GPUs where the answer depends on them; settle what is wanted of any toolkit.

    :raises ArchitectureError: ``native`` without a GPU, or an AMD target.
    """
    none_visible = ""
    if {Keyword.NATIVE, Keyword.AUTO} & set(job.items):
        detection = probe.detect_nvidia(job.environ)
        job = replace(job, detection=detection)
        for gpu in detection.gpus:
            words = f"GPU {gpu.index}: {gpu.name}, {gpu.arch} (by {gpu.found_via})"
            job.notify(Note("info", words))
        if detection.gpus:
            for problem in detection.problems:
                job.notify(Note("warning", problem.message))
        elif detection.problems:
            none_visible = detection.problems[0].message
    wanted = arch.needed(job.items, visible=job.visible, none_visible=none_visible)
    return replace(job, wanted=wanted)


def open_source(job: Job) -> Job:
    """Find and open the source; the compilers will see exactly the files that its digest covers."""
    spec = job.request.source
    if spec is None:
        found = source.find_source(job.environ, job.cwd)
        if found is None:
            raise SourceError(
                "no source was given, and no llamafile was found here or in ~/.llamafile",
                hint="--source ./some.llamafile, or a llama.cpp folder, or "
                "pypi:llama-cpp-python==0.2.56",
            )
        spec = found.spec
        job.notify(Note("info", f"source {spec}: {found.reason}"))
    tree = source.open_source(
        spec,
        scratch=job.store.base / "sources",
        environ=job.environ,
        cwd=job.cwd,
        memo=job.memo,
        notify=job.notify,
    )
    for text in tree.notes:
        job.notify(Note("info", text))
    return replace(job, source=tree)


def find_toolkits(job: Job) -> Job:
    """Find every toolkit; which one serves is decided with the architectures."""
    search = toolchain.find_cuda(job.environ, explicit=job.request.toolkit, memo=job.memo)
    for text in search.warnings:
        job.notify(Note("warning", text))
    ignored = ", ".join(toolchain.ignored_variables(job.environ))
    if ignored:
        job.notify(Note("warning", f"{ignored}: not heeded; say it with --nvcc-flag or -D"))
    for toolkit in search.toolkits:
        job.notify(Note("detail", f"found {toolkit.label}, by {toolkit.found_via}"))
    for rejected in search.rejected:
        job.notify(Note("detail", f"rejected {rejected}"))
    return replace(job, toolkits=search)


def make_plans(job: Job) -> Job:
    """Decide the concrete architectures and, for each module, its toolkit, flags and key."""
    tree, search = job.source, job.toolkits
    assert tree is not None
    assert search is not None
    cublas = needs_cublas(job.request, tree)
    groups = [job.wanted]
    if job.request.per_arch:
        archs = job.wanted
        if _open_ended(job):
            archs = _expanded(job, _choose(job, archs, cublas=cublas))
        groups = [(item,) for item in archs]
    plans = []
    for group in groups:
        toolkit = _choose(job, group, cublas=cublas)
        archs = group if job.request.per_arch else _expanded(job, toolkit)
        plans.append(
            make_plan(
                job.request,
                archs=archs,
                toolkit=toolkit,
                host_compiler=_host_compiler(job, toolkit),
                source=tree,
                machine=Machine.here(),
            )
        )
    for text in dict.fromkeys(text for made in plans for text in made.notes):
        job.notify(Note("info", text))
    return replace(job, plans=tuple(plans))


PLANNING = (read_architectures, look_at_gpus, open_source, find_toolkits, make_plans)


def plan(job: Job) -> Job:
    """Answer everything about a request that can be answered without compiling."""
    for stage in PLANNING:
        job = stage(job)
    return job


def build(job: Job) -> tuple[Built, ...]:
    """Have every planned module, from the cache or from the compilers; in the plans' order."""
    wanted = {name: gpu_architecture(name) for name in job.request.require_gpus}
    built = tuple(_build_one(job, made) for made in job.plans)
    _require(wanted, built)
    if job.request.output:
        for result in built:
            _export(job.request.output, result, alone=len(built) == 1)
    return built


def gpu_architecture(name: str) -> str:
    """Return the architecture of one GPU that a user names: "61" for ``gtx 1080`` or ``6.1``.

    :raises ArchitectureError: nobody knows it, or it is more than one.
    """
    item, *more = arch.parse(name)
    if more or isinstance(item, Keyword):
        raise ArchitectureError(
            f"{name!r} is not one GPU", hint="name one, for example 'gtx 1080' or 6.1"
        )
    return item.name if isinstance(item, CudaArch) else str(item)


def depends_on(job: Job) -> tuple[Path, ...]:
    """Every file and folder that the answer depends on; none where it depends on hardware."""
    if job.detection is not None or job.source is None or job.toolkits is None:
        return ()
    compilers = [made.host_compiler.path for made in job.plans]
    return (*job.source.watched, *job.toolkits.watched, *compilers)


def _open_ended(job: Job) -> bool:
    """Whether the toolkit has a say in the list of architectures."""
    return bool({Keyword.ALL, Keyword.ALL_MAJOR} & set(job.items)) or (
        Keyword.AUTO in job.items and not job.visible
    )


def _choose(job: Job, archs: tuple[CudaArch, ...], *, cublas: bool) -> Toolkit:
    assert job.toolkits is not None
    choice = toolchain.choose(job.toolkits, archs, cublas=cublas)
    for rejected in choice.passed_over:
        job.notify(Note("detail", f"passed over {rejected}"))
    for text in choice.warnings:
        job.notify(Note("warning", text))
    return choice.toolkit


def _expanded(job: Job, toolkit: Toolkit) -> tuple[CudaArch, ...]:
    assert job.source is not None
    return arch.expand(
        job.items,
        visible=job.visible,
        real=toolkit.real,
        virtual=toolkit.virtual,
        levels=job.source.levels,
        literal=job.request.literal,
    )


def _host_compiler(job: Job, toolkit: Toolkit) -> HostCompiler:
    compiler = toolchain.find_host_compiler(
        toolkit, job.environ, explicit=job.request.host_compiler, memo=job.memo
    )
    for text in compiler.notes:
        job.notify(Note("detail", text))
    return compiler


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
    return Built(artifact, made, cached=False, seconds=time.monotonic() - began)


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


def _export(output: str, result: Built, *, alone: bool) -> None:
    """Copy a module to ``--output``; several of them into a folder for each architecture."""
    if not alone:
        folder = "-".join(str(item) for item in result.plan.archs)
        output = f"{Path(output) / folder}{os.sep}"
    export(result.artifact, output)


def _require(wanted: Mapping[str, str], built: tuple[Built, ...]) -> None:
    """Refuse modules of which none runs all its kernels on a GPU that must be served."""
    if not wanted:
        return
    modules = [inspect.read_module(result.path) for result in built]
    for name, architecture in wanted.items():
        found = [inspect.coverage(module, architecture) for module in modules]
        if not any(coverage.healthy for coverage in found):
            (least,) = sorted(found, key=lambda coverage: len(coverage.trapped or ()))[:1]
            what = (
                f"{len(least.trapped)} of {least.kernels} kernels give up"
                if least.trapped
                else "nothing runs"
                if least.runs == "no"
                else "which kernels give up is unknown"
            )
            raise ModuleRejectedError(
                f"on {name} ({architecture}), {what}: "
                f"the driver would take {', '.join(least.entries) or 'no'} code",
                hint=f"add {architecture} to --arch",
            )


def _manifest(made: Plan, module: inspect.Module) -> dict[str, Any]:
    from llamabuild import __version__

    return {
        **made.describe(),
        "needed": list(module.needed),
        "exported": [name for name in module.exported if name.startswith("ggml")],
        "glibc": module.glibc,
        "glibcxx": module.glibcxx,
        "llamabuild": __version__,
    }
