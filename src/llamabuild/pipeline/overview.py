"""Every llamafile and module that is found, and what each would do on this machine's GPUs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llamabuild import deliver, inspect
from llamabuild.deliver import embed
from llamabuild.deliver.places import canonical
from llamabuild.deliver.survey import Found, Seen, survey
from llamabuild.errors import LlamabuildError, UsageError
from llamabuild.inspect.report import relevant
from llamabuild.pipeline.delivery import Card, cards, open_backups
from llamabuild.pipeline.fitness import misfit
from llamabuild.pipeline.stages import Job

__all__ = ["Row", "Standing", "status"]


@dataclass(frozen=True)
class Row:
    """A module.

    :param active: whether the llamafile would take it on this machine, if it loads.
    :param verdicts: what it would do, by the name of the GPU.
    """

    found: Found
    active: bool
    verdicts: Mapping[str, str]


@dataclass(frozen=True)
class Standing:
    """A llamafile, or a folder of llamafile's, with the modules that it would look at."""

    seen: Seen
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """An element of ``found`` in ``status --json``."""
        llamafile = self.seen.llamafile
        return {
            "path": str(self.seen.path),
            "kind": llamafile.kind if llamafile else None,
            "version": llamafile.version if llamafile else None,
            "told_by": llamafile.told_by if llamafile else None,
            "problem": self.seen.problem or None,
            "compiles": list(self.seen.compiles),
            "modules": [
                {
                    **asdict(row.found),
                    "path": str(row.found.path),
                    "active": row.active,
                    "gpus": dict(row.verdicts),
                }
                for row in self.rows
            ],
        }


def status(job: Job, paths: Sequence[Path]) -> tuple[Standing, ...]:
    """Look at ``paths``, or where llamafiles and their modules usually are.

    :raises UsageError: a path leads nowhere, or the release that the user names is none.
    """
    for path in paths:
        if not os.path.lexists(job.cwd / path):
            raise UsageError(f"{path} does not exist", hint="name a llamafile, or its folder")
    if job.request.llamafile_version is not None:
        canonical(job.request.llamafile_version)
    known = {
        entry.artifact.manifest["sha256"]: entry.artifact.manifest["size_bytes"]
        for entry in job.store.entries(job.notify)
    }
    seen = survey(
        [job.cwd / path for path in paths],
        ours={**known, **open_backups(job).made_here()},
        system=deliver.system_name(sys.platform),
        environ=job.environ,
        cwd=job.cwd,
        version=job.request.llamafile_version,
    )
    wanted = cards(job)
    return tuple(
        Standing(
            one,
            tuple(
                Row(found, _active(found, one, wanted), _verdicts(found, wanted))
                for found in one.modules
            ),
        )
        for one in seen
    )


def _active(found: Found, seen: Seen, wanted: Sequence[Card]) -> bool:
    """Whether the llamafile would take it; without a GPU, whether it is the first of its kind."""
    return seen.taken({card.backend for card in wanted} or {found.backend}) == found


def _verdicts(found: Found, wanted: Sequence[Card]) -> dict[str, str]:
    if not wanted:
        return {}
    try:
        if not found.inside:
            return _read(found.path, wanted)
        with tempfile.TemporaryDirectory(prefix="llamabuild-") as folder:
            path = Path(folder, found.inside)
            with path.open("wb") as file:
                embed.extract(found.path, found.inside, file)
            return _read(path, wanted)
    except (LlamabuildError, OSError) as error:
        return {card.name: f"cannot be read: {error}" for card in wanted}


def _read(path: Path, wanted: Sequence[Card]) -> dict[str, str]:
    module = inspect.read_module(path)
    return {
        card.name: (misfit(inspect.coverage(module, card.arch)) or "would run")
        if relevant(module, card.arch)
        else "not for it"
        for card in wanted
    }
