"""One command line, taken apart, and how its results are printed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llamabuild.cli.render import Renderer
from llamabuild.errors import LlamabuildError, StoreError
from llamabuild.replay import Recorded
from llamabuild.settings import ARGUMENTS, Request

if TYPE_CHECKING:
    from llamabuild.pipeline import Job

__all__ = [
    "ARGUMENT_NAMES",
    "Call",
    "complain",
    "discard_stdout",
    "document",
    "say",
    "show",
    "table",
    "write",
]

ARGUMENT_NAMES = frozenset(
    argument.name for arguments in ARGUMENTS.values() for argument in arguments
)


@dataclass(frozen=True)
class Call:
    """One command line, taken apart."""

    argv: tuple[str, ...]
    request: Request
    arguments: Mapping[str, Any]
    environ: Recorded
    renderer: Renderer

    def start(self) -> Job:
        """Make a job of the request, here and now."""
        from llamabuild import pipeline

        return pipeline.start(self.request, self.environ, Path.cwd(), self.renderer)


def document(fields: Mapping[str, Any]) -> str:
    """One JSON document, as ``--json`` prints it."""
    return json.dumps({**fields, "schema": 1}, indent=2) + "\n"


def show(text: str) -> None:
    """Print a result.

    :raises StoreError: stdout is on a full disk, for example.
    :raises BrokenPipeError: its reader went away.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard_stdout()
        if isinstance(error, BrokenPipeError):
            raise
        raise StoreError(f"stdout cannot be written: {error.strerror}") from error


def discard_stdout() -> None:
    """Send what was not printed yet to nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(error: LlamabuildError) -> None:
    """Print an error, and what to do about it."""
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  try: {error.hint}\n")


def say(call: Call, text: str) -> None:
    """Print what is not a result."""
    if not call.request.quiet:
        sys.stderr.write(text)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def write(path: str, text: str) -> None:
    """Write a file that the user named."""
    try:
        Path(path).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}", hint="name another file"
        ) from error
