"""Back to a module that was there before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llamabuild.deliver import folders, inside
from llamabuild.deliver.exchange import exchange, of_state
from llamabuild.deliver.keep import Backups, FileState, Record, state_of
from llamabuild.errors import DeliveryError, UsageError
from llamabuild.events import Listener, silent

__all__ = ["Return", "apply", "choose", "history"]


@dataclass(frozen=True)
class Return:
    """What a rollback will do.

    :param files: by name, what each is to be again.
    :param undoes: numbers of the changes that are taken back.
    """

    target: Path
    module: str
    files: dict[str, FileState]
    undoes: tuple[int, ...]
    llamafile: str
    version: str


def history(backups: Backups, targets: Iterable[Path]) -> tuple[Record, ...]:
    """Every change of these folders and llamafiles, the oldest first."""
    found = [record for target in dict.fromkeys(targets) for record in backups.records(target)]
    return tuple(sorted(found, key=lambda record: (record.at, record.number)))


def choose(records: Sequence[Record], to: str | None = None) -> Return:
    """Decide what to go back to.

    :param records: from :func:`history`.
    :param to: none for before the last change that was not taken back yet; the number (from 1) of
        a change in ``records``, to go back to before it; or the first digits (at least six) of
        the SHA-256 of a module that was there once.
    :raises DeliveryError: there is nothing to go back to.
    :raises UsageError: ``to`` is neither.
    """
    if not records:
        raise DeliveryError(
            "there is nothing to go back to: llamabuild has replaced no module there",
            hint="llamabuild status LLAMAFILE shows what is there",
        )
    if to is None:
        return _before(records, _last(records))
    if to.isdecimal() and len(to) < 6:
        if not 1 <= int(to) <= len(records):
            raise DeliveryError(
                f"there is no change {to}: there are {len(records)}", hint="--list shows them"
            )
        return _before(records, records[int(to) - 1])
    return _with_digest(records, to.lower())


def apply(plan: Return, backups: Backups, notify: Listener = silent) -> Record:
    """Do it. What is there now is kept, too, so that a rollback can be taken back by digest.

    :raises DeliveryError: it is refused, or what is to come back is not kept any more.
    """
    record = Record("rollback", plan.llamafile, plan.version, plan.module, undoes=plan.undoes)
    if plan.target.is_file():
        (wanted,) = plan.files.values()
        return inside.put_back(plan.target, wanted, backups, record, notify)
    folders.check_folder(plan.target)
    wanted_files = {name: of_state(state, name, backups) for name, state in plan.files.items()}
    folders.make_folder(plan.target)
    return exchange(plan.target, plan.module, wanted_files, backups, record)


def _last(records: Sequence[Record]) -> Record:
    """The last change that can be taken back: one that happened, and was not taken back."""
    undone = {(record.target, number) for record in records for number in record.undoes}
    for record in reversed(records):
        taken_back = (record.target, record.number) in undone
        if record.action != "rollback" and not taken_back and not _as_before(record):
            return record
    raise DeliveryError(
        "there is nothing more to go back to: every change was taken back",
        hint="--list shows every module that was there; --to DIGEST brings one back",
    )


def _as_before(record: Record) -> bool:
    """Whether everything is as it was before a change: the change was interrupted."""
    target = Path(record.target)
    if record.action == "embed":
        return inside.state(target, record.module).sha256 == record.before[record.module].sha256
    return all(
        state_of(target / name).sha256 == state.sha256 for name, state in record.before.items()
    )


def _before(records: Sequence[Record], chosen: Record) -> Return:
    """The files as they were before a change, and so before all later ones of that folder."""
    files: dict[str, FileState] = {}
    undoes = []
    for record in records:
        if record.target == chosen.target and record.number >= chosen.number:
            for name, state in record.before.items():
                files.setdefault(name, state)
            if record.action != "rollback":
                undoes.append(record.number)
    return _to(chosen, files, tuple(undoes))


def _with_digest(records: Sequence[Record], digits: str) -> Return:
    if len(digits) < 6 or not set(digits) <= set("0123456789abcdef"):
        raise UsageError(
            f"{digits!r} is neither the number of a change nor the beginning of a digest",
            hint="--list shows both",
        )
    for record in reversed(records):
        if record.before[record.module].sha256.startswith(digits):
            return _before(records, record)
        if record.after[record.module].sha256.startswith(digits):
            return _to(record, dict(record.after), ())
    raise DeliveryError(f"no module {digits} was there", hint="--list shows those that were")


def _to(record: Record, files: dict[str, FileState], undoes: tuple[int, ...]) -> Return:
    return Return(
        Path(record.target), record.module, files, undoes, record.llamafile, record.version
    )
