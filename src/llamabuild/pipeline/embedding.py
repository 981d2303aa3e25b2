"""Put a module into a llamafile, or take one out, and know what llamafile makes of it."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamabuild import deliver, inspect
from llamabuild.deliver import FileState, Llamafile, Record, inside, install
from llamabuild.deliver import embed as embedding
from llamabuild.deliver.embed import Change
from llamabuild.deliver.places import Backend
from llamabuild.errors import DeliveryError, SourceError, UsageError
from llamabuild.events import Note
from llamabuild.inspect import Module
from llamabuild.pipeline.delivery import open_backups
from llamabuild.pipeline.fitness import fits, sources_of
from llamabuild.pipeline.stages import Job
from llamabuild.pipeline.trying import module_to_try

__all__ = ["Embedded", "embed_module", "remove_module"]

#: What a module's name says about its file and its GPUs.
_FORMATS = {".so": "elf", ".dll": "pe"}
_BACKENDS: dict[str, tuple[str, Backend]] = {
    "ggml-cuda": ("cuda", "cuda"),
    "ggml-rocm": ("hip", "rocm"),
}
_CODE = {"cuda": "code for NVIDIA GPUs", "hip": "code for AMD GPUs", None: "no GPU code"}
_SYSTEMS = {".so": "linux", ".dll": "windows", ".dylib": "macos"}


@dataclass(frozen=True)
class Embedded:
    """What was done to a llamafile, or would be.

    :param record: by which ``rollback`` takes it back; none where the llamafile was left alone.
    :param remarks: what its user should know, such as which module is still tried before.
    """

    change: Change
    record: Record | None
    remarks: tuple[str, ...]
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """The document of ``embed --json``, but for its ``schema``."""
        change = self.change
        return {
            "llamafile": str(change.path),
            "module": change.name,
            "action": change.action,
            "replaced": [
                {"size_bytes": member.size_bytes, "crc32": f"{member.crc32:08x}"}
                for member in change.dropped
            ],
            "size_bytes": change.size_after,
            "size_before": change.size_before,
            "remarks": list(self.remarks),
            "changed": change.written,
            "dry_run": self.dry_run,
        }


def embed_module(job: Job, named: Path, module: str) -> Embedded:
    """Put a module into a llamafile; the one that it replaces is kept for ``rollback``.

    :param named: the llamafile.
    :param module: a file, or the key of a cached module.
    :raises DeliveryError: that llamafile could not load it, or it is refused.
    :raises ModuleRejectedError: it is no module.
    """
    llamafile = _identify(job, named)
    path = module_to_try(job, module)
    _refuse_output(job, llamafile.path, path)
    name = embedding.module_name(path, job.request.inner_name)
    _refuse_unfit(job, inspect.read_module(path), name, llamafile)
    remarks = _remarks(job, llamafile, path, name)
    target, output = llamafile.path, _output(job)
    change = embedding.embed(
        target,
        path,
        name=name,
        output=output,
        dry_run=job.request.dry_run or output is None,
        notify=job.notify,
    )
    if job.request.dry_run or output or change.action == "unchanged":
        return Embedded(change, None, remarks, job.request.dry_run)
    record = inside.put(target, path, open_backups(job), _record(llamafile, name), job.notify)
    return Embedded(replace(change, written=True), record, remarks, dry_run=False)


def remove_module(job: Job, named: Path, name: str | None) -> Embedded:
    """Take a module out of a llamafile, and keep it for ``rollback``.

    :param name: of the module; it may be left open where only one is inside.
    :raises DeliveryError: there is none, or it is refused.
    :raises UsageError: there are several.
    """
    llamafile = _identify(job, named)
    _refuse_output(job, llamafile.path)
    target, output = llamafile.path, _output(job)
    name = name or _only(target)
    change = embedding.remove(
        target,
        name=name,
        output=output,
        dry_run=job.request.dry_run or output is None,
        notify=job.notify,
    )
    if job.request.dry_run or output:
        return Embedded(change, None, (), job.request.dry_run)
    backups, record = open_backups(job), _record(llamafile, name)
    record = inside.put_back(target, FileState(), backups, record, job.notify)
    return Embedded(replace(change, written=True), record, (), dry_run=False)


def _identify(job: Job, named: Path) -> Llamafile:
    llamafile = deliver.identify(job.cwd / named, version=job.request.llamafile_version)
    if llamafile.kind == "folder":
        raise DeliveryError(f"{named} is a folder of llamafile's", hint="name the llamafile")
    for text in llamafile.notes:
        job.notify(Note("info", text))
    return llamafile


def _output(job: Job) -> Path | None:
    return job.cwd / job.request.output if job.request.output else None


def _refuse_output(job: Job, *inputs: Path) -> None:
    """Let no copy take the place of what it is made of, of which nothing would be kept."""
    output = _output(job)
    for file in inputs:
        if output is not None and output.exists() and output.samefile(file):
            raise UsageError(
                f"--output would overwrite {file}", hint="name another file, or leave it out"
            )


def _record(llamafile: Llamafile, name: str) -> Record:
    return Record("embed", str(llamafile.path), " or ".join(llamafile.candidates), name)


def _only(llamafile: Path) -> str:
    names = sorted({member.name for member in embedding.modules(llamafile)})
    if not names:
        raise DeliveryError(f"{llamafile} has no GPU module inside")
    if len(names) > 1:
        raise UsageError(
            f"{llamafile} has {len(names)} modules inside: {', '.join(names)}",
            hint=f"llamabuild embed --remove {shlex.quote(str(llamafile))} {names[0]}",
        )
    return names[0]


def _refuse_unfit(job: Job, module: Module, name: str, llamafile: Llamafile) -> None:
    """Refuse what that name does not promise, and what none of the possible releases loads."""
    stem, suffix = Path(name).stem, Path(name).suffix
    if module.format != _FORMATS.get(suffix):
        raise DeliveryError(
            f"{module.path} is {_article(module.format.upper())} file, and {name} would not be",
            hint="say what it is with --name",
        )
    backend, _ = _BACKENDS.get(stem, (None, None))
    if backend is None:  # Vulkan, Metal: nobody here knows what llamafile asks of them
        return
    if module.backend != backend:
        raise DeliveryError(
            f"{module.path} has {_CODE[module.backend]}, and {name} promises {_CODE[backend]}",
            hint="say what it is with --name",
        )
    if not llamafile.candidates:
        job.notify(Note("warning", f"{llamafile.path} does not tell its release: not checked"))
    reasons = []
    made_of = sources_of(module, job.store)
    for release in llamafile.candidates:
        try:
            doubts = fits(module, release, embed=True, made_of=made_of)
        except DeliveryError as error:
            reasons.append(error)
        else:
            for text in doubts:
                job.notify(Note("warning", text))
            return
    if reasons:
        raise reasons[-1]


def _remarks(job: Job, llamafile: Llamafile, module: Path, name: str) -> tuple[str, ...]:
    """What llamafile would still take before the module inside, where that is known."""
    stem, suffix = Path(name).stem, Path(name).suffix
    if stem not in _BACKENDS or job.request.output:
        return ()
    with suppress(SourceError):  # its release is not known, so neither is what it does
        planned = install.plan(
            llamafile,
            module,
            backend=_BACKENDS[stem][1],
            system=_SYSTEMS[suffix],
            environ=job.environ,
            cwd=job.cwd,
            embed=True,
        )
        return (*planned.hidden_by, *planned.remarks)
    return ()


def _article(word: str) -> str:
    return f"an {word}" if word[0] in "AEIOU" else f"a {word}"
