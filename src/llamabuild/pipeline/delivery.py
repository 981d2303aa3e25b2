"""Bring a module to the llamafile that will load it: build or take it, inspect, verify, install."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamabuild import deliver, inspect
from llamabuild.deliver import Backups, Llamafile, Record, install
from llamabuild.deliver.install import Delivery
from llamabuild.deliver.places import Backend, loader_of
from llamabuild.errors import (
    ArchitectureError,
    DeliveryError,
    ToolchainError,
)
from llamabuild.events import Note
from llamabuild.inspect import Module
from llamabuild.memo import identity
from llamabuild.pipeline.building import build
from llamabuild.pipeline.fitness import fits, refuse_unfit, refuse_unserving, sources_of
from llamabuild.pipeline.serving import gpu_architecture
from llamabuild.pipeline.stages import Job, detect, open_source, plan
from llamabuild.pipeline.trying import module_to_try

if TYPE_CHECKING:
    from llamabuild.verify import Verdict

__all__ = ["Card", "Installed", "cards", "install_module", "open_backups"]


@dataclass(frozen=True)
class Card:
    """A GPU that a module is for.

    :param device: its number among the GPUs of its maker in this machine; none if it is not here.
    """

    name: str
    arch: str
    device: int | None

    @property
    def backend(self) -> Backend:
        """The kind of module that it runs."""
        return "rocm" if self.arch.startswith("gfx") else "cuda"


@dataclass(frozen=True)
class Installed:
    """What was done, or would be done.

    :param module: what the module was read to be; none where it is not built (``--dry-run``).
    :param verdicts: what trials on this machine's GPUs showed; none where none was made.
    :param record: of the change; none where nothing had to be changed, or was to be.
    """

    delivery: Delivery
    module: Module | None
    cards: tuple[Card, ...]
    verdicts: tuple[Verdict, ...]
    record: Record | None
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """The document of ``install --json``, but for its ``schema``."""
        delivery, module = self.delivery, self.module
        return {
            "llamafile": str(delivery.llamafile.path),
            "version": delivery.version,
            "told_by": delivery.llamafile.told_by,
            "place": {"where": delivery.place.where, "path": str(delivery.place.path)},
            "backend": delivery.place.backend,
            "module": None
            if module is None
            else {
                "path": str(module.path),
                "sha256": module.sha256,
                "archs": list(module.labels),
            },
            "gpus": [asdict(card) for card in self.cards],
            "verified": [list(verdict.summary) for verdict in self.verdicts],
            "unpacked": list(delivery.sources),
            "replaced": delivery.replaces.sha256 or None,
            "hidden_by": list(delivery.hidden_by),
            "remarks": list(delivery.remarks),
            "changed": self.record is not None,
            "dry_run": self.dry_run,
        }


def open_backups(job: Job) -> Backups:
    """Open the folder with what was replaced."""
    if job.request.backup_dir:
        return Backups((job.cwd / job.request.backup_dir).absolute())
    folder = deliver.backups_folder(job.environ)
    # The cache may be where anybody can write: it is there, and ours alone, before they are in it.
    return Backups(folder or job.store.create().parent / "backups")


def cards(job: Job) -> tuple[Card, ...]:
    """The GPUs that a user names with ``--for``, else those of this machine.

    :raises ArchitectureError: one of the names is not one GPU.
    """
    here: list[Card] = []
    for gpu in detect(job.environ).gpus:
        device = sum(card.arch.startswith("gfx") == (gpu.vendor == "amd") for card in here)
        here.append(Card(gpu.name, gpu.arch, device))
    if not job.request.for_gpus:
        return tuple(here)
    devices = {card.arch: card.device for card in reversed(here)}
    named = [(name, gpu_architecture(name)) for name in job.request.for_gpus]
    return tuple(Card(name, arch, devices.get(arch)) for name, arch in named)


def install_module(job: Job, named: Path) -> Installed:
    """Have a module for a llamafile, prove it, and put it where that llamafile takes it.

    Nothing is replaced before the module was read and, where the GPU is there, has multiplied.

    :param named: the llamafile, or its folder.
    :raises ArchitectureError: there is no GPU here, and none was named.
    :raises DeliveryError: the llamafile would not take the module, or the place is refused.
    :raises ModuleRejectedError: it would not run on the GPU, or it failed there.
    """
    llamafile = deliver.identify(job.cwd / named, version=job.request.llamafile_version)
    for text in llamafile.notes:
        job.notify(Note("info", text))
    version = llamafile.version
    name = llamafile.path.name
    job.notify(Note("info", f"{name} is llamafile {version}, by {llamafile.told_by}"))
    seen = identity(llamafile.path)
    wanted = cards(job)
    if not wanted:
        raise ArchitectureError(
            "there is no GPU in this machine, and none was named",
            hint="name the one that the llamafile will run on: --for 'gtx 1080'",
        )
    job, module = _module(job, llamafile, version, wanted)
    if module is None:
        backend = _expected(job, wanted)
        delivery = _delivery(job, llamafile, Path(), backend)
        _warn(job, delivery)
        return Installed(delivery, None, _of(job, wanted, backend), (), None, dry_run=True)
    backend = "rocm" if module.backend == "hip" else "cuda"
    wanted = _of(job, wanted, backend)
    made_of = _made_of(job, llamafile, module)
    for text in fits(module, version, embed=job.request.embed, made_of=made_of):
        job.notify(Note("warning", text))
    for card in wanted:
        refuse_unfit(module, card.name, card.arch)
    # Refused places are told before the trial.
    delivery = _delivery(job, llamafile, module.path, backend)
    if job.request.dry_run:
        _warn(job, delivery)
        return Installed(delivery, module, wanted, (), None, dry_run=True)
    verdicts = _verified(job, module, wanted)
    if identity(llamafile.path) != seen:
        raise DeliveryError(
            f"{llamafile.path} was changed meanwhile", hint="run the same command again"
        )
    delivery = _delivery(job, llamafile, module.path, backend)
    record = install.apply(delivery, open_backups(job), job.notify)
    _warn(job, delivery)
    return Installed(delivery, module, wanted, verdicts, record, dry_run=False)


def _module(
    job: Job, llamafile: Llamafile, version: str, wanted: tuple[Card, ...]
) -> tuple[Job, Module | None]:
    """The module; none if it would have to be built and nothing is to be done."""
    request = job.request
    if request.given_module:
        if llamafile.sources:  # what it is to be tried with
            job = replace(job, request=replace(request, source=str(llamafile.path)))
        return _with_source(job), inspect.read_module(module_to_try(job, request.given_module))
    spec = request.source
    if request.origin("source") != "--source" and llamafile.sources:
        spec = str(llamafile.path)
    if spec is None:
        spec = f"llamafile:{version}"
        text = f"{llamafile.path.name} carries no CUDA sources, as none since 0.10; taking {spec}"
        job.notify(Note("info", text))
    chosen: dict[str, Any] = {"source": spec}
    if request.origin("arch") == "default" and request.for_gpus:
        chosen["arch"] = ",".join(dict.fromkeys(card.arch for card in wanted))
    if request.flavor is None and loader_of(version).rule == "first":
        chosen["flavor"] = "self-contained"
    # Refused places are told before anything is compiled.
    _delivery(job, llamafile, Path(), _expected(job, wanted))
    job = plan(replace(job, request=replace(request, **chosen)))
    (made,) = job.plans
    for card in _of(job, wanted, _expected(job, wanted)):
        refuse_unserving(made.archs, card.name, card.arch)
    if request.dry_run:
        artifact = job.store.lookup(made.key, job.notify)
        return job, inspect.read_module(artifact.path) if artifact else None
    (built,) = build(job)
    return job, built.module


def _made_of(job: Job, llamafile: Llamafile, module: Module) -> str | None:
    """The release of the sources that a module was built from, or a range of them.

    A module that was built here of the llamafile's own sources is for that very llamafile.
    """
    if job.plans and llamafile.sources and job.request.source == str(llamafile.path):
        return llamafile.version
    return sources_of(module, job.store)


def _with_source(job: Job) -> Job:
    return open_source(job) if job.request.source else job


def _expected(job: Job, wanted: Sequence[Card]) -> Backend:
    """The backend of the module that will be built."""
    if job.plans:
        return "rocm" if job.plans[0].backend == "hip" else "cuda"
    if job.request.backend:
        return "rocm" if job.request.backend == "hip" else "cuda"
    return "cuda" if any(card.backend == "cuda" for card in wanted) else "rocm"


def _of(job: Job, wanted: tuple[Card, ...], backend: Backend) -> tuple[Card, ...]:
    """The GPUs that a module is for: all that are named, else those of its maker.

    :raises ArchitectureError: there is none.
    """
    found = tuple(card for card in wanted if card.backend == backend)
    if job.request.for_gpus:
        return wanted
    if not found:
        maker = "AMD" if backend == "rocm" else "NVIDIA"
        raise ArchitectureError(
            f"this is a module for {maker}'s GPUs, and there is none in this machine",
            hint="name the one that the llamafile will run on: --for 'gtx 1080'",
        )
    return found


def _delivery(job: Job, llamafile: Llamafile, module: Path, backend: Backend) -> Delivery:
    return install.plan(
        llamafile,
        module,
        backend=backend,
        system=_system(module),
        environ=job.environ,
        cwd=job.cwd,
        embed=job.request.embed,
    )


def _warn(job: Job, delivery: Delivery) -> None:
    for text in delivery.hidden_by:
        job.notify(Note("warning", text))


def _system(module: Path) -> str:
    """The system whose names count: a Windows module may be embedded on any."""
    return "windows" if module.suffix == ".dll" else deliver.system_name(sys.platform)


def _verified(job: Job, module: Module, wanted: tuple[Card, ...]) -> tuple[Verdict, ...]:
    """Run the module on each GPU that it is for and that is in this machine."""
    if not job.request.verify:
        return ()
    devices = [card.device for card in wanted if card.device is not None]
    if not devices:
        names = " and ".join(card.name for card in wanted)
        text = f"{names}: not in this machine, so the module was inspected and not run"
        job.notify(Note("warning", text))
    return tuple(_verified_on(job, module, device) for device in dict.fromkeys(devices))


def _verified_on(job: Job, module: Module, device: int) -> Verdict:
    from llamabuild import verify

    try:
        verdict = verify.verify(
            module.path,
            device=device,
            source=job.source,
            environ=job.environ,
            notify=job.notify,
        )
    except ToolchainError as error:
        error.hint = f"{error.hint}, or --no-verify"
        raise
    for line in verdict.summary:
        job.notify(Note("info", line))
    if verdict.error is not None:
        verdict.error.message += "\nnothing was installed"
        raise verdict.error
    return verdict
