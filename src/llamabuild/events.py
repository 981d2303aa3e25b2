"""What the workers report while they work. Workers never print: they call a :data:`Listener`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = [
    "Event",
    "Listener",
    "Note",
    "StepAdvanced",
    "StepFinished",
    "StepStarted",
    "silent",
]


@dataclass(frozen=True)
class Note:
    """One sentence for the user.

    ``detail`` is shown with ``-v`` only, ``info`` unless ``-q`` was given, ``warning`` always.
    """

    level: Literal["detail", "info", "warning"]
    text: str


@dataclass(frozen=True)
class StepStarted:
    """A step that takes noticeable time begins."""

    step: str


@dataclass(frozen=True)
class StepAdvanced:
    """``done`` of ``total`` pieces of a step are finished; ``label`` names the latest one.

    ``share`` is the part of the expected work that is done, 0 to 1: pieces differ in cost.
    """

    step: str
    done: int
    total: int
    share: float
    label: str = ""


@dataclass(frozen=True)
class StepFinished:
    """A step ended well after ``seconds`` of wall time. (A step that fails raises instead.)"""

    step: str
    seconds: float


Event: TypeAlias = Note | StepStarted | StepAdvanced | StepFinished
Listener: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listen to nothing: the default of the Python API."""
