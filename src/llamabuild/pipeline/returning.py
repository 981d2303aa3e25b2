"""Bring back what an installation replaced."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamabuild import deliver
from llamabuild.deliver import Record, rollback
from llamabuild.deliver.rollback import Return
from llamabuild.pipeline.delivery import open_backups
from llamabuild.pipeline.stages import Job

__all__ = ["Change", "Returned", "changes", "roll_back"]


@dataclass(frozen=True)
class Change:
    """A change that was made, with the number that ``--to`` takes."""

    number: int
    record: Record

    @property
    def cells(self) -> tuple[str, ...]:
        """As ``rollback --list`` shows it."""
        record = self.record
        before, after = (states[record.module].sha256 for states in (record.before, record.after))
        when = record.at[:19].replace("T", " ")
        shown = [digest[:12] or "none" for digest in (before, after)]
        return (str(self.number), when, record.action, record.target, *shown)

    def to_json(self) -> dict[str, Any]:
        """An element of ``changes`` in ``rollback --list --json``."""
        record = self.record
        return {
            "number": self.number,
            "at": record.at,
            "action": record.action,
            "target": record.target,
            "llamafile": record.llamafile,
            "version": record.version,
            "module": record.module,
            "before": record.before[record.module].sha256 or None,
            "after": record.after[record.module].sha256 or None,
        }


@dataclass(frozen=True)
class Returned:
    """What was brought back, or would be."""

    plan: Return
    dry_run: bool

    def to_json(self) -> dict[str, Any]:
        """The document of ``rollback --json``, but for its ``schema``."""
        return {
            "target": str(self.plan.target),
            "module": self.plan.module,
            "sha256": self.plan.files[self.plan.module].sha256 or None,
            "files": {name: state.sha256 or None for name, state in self.plan.files.items()},
            "dry_run": self.dry_run,
        }


def changes(job: Job, named: Path) -> tuple[Change, ...]:
    """Every change of the folders in which a llamafile looks, the oldest first."""
    records = rollback.history(open_backups(job), _targets(job, named))
    return tuple(Change(number, record) for number, record in enumerate(records, 1))


def roll_back(job: Job, named: Path) -> Returned:
    """Go back by one change, or to what ``--to`` names.

    :raises DeliveryError: there is nothing to go back to, or it is refused.
    """
    backups = open_backups(job)
    chosen = rollback.choose(rollback.history(backups, _targets(job, named)), job.request.to)
    if not job.request.dry_run:
        rollback.apply(chosen, backups, job.notify)
    return Returned(chosen, job.request.dry_run)


def _targets(job: Job, named: Path) -> Iterator[Path]:
    """The llamafile, and every folder in which it may look, whichever release it is."""
    llamafile = deliver.identify(job.cwd / named, version=job.request.llamafile_version)
    yield llamafile.path
    for release in llamafile.candidates:
        for system in (deliver.system_name(sys.platform), "windows"):
            order = deliver.search_order(release, system, job.environ, llamafile.path, job.cwd)
            yield from (place.path.parent for place in order if place.where != "zip")
