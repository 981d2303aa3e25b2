"""Compilers and build tools: found, described, ranked for a request, and started cleanly."""

from __future__ import annotations

from llamabuild.toolchain.build_tools import find_build_tools
from llamabuild.toolchain.cuda import find_cuda
from llamabuild.toolchain.environment import compiler_environment, ignored_variables
from llamabuild.toolchain.host_compiler import find_host_compiler
from llamabuild.toolchain.model import (
    BuildTools,
    Choice,
    Cublas,
    HostCompiler,
    Machine,
    Rejected,
    System,
    Toolkit,
    ToolkitSearch,
)
from llamabuild.toolchain.rank import choose

__all__ = [
    "BuildTools",
    "Choice",
    "Cublas",
    "HostCompiler",
    "Machine",
    "Rejected",
    "System",
    "Toolkit",
    "ToolkitSearch",
    "choose",
    "compiler_environment",
    "find_build_tools",
    "find_cuda",
    "find_host_compiler",
    "ignored_variables",
]
