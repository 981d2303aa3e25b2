"""Stand-ins for the programs that load a GPU module, to try a module as its user's program would.

``drive.py`` compiles and runs them; it can be started by hand, too.
"""

from __future__ import annotations

from .drive import (
    Case,
    HostError,
    Module,
    Outcome,
    classic_defines,
    compile_c,
    compile_classic,
    compile_ggml,
    compile_host,
    looked_up,
    run,
    try_without_gpu,
)

__all__ = [
    "Case",
    "HostError",
    "Module",
    "Outcome",
    "classic_defines",
    "compile_c",
    "compile_classic",
    "compile_ggml",
    "compile_host",
    "looked_up",
    "run",
    "try_without_gpu",
]
