"""Runs a plan: the only room that starts compilers to build a module."""

from __future__ import annotations

from llamabuild.engine.build import Tools, compile_plan

__all__ = ["Tools", "compile_plan"]
