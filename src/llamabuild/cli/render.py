"""How progress looks: a live line on a terminal, plain lines elsewhere, folded groups in CI.

Everything here goes to stderr; stdout belongs to results.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

from llamabuild.events import Event, Note, StepAdvanced, StepFinished, StepStarted

__all__ = ["Renderer", "duration", "size"]

#: Share of the work from which an estimate of the rest is worth showing.
_SURE_ENOUGH = 0.05


def duration(seconds: float) -> str:
    """``8 s``, ``3 min 20 s``, ``1 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(octets: int) -> str:
    """``512 B``, ``5.8 MB``: powers of ten, as disks are sold."""
    if octets < 1000:
        return f"{octets} B"
    value = float(octets)
    for unit in ("kB", "MB", "GB"):
        value /= 1000
        if value < 999.95:  # what would be rounded to 1000.0 is 1.0 of the next
            return f"{value:.1f} {unit}"
    return f"{value / 1000:.1f} TB"


class Renderer:
    """Listens to events and writes them to a stream, by default stderr.

    GitHub's runners get a group that folds for each step, a terminal gets a bar (unless TERM is
    ``dumb`` or CI is set), and all else gets a line for each event.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        verbose: int = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream or sys.stderr
        self._verbose = verbose
        self._quiet = quiet
        terminal = self._stream.isatty() and environ.get("TERM") != "dumb"
        self._folds = bool(environ.get("GITHUB_ACTIONS"))
        self._live = terminal and not environ.get("CI")
        # https://no-color.org and https://force-color.org: set, and not empty.
        self._colored = not environ.get("NO_COLOR") and (
            terminal or bool(environ.get("FORCE_COLOR"))
        )
        self._bar: _LiveBar | None = None
        self._began: float | None = None
        #: The notes that were shown, as plain lines.
        self.shown: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self._note(event)
        elif self._quiet:
            return
        elif isinstance(event, StepStarted):
            self._begin(event)
        elif isinstance(event, StepAdvanced):
            self._advance(event)
        else:
            self._finish(event)

    def close(self) -> None:
        """Take a live line away and end a group, for example before an error is printed."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._folds and self._began is not None:
            self._line("::endgroup::")
        self._began = None

    def _note(self, note: Note) -> None:
        if note.level == "warning":
            yellow, plain = ("\033[33m", "\033[0m") if self._colored else ("", "")
            self._line(f"{yellow}warning:{plain} {note.text}")
            self.shown.append(f"warning: {note.text}\n")
        elif not self._quiet and (note.level == "info" or self._verbose):
            self._line(note.text)
            self.shown.append(f"{note.text}\n")

    def _begin(self, event: StepStarted) -> None:
        self.close()
        self._began = time.monotonic()
        if self._folds:
            self._line(f"::group::{event.step}")
        elif self._live:
            self._bar = _LiveBar(self._stream, event.step, colored=self._colored)
        else:
            self._line(f"{event.step} ...")

    def _advance(self, event: StepAdvanced) -> None:
        if self._bar is not None:
            self._bar.advance(event)
            return
        elapsed = time.monotonic() - (self._began or time.monotonic())
        words = duration(elapsed)
        if event.share >= _SURE_ENOUGH and event.done < event.total:
            rest = elapsed * (1 - event.share) / event.share
            words += f", about {duration(rest)} left" if rest >= 1 else ""
        self._line(f"  [{event.done}/{event.total}] {event.label} ({words})")

    def _finish(self, event: StepFinished) -> None:
        self.close()
        self._line(f"{event.step}: done in {duration(event.seconds)}")

    def _line(self, text: str) -> None:
        if self._bar is not None:
            self._bar.print(text)
        else:
            self._stream.write(f"{text}\n")
            self._stream.flush()


class _LiveBar:
    """A bar with a count, a running clock and an estimate, drawn by rich."""

    def __init__(self, stream: TextIO, step: str, *, colored: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            # The names of files may hold brackets, which are rich's markup.
            TextColumn("{task.fields[label]}", style="dim", markup=False),
            console=Console(file=stream, force_terminal=True, no_color=not colored),
            transient=True,
        )
        self._task = self._progress.add_task(step, total=1.0, count="", label="")
        self._progress.start()

    def advance(self, event: StepAdvanced) -> None:
        self._progress.update(
            self._task,
            completed=event.share,
            count=f"{event.done}/{event.total}",
            label=event.label,
        )

    def print(self, text: str) -> None:
        """Write a line above the bar."""
        from rich.text import Text

        self._progress.console.print(Text.from_ansi(text), soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()
