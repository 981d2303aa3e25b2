"""Try a module in programs of its own: in Python where it is ours, else in a stand-in in C."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llamabuild import probe, run
from llamabuild.errors import ModuleRejectedError, ToolchainError, UsageError
from llamabuild.events import Listener, StepFinished, StepStarted, silent
from llamabuild.source import SourceTree
from llamabuild.verify import hosting
from llamabuild.verify.judging import judged, require_gpu
from llamabuild.verify.model import Timing, Timings, Unshown, Verdict
from llamabuild.verify.trial import Trial, attempt

__all__ = ["TIME_LIMIT", "bench", "verify"]

#: Seconds. The first product may wait for the driver to compile PTX.
TIME_LIMIT = 600.0


def verify(
    path: Path,
    *,
    device: int = 0,
    types: Sequence[str] = (),
    source: SourceTree | None = None,
    environ: Mapping[str, str],
    time_limit: float = TIME_LIMIT,
    notify: Listener = silent,
) -> Verdict:
    """Run a module on a GPU of this machine; what it does wrong stands in the verdict.

    :param device: which GPU, as the module counts them.
    :param types: names such as ``q4_0``; all if empty.
    :param source: what the module was built from. Needed to multiply with a ``classic`` or a ggml
        module: without it, the verdict says what was not shown.
    :param time_limit: seconds that each program which runs the module may take.
    :raises UsageError: there is no such file, or no such type.
    :raises ArchitectureError: there is no GPU to run it on.
    :raises ToolchainError: the module is ``bundled``, and numpy or gguf is missing.
    """
    trying = _Trying(path, device, tuple(types), environ, time_limit)
    step = f"verify {path.name}"
    notify(StepStarted(step))
    began = time.monotonic()
    trial = trying.in_child("multiply")
    verdict = trying.judged(trial)
    if verdict.passed and verdict.complete and verdict.flavor != "bundled":
        verdict = _driven(trying, source, verdict)
    if verdict.passed and not verdict.rows:  # then perhaps nobody has asked for a GPU yet
        require_gpu(probe.detect_gpus(environ))
    seconds = time.monotonic() - began
    notify(StepFinished(step, seconds))
    return replace(verdict, seconds=seconds)


def bench(
    path: Path,
    *,
    device: int = 0,
    types: Sequence[str] = (),
    columns: Sequence[int] = (1, 8, 512),
    shapes: Sequence[tuple[int, int]] = ((4096, 14336),),
    environ: Mapping[str, str],
    time_limit: float = TIME_LIMIT,
    notify: Listener = silent,
) -> Timings:
    """Time the products of a ``bundled`` module.

    :param columns: numbers of columns of activations (n).
    :param shapes: rows and columns of the weights (m, k).
    :raises UsageError: the module is of another flavor, or a shape is not possible.
    :raises ModuleRejectedError: it cannot be loaded, crashes or hangs.

    Otherwise as :func:`verify`.
    """
    if not columns or not shapes or min(*columns, *map(min, shapes)) < 1:
        raise UsageError("nothing has fewer than one row or column", hint="--columns 1,8,512")
    trying = _Trying(path, device, tuple(types), environ, time_limit)
    step = f"time {path.name}"
    notify(StepStarted(step))
    trial = trying.in_child("time", columns=list(columns), shapes=[list(one) for one in shapes])
    timed = trial.all("timing")
    verdict = trying.judged(trial)
    if verdict.error is not None:
        raise verdict.error
    if verdict.flavor != "bundled" or verdict.card is None:
        raise UsageError(
            f"{path} is a {verdict.flavor} module; only our own kernels can be timed",
            hint="llamabuild bench without a file takes them",
        )
    notify(StepFinished(step, trial.seconds))
    bandwidth = trial.said("copy_bytes_per_second", float, 0.0)
    try:
        return Timings(path, verdict.card, bandwidth, tuple(Timing(**row) for row in timed))
    except TypeError as error:
        raise ModuleRejectedError(f"{path}: its times cannot be read: {error}") from error


@dataclass(frozen=True)
class _Trying:
    """One module, and what every program that runs it is told."""

    path: Path
    device: int
    types: tuple[str, ...]
    environ: Mapping[str, str]
    time_limit: float

    def in_child(self, action: str, **more: Any) -> Trial:
        """Load it in Python; multiply or time, where it is ours."""
        if not self.path.is_file():
            what = "is not a file" if self.path.exists() else "does not exist"
            raise UsageError(f"{self.path} {what}", hint="name a module, .so or .dll")
        job = {
            "action": action,
            "module": str(self.path.absolute()),
            "device": self.device,
            "types": list(self.types),
            **more,
        }
        # This package and what it needs, wherever this interpreter found them.
        folders = os.pathsep.join(entry for entry in sys.path if entry)
        trial = self._attempt(
            [sys.executable, "-P", "-m", "llamabuild.verify.child"],
            [json.dumps(job)],
            run.environment(self.environ, update={"PYTHONPATH": folders}),
        )
        if not trial.said("ready", bool, False):
            raise ToolchainError(
                f"the Python that is to load the module {trial.ending}\n{trial.words}",
                hint=f"{sys.executable} -P -c 'import llamabuild.verify' must work",
            )
        unusable = trial.said("unusable", str, "")
        if unusable:
            raise ToolchainError(
                f"the reference is computed with numpy and gguf, which cannot be used: {unusable}",
                hint="pip install --upgrade 'llamabuild[verify]'",
            )
        known = trial.said("types", list, [])
        if known:
            self._check_types([str(name) for name in known])
        return trial

    def in_host(self, program: Path) -> Trial:
        """Load it in a stand-in; multiply."""
        self._check_types(hosting.TYPES)
        return self._attempt(
            [program], [str(self.path.absolute()), str(self.device), *self.types], self.environ
        )

    def judged(self, trial: Trial) -> Verdict:
        return judged(self.path, self.device, self.environ, trial)

    def _attempt(
        self, argv: Sequence[str | Path], rest: Sequence[str], environ: Mapping[str, str]
    ) -> Trial:
        try:
            return attempt(argv, rest, environ=environ, time_limit=self.time_limit)
        except run.CannotStart as error:
            raise ToolchainError(f"no program can load the module: {error}") from error

    def _check_types(self, known: Sequence[str]) -> None:
        unknown = {name.lower() for name in self.types} - {name.lower() for name in known}
        if unknown:
            raise UsageError(
                f"no products of {', '.join(sorted(unknown))} can be tried with {self.path.name}",
                hint=f"--types takes any of {', '.join(known)}",
            )


def _driven(trying: _Trying, source: SourceTree | None, loaded: Verdict) -> Verdict:
    """Multiply with a module that our own child cannot drive, in a stand-in for its program."""
    products = f"products ({', '.join(hosting.TYPES)})"
    if source is None:
        why = f"a {loaded.flavor} module is driven with the headers of what it was built from"
        return replace(loaded, not_shown=(Unshown(products, why, "name that with --source"),))
    with tempfile.TemporaryDirectory(prefix="llamabuild-verify-") as folder:
        try:
            program = hosting.compile_host(source, Path(folder, "host"), trying.environ)
        except hosting.CannotCompile as error:
            hint = "it takes gcc or clang, and the source of this very module as --source"
            return replace(loaded, not_shown=(Unshown(products, str(error), hint),))
        driven = trying.judged(trying.in_host(program))
    return replace(
        driven,
        flavor=loaded.flavor,
        card=driven.card or loaded.card,
        shown=tuple(dict.fromkeys((*loaded.shown, *driven.shown))),
    )
