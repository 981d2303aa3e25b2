"""What a trial of a module shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from llamabuild.errors import ModuleRejectedError

__all__ = ["Card", "Row", "Timing", "Timings", "Unshown", "Verdict"]


@dataclass(frozen=True)
class Card:
    """The GPU that a module ran on.

    :param arch: its compute capability, "61" for 6.1; "" where the module cannot tell (AMD).
    :param code: the architecture of the module's code that the driver chose; "" if unknown.
    """

    index: int
    name: str
    arch: str = ""
    code: str = ""

    def __str__(self) -> str:
        parts = [self.name, *([f"compute capability {_dotted(self.arch)}"] if self.arch else [])]
        if self.code:
            parts.append(f"running the code for {_dotted(self.code)}")
        return f"GPU {self.index}: {', '.join(parts)}"


@dataclass(frozen=True)
class Row:
    """One product: an m x k matrix of ``type`` times k x n.

    :param path: how it was computed ("dp4a", "tensor"); "" where the module does not say.
    :param error: ``||out - ref|| / ||ref||`` against a float64 reference; none if not a number.
    :param same: the same against a reference whose activations are rounded as the module does it;
        none where nobody knows how it does, or where it is not a number.
    :param form: "plain"; or, of our own kernels, "batched" (several such products at once) or
        "grouped" (as a mixture of experts picks them).
    """

    type: str
    m: int
    n: int
    k: int
    path: str
    error: float | None
    same: float | None
    right: bool
    form: str = "plain"


@dataclass(frozen=True)
class Unshown:
    """What was not shown, why, and what would show it; ``hint`` is "" where nothing would."""

    what: str
    why: str
    hint: str = ""

    def __str__(self) -> str:
        return f"not shown: {self.what}: {self.why}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True)
class Verdict:
    """What is known of a module after it ran.

    :param flavor: ``bundled``, ``classic``, ``self-contained``, ``backend-dl``, or "" if the
        module could not even be loaded.
    :param shown: what went well, one sentence each.
    :param error: why the module failed; none if nothing went wrong.
    :param words: the last lines that the module and the driver printed.
    :param seconds: wall time of the trial.
    """

    path: Path
    flavor: str
    card: Card | None
    shown: tuple[str, ...]
    rows: tuple[Row, ...]
    not_shown: tuple[Unshown, ...]
    error: ModuleRejectedError | None
    words: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Nothing that was tried went wrong. ``not_shown`` says what was not tried."""
        return self.error is None

    @property
    def complete(self) -> bool:
        """All that can be asked of a module was tried."""
        return not self.not_shown

    @property
    def summary(self) -> tuple[str, ...]:
        """The verdict in a few lines of text."""
        lines = [str(self.card)] if self.card else []
        lines += self.shown
        if self.rows:
            right = sum(row.right for row in self.rows)
            types = len({row.type for row in self.rows})
            lines.append(f"{right} of {len(self.rows)} products of {types} types are right")
        lines += map(str, self.not_shown)
        return tuple(lines)

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """One line for each type and path, a header first; () if nothing was multiplied."""
        if not self.rows:
            return ()
        header = ("type", "path", "products", "wrong", "worst error", "same activations")
        return (header, *map(_table_row, _grouped(self.rows)))

    def to_json(self) -> dict[str, Any]:
        """The document of ``verify --json``, but for its ``schema``."""
        document: dict[str, Any] = {
            "file": str(self.path),
            "flavor": self.flavor,
            "gpu": asdict(self.card) if self.card else None,
            "passed": self.passed,
            "shown": list(self.shown),
            "rows": [asdict(row) for row in self.rows],
            "not_shown": [asdict(one) for one in self.not_shown],
            "words": self.words,
            "seconds": round(self.seconds, 3),
        }
        if self.error is not None:
            document["error"] = {
                "code": self.error.exit_code,
                "type": type(self.error).__name__,
                "message": self.error.message,
                "hint": self.error.hint,
            }
        return document


@dataclass(frozen=True)
class Timing:
    """One product, timed.

    :param microseconds: the median over several runs; ``least`` and ``most`` of them.
    :param bytes_per_second: of weights, activations and results, each counted once.
    :param operations_per_second: multiplications and additions.
    :param share: ``bytes_per_second`` as a part of what the card's own copy moves.
    """

    type: str
    m: int
    n: int
    k: int
    path: str
    microseconds: float
    least: float
    most: float
    bytes_per_second: float
    operations_per_second: float
    share: float


@dataclass(frozen=True)
class Timings:
    """What ``bench`` measured.

    :param copy_bytes_per_second: read and written by a large copy inside the card's memory.
    """

    path: Path
    card: Card
    copy_bytes_per_second: float
    rows: tuple[Timing, ...]

    @property
    def table(self) -> tuple[tuple[str, ...], ...]:
        """One line for each product, a header first."""
        header = ("type", "m", "n", "k", "path", "us", "GB/s", "of copy", "TFLOP/s")
        return (
            header,
            *(
                (
                    row.type,
                    str(row.m),
                    str(row.n),
                    str(row.k),
                    row.path,
                    f"{row.microseconds:.1f}",
                    f"{row.bytes_per_second / 1e9:.0f}",
                    f"{row.share:.0%}",
                    f"{row.operations_per_second / 1e12:.1f}",
                )
                for row in self.rows
            ),
        )

    def to_json(self) -> dict[str, Any]:
        """The document of ``bench --json``, but for its ``schema``."""
        return {
            "file": str(self.path),
            "gpu": asdict(self.card),
            "copy_bytes_per_second": self.copy_bytes_per_second,
            "rows": [asdict(row) for row in self.rows],
        }


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    def key(row: Row) -> tuple[str, str]:
        return row.type, row.path

    order = {name: place for place, name in enumerate(dict.fromkeys(map(key, rows)))}
    return [list(group) for _, group in groupby(sorted(rows, key=lambda row: order[key(row)]), key)]


def _table_row(rows: Sequence[Row]) -> tuple[str, ...]:
    return (
        rows[0].type,
        rows[0].path or "-",
        _counted(rows),
        _counted([row for row in rows if not row.right]),
        _worst([row.error for row in rows]),
        _worst([row.same for row in rows]) if rows[0].path else "-",
    )


def _counted(rows: Sequence[Row]) -> str:
    """``36 + 5 batched``: how many of each form."""
    counts = Counter(row.form for row in rows).items()
    parts = (str(count) if form == "plain" else f"{count} {form}" for form, count in counts)
    return " + ".join(parts) or "-"


def _worst(errors: Sequence[float | None]) -> str:
    numbers = [error for error in errors if error is not None]
    return f"{max(numbers):.1e}" if len(numbers) == len(errors) else "not a number"


def _dotted(arch: str) -> str:
    """``6.1`` for 61."""
    return f"{arch[:-1]}.{arch[-1]}" if arch.isdecimal() and len(arch) > 1 else arch
