"""Runs a plan: the only room that starts compilers to build a module."""

from __future__ import annotations

from llamabuild.engine.build import compile_plan
from llamabuild.engine.site import Tools

__all__ = ["Tools", "compile_plan"]
