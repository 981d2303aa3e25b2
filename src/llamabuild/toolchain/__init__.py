"""Compilers and build tools: found, described, ranked for a request, and started cleanly."""

from __future__ import annotations

from llamabuild.toolchain.build_tools import find_build_tools
from llamabuild.toolchain.cuda import find_cuda
from llamabuild.toolchain.environment import (
    compiler_environment,
    hip_environment,
    ignored_variables,
)
from llamabuild.toolchain.host_compiler import find_host_compiler
from llamabuild.toolchain.model import (
    BuildTools,
    Choice,
    Cublas,
    Hipblas,
    HostCompiler,
    Machine,
    Rejected,
    Rocm,
    RocmSearch,
    System,
    Toolkit,
    ToolkitSearch,
)
from llamabuild.toolchain.rank import choose
from llamabuild.toolchain.rocm import find_rocm
from llamabuild.toolchain.rocm_rank import RocmChoice, RocmNeeds, choose_rocm

__all__ = [
    "BuildTools",
    "Choice",
    "Cublas",
    "Hipblas",
    "HostCompiler",
    "Machine",
    "Rejected",
    "Rocm",
    "RocmChoice",
    "RocmNeeds",
    "RocmSearch",
    "System",
    "Toolkit",
    "ToolkitSearch",
    "choose",
    "choose_rocm",
    "compiler_environment",
    "find_build_tools",
    "find_cuda",
    "find_host_compiler",
    "find_rocm",
    "hip_environment",
    "ignored_variables",
]
