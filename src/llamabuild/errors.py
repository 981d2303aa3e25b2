"""What can go wrong, one class per exit code of the command line.

Every message says what failed and why; ``hint`` holds the next thing to type or to install.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "ArchitectureError",
    "CompilationError",
    "DeliveryError",
    "InterruptedByUser",
    "LlamabuildError",
    "ModuleRejectedError",
    "SourceError",
    "StoreError",
    "ToolchainError",
    "UsageError",
]


class LlamabuildError(Exception):
    """Base of every error that a user can cause or mend.

    :param message: what failed and why, one or a few lines.
    :param hint: what to type or install next; empty when there is nothing to advise.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LlamabuildError):
    """The request itself cannot be understood (exit code 2)."""

    exit_code = 2


class ArchitectureError(LlamabuildError):
    """No GPU where one is needed, or an architecture that cannot be resolved (exit code 3)."""

    exit_code = 3


class ToolchainError(LlamabuildError):
    """A compiler, a build tool or a library is missing or unsuitable (exit code 4)."""

    exit_code = 4


class SourceError(LlamabuildError):
    """The source cannot be found, read, trusted or recognised (exit code 5)."""

    exit_code = 5


class CompilationError(LlamabuildError):
    """A compiler or linker failed on a sound plan (exit code 6)."""

    exit_code = 6


class ModuleRejectedError(LlamabuildError):
    """A finished module failed inspection or verification (exit code 7)."""

    exit_code = 7


class StoreError(LlamabuildError):
    """The cache folder or the file system is in trouble (exit code 8)."""

    exit_code = 8


class DeliveryError(LlamabuildError):
    """A module was refused at the place where its user would load it (exit code 9)."""

    exit_code = 9


class InterruptedByUser(LlamabuildError):
    """Ctrl-C or a termination signal (exit code 130)."""

    exit_code = 130
