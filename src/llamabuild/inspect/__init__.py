"""Reads finished GPU modules: what is inside, for which GPUs, and what would happen there."""

from __future__ import annotations

from llamabuild.inspect.check import check
from llamabuild.inspect.comparison import Comparison, compare
from llamabuild.inspect.coverage import Coverage, coverage
from llamabuild.inspect.model import Entry, Kernel, Module, Trap
from llamabuild.inspect.reader import read_module

__all__ = [
    "Comparison",
    "Coverage",
    "Entry",
    "Kernel",
    "Module",
    "Trap",
    "check",
    "compare",
    "coverage",
    "read_module",
]
