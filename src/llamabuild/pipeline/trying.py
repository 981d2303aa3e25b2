"""Which module ``verify`` and ``bench`` try, and what it was built from."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from llamabuild import inspect, probe
from llamabuild.errors import ArchitectureError, ModuleRejectedError, UsageError
from llamabuild.events import Note
from llamabuild.pipeline.building import build
from llamabuild.pipeline.stages import Job, open_source, plan
from llamabuild.source import SourceTree
from llamabuild.source.bundled import BUNDLED

__all__ = ["module_to_try", "source_to_try"]


def module_to_try(job: Job, named: str | None, device: int = 0) -> Path:
    """Return the file of a module.

    :param named: a file, or the key of a cached module or its beginning. None: our own kernels for
        this machine's GPU, the latest used of the cache, or else built.
    :raises UsageError: there is neither a file nor a cached module of that name.
    :raises ArchitectureError: there is no GPU for which our own kernels could be had.
    """
    if named is not None:
        return _named(job, named)
    detection = probe.detect_gpus(job.environ)
    if device >= len(detection.gpus):
        problem = detection.problems[0].message if not detection.gpus else ""
        raise ArchitectureError(
            f"there is no GPU {device} to try our own kernels on"
            + (f": {problem}" if problem else f", only {len(detection.gpus)}"),
            hint="llamabuild detect shows what programs see here",
        )
    gpu = detection.gpus[device]
    request = replace(job.request, source=BUNDLED, arch=gpu.arch)
    kernels = open_source(replace(job, request=request)).source
    assert kernels is not None
    for entry in job.store.entries(job.notify):
        artifact = entry.artifact
        ours = artifact.manifest["source"]["digest"] == kernels.digest  # not those of last month
        if ours and _made_for(artifact.path, gpu.arch):
            job.notify(Note("info", f"our own kernels, cached as {artifact.key[:12]}"))
            return artifact.path
    job.notify(Note("info", f"building our own kernels for {gpu.name}, {gpu.arch}"))
    (built,) = build(plan(replace(job, request=request)))
    return built.path


def source_to_try(job: Job, module: Path) -> SourceTree | None:
    """Open what a user says that a module was built from; None if nothing was said.

    :raises UsageError: the cache knows that it was built from something else. A program that is
        compiled with the wrong headers would crash, and the module get the blame.
    """
    tree = open_source(job).source if job.request.source else None
    if tree is not None and module.parent.parent == job.store.base:
        artifact = job.store.lookup(module.parent.name, job.notify)
        built_from = artifact.manifest["source"] if artifact else {"digest": tree.digest}
        if built_from["digest"] != tree.digest:
            raise UsageError(
                f"{module} was not built from {tree.origin}, but from {built_from['kind']} "
                f"{built_from['version'] or '(unknown version)'} with other contents",
                hint="name that with --source",
            )
    return tree


def _named(job: Job, named: str) -> Path:
    path = Path(job.cwd, named)
    if path.exists():
        return path
    if re.fullmatch(r"[0-9a-f]{4,64}", named):
        return job.store.find(named, job.notify).path
    raise UsageError(
        f"{named} does not exist, and is no key of a cached module",
        hint="name a module, .so or .dll, or a key that `llamabuild cache list` shows",
    )


def _made_for(path: Path, arch: str) -> bool:
    """Whether all of a module's code is for this very architecture."""
    try:
        return inspect.coverage(inspect.read_module(path), arch).runs == "native"
    except (UsageError, ModuleRejectedError):  # gone, or not what it was
        return False
