"""What a report is made of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Line", "Report", "Section", "Status"]

#: ``note`` is worth knowing, ``trouble`` will keep something from working.
Status = Literal["ok", "note", "trouble"]
_WORST_LAST: tuple[Status, ...] = ("ok", "note", "trouble")


@dataclass(frozen=True)
class Line:
    """One finding, and the command (or the deed) that mends it."""

    status: Status
    text: str
    cure: str = ""


@dataclass(frozen=True)
class Section:
    """The findings about one part of the machine."""

    name: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Report:
    """Everything that was found."""

    sections: tuple[Section, ...]

    @property
    def status(self) -> Status:
        """The worst of all lines."""
        found = [line.status for section in self.sections for line in section.lines]
        return max(found, key=_WORST_LAST.index, default="ok")

    def to_json(self) -> dict[str, Any]:
        """What ``doctor --json`` prints."""
        return {"status": self.status, "sections": [asdict(section) for section in self.sections]}
