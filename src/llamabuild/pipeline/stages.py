"""Decide what will be built: each stage takes a :class:`Job` and answers one more question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamabuild import arch, probe, source, toolchain
from llamabuild.arch import CudaArch, Item, Keyword
from llamabuild.events import Listener, Note
from llamabuild.memo import Memo
from llamabuild.planning import Plan, make_plan, needs_cublas
from llamabuild.probe import Detection
from llamabuild.settings import Request
from llamabuild.source import SourceTree
from llamabuild.store import Store, cache_root
from llamabuild.toolchain import HostCompiler, Machine, Toolkit, ToolkitSearch

__all__ = ["PLANNING", "Job", "depends_on", "detect", "open_store", "plan", "start"]


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


def detect(environ: Mapping[str, str]) -> Detection:
    """Look at the GPUs of this machine, of any vendor."""
    return probe.detect_gpus(environ)


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
    found = source.Found(job.request.source or "", "")
    if job.request.source is None:
        found = source.find_source(job.environ, job.cwd)
        job.notify(Note("info", f"source {found.spec}: {found.reason}"))
    tree = source.open_source(
        found.spec,
        scratch=job.store.base / "sources",
        environ=job.environ,
        cwd=job.cwd,
        memo=job.memo,
        notify=job.notify,
    )
    for text in tree.notes:
        job.notify(Note("info", text))
    return replace(job, source=replace(tree, watched=(*found.watched, *tree.watched)))


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
    if not job.request.per_arch:  # else the next module of the same request may have it
        for made in plans:
            for text in made.warnings:
                job.notify(Note("warning", text))
    return replace(job, plans=tuple(plans))


PLANNING = (read_architectures, look_at_gpus, open_source, find_toolkits, make_plans)


def plan(job: Job) -> Job:
    """Answer everything about a request that can be answered without compiling."""
    for stage in PLANNING:
        job = stage(job)
    return job


def depends_on(job: Job) -> tuple[Path, ...]:
    """Every file and folder that the answer depends on.

    None where it depends on the GPUs.
    """
    if job.detection is not None:
        return ()
    assert job.source is not None
    assert job.toolkits is not None
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
