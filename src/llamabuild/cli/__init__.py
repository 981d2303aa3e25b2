"""The command line: parse, call, print. No decisions are made here."""

from __future__ import annotations

from llamabuild.cli.main import main

__all__ = ["main"]
