"""Decide what will be built: each stage takes a :class:`Job` and answers one more question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from llamabuild import arch, probe, source, toolchain
from llamabuild.arch import CudaArch, HipTarget, Item, Keyword
from llamabuild.errors import ArchitectureError
from llamabuild.events import Listener, Note
from llamabuild.memo import Memo
from llamabuild.pipeline.serving import require_planned
from llamabuild.planning import Plan, make_plan, needs_cublas, rocm_needs
from llamabuild.probe import Detection, Gpu
from llamabuild.settings import Request
from llamabuild.source import SourceTree
from llamabuild.store import Store, cache_root
from llamabuild.toolchain import (
    Choice,
    HostCompiler,
    Machine,
    Rocm,
    RocmChoice,
    RocmSearch,
    Toolkit,
    ToolkitSearch,
)

__all__ = ["PLANNING", "Job", "depends_on", "detect", "open_store", "plan", "start"]

Archs: TypeAlias = tuple[CudaArch, ...] | tuple[HipTarget, ...]


@dataclass(frozen=True)
class Job:
    """A request on its way: what was asked, and what each stage has found so far.

    What is of one maker's GPUs (``wanted``, ``toolkits``) is of those of ``backend``.
    """

    request: Request
    environ: Mapping[str, str]
    cwd: Path
    notify: Listener
    store: Store
    items: tuple[Item, ...] = ()
    backend: str = "cuda"
    detection: Detection | None = None
    wanted: Archs = ()
    source: SourceTree | None = None
    toolkits: ToolkitSearch | RocmSearch | None = None
    plans: tuple[Plan, ...] = ()

    @property
    def memo(self) -> Memo:
        """What earlier starts found out about compilers and sources."""
        return Memo(self.store.create() / "probes")

    @property
    def visible(self) -> tuple[CudaArch, ...]:
        """The architectures of the NVIDIA GPUs that were found."""
        return tuple(sorted({CudaArch(int(gpu.arch)) for gpu in self._gpus("nvidia")}))

    @property
    def visible_amd(self) -> tuple[HipTarget, ...]:
        """The targets of the AMD GPUs that were found."""
        return arch.sorted_targets(arch.hip_target(gpu.arch) for gpu in self._gpus("amd"))

    @property
    def names_nvidia(self) -> bool:
        """Whether the list names an NVIDIA architecture."""
        return any(isinstance(item, CudaArch) for item in self.items)

    def _gpus(self, vendor: str) -> list[Gpu]:
        gpus = self.detection.gpus if self.detection else ()
        return [gpu for gpu in gpus if gpu.vendor == vendor]


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
    """Parse the list, and say what decided it where that was not the command line.

    :raises ArchitectureError: an item is unknown, or the list is for GPUs of two makers.
    """
    request = job.request
    if request.origin("arch") not in {"--arch", "default"}:
        job.notify(Note("info", f"architectures {request.arch}, from {request.origin('arch')}"))
    items = arch.parse(request.arch)
    amd = [str(item) for item in items if isinstance(item, HipTarget)]
    nvidia = [item.name for item in items if isinstance(item, CudaArch)]
    backend = request.backend
    if backend is None and amd and nvidia:
        raise ArchitectureError(
            f"{', '.join(nvidia)} are NVIDIA's and {', '.join(amd)} AMD's, and one module is for "
            "GPUs of one maker",
            hint=f"build twice: --arch {','.join(nvidia)}, then --arch {','.join(amd)}",
        )
    if backend is None and amd:
        backend = "hip"
        job.notify(Note("info", f"{', '.join(amd)}: AMD GPUs, so --backend hip"))
    return replace(job, items=items, backend=backend or "cuda")


def look_at_gpus(job: Job) -> Job:
    """Look for GPUs where the answer depends on them; settle what is wanted of any toolkit.

    Where nothing says whose GPUs are meant, NVIDIA's are, if there are any.

    :raises ArchitectureError: ``native`` without a GPU, or one of the other maker.
    """
    none_visible = remedy = ""
    if {Keyword.NATIVE, Keyword.AUTO} & set(job.items):
        job = _detected(job)
        assert job.detection is not None
        for gpu in job.detection.gpus:
            words = f"GPU {gpu.index}: {gpu.name}, {gpu.arch} (by {gpu.found_via})"
            job.notify(Note("info", words))
        if job.detection.gpus:
            for problem in job.detection.problems:
                job.notify(Note("warning", problem.message))
        elif job.detection.problems:
            none_visible = job.detection.problems[0].message
            remedy = job.detection.problems[0].hint
    if job.backend == "hip":
        targets = arch.needed_hip(
            job.items, visible=job.visible_amd, none_visible=none_visible, remedy=remedy
        )
        return replace(job, wanted=targets)
    wanted = arch.needed(job.items, visible=job.visible, none_visible=none_visible)
    return replace(job, wanted=wanted)


def _detected(job: Job) -> Job:
    """Detect the GPUs of the backend; where it was left open, AMD's if NVIDIA has none here."""
    if job.backend == "hip":
        return replace(job, detection=probe.detect_amd(job.environ))
    detection = probe.detect_nvidia(job.environ)
    if job.request.backend is None and not detection.gpus and not job.names_nvidia:
        amd = probe.detect_amd(job.environ)
        if amd.gpus or (detection.absent and not amd.absent):
            job.notify(Note("info", "no NVIDIA GPU, but AMD's: --backend hip"))
            return replace(job, backend="hip", detection=amd)
    return replace(job, detection=detection)


def open_source(job: Job) -> Job:
    """Find and open the source; the compilers will see exactly the files that its digest covers."""
    found = source.Found(job.request.source or "", "")
    if job.request.source is None:
        found = source.find_source(job.environ, job.cwd)
        job.notify(Note("info", f"source {found.spec}: {found.reason}"))
    tree = source.open_source(
        found.spec,
        scratch=job.store.create() / "sources",
        environ=job.environ,
        cwd=job.cwd,
        memo=job.memo,
        mirror=job.request.source_mirror,
        notify=job.notify,
    )
    for text in tree.notes:
        job.notify(Note("info", text))
    return replace(job, source=replace(tree, watched=(*found.watched, *tree.watched)))


def find_toolkits(job: Job) -> Job:
    """Find every toolkit; which one serves is decided with the architectures."""
    find = toolchain.find_rocm if job.backend == "hip" else toolchain.find_cuda
    search = find(job.environ, explicit=job.request.toolkit, memo=job.memo)
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
    tree = job.source
    assert tree is not None
    groups: list[Archs] = [job.wanted]
    if job.request.per_arch:
        archs = job.wanted
        if _open_ended(job):
            archs = _expanded(job, _choose(job, archs))
        groups = [archs[place : place + 1] for place in range(len(archs))]
    plans = []
    for group in groups:
        toolkit = _choose(job, group)
        plans.append(
            make_plan(
                job.request,
                archs=group if job.request.per_arch else _expanded(job, toolkit),
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


def require_gpus(job: Job) -> Job:
    """Refuse plans that leave out a GPU which must be served: no build is needed to know it.

    :raises ModuleRejectedError: nothing will run on one of ``--require-gpu``.
    """
    require_planned(job.request.require_gpus, [made.archs for made in job.plans])
    return job


PLANNING = (
    read_architectures,
    look_at_gpus,
    open_source,
    find_toolkits,
    make_plans,
    require_gpus,
)


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
        Keyword.AUTO in job.items and not (job.visible or job.visible_amd)
    )


def _choose(job: Job, archs: Archs) -> Toolkit | Rocm:
    """Choose by everything that the source and the flags ask of a toolkit."""
    request, tree = job.request, job.source
    assert tree is not None
    assert job.toolkits is not None
    choice: Choice | RocmChoice
    if isinstance(job.toolkits, RocmSearch):
        targets = [target for target in archs if isinstance(target, HipTarget)]
        choice = toolchain.choose_rocm(job.toolkits, targets, rocm_needs(request, tree))
    else:
        needed = [item for item in archs if isinstance(item, CudaArch)]
        choice = toolchain.choose(job.toolkits, needed, cublas=needs_cublas(request, tree))
    for rejected in choice.passed_over:
        job.notify(Note("detail", f"passed over {rejected}"))
    for text in choice.warnings:
        job.notify(Note("warning", text))
    return choice.toolkit


def _expanded(job: Job, toolkit: Toolkit | Rocm) -> Archs:
    assert job.source is not None
    if isinstance(toolkit, Rocm):
        return arch.expand_hip(job.items, visible=job.visible_amd, supported=toolkit.targets)
    return arch.expand(
        job.items,
        visible=job.visible,
        real=toolkit.real,
        virtual=toolkit.virtual,
        levels=job.source.levels,
        literal=job.request.literal,
    )


def _host_compiler(job: Job, toolkit: Toolkit | Rocm) -> HostCompiler:
    if isinstance(toolkit, Rocm):
        return toolkit.host_compiler
    compiler = toolchain.find_host_compiler(
        toolkit, job.environ, explicit=job.request.host_compiler, memo=job.memo
    )
    for text in compiler.notes:
        job.notify(Note("detail", text))
    return compiler
