"""GPU architectures: parse, order, expand and name them. No I/O beyond the tables beside it."""

from __future__ import annotations

from llamabuild.arch.expansion import expand, missing, needed
from llamabuild.arch.facts import CudaRange, compilers, describe, known_cuda
from llamabuild.arch.hip import expand_hip, hip_target, known_hip, needed_hip, sorted_targets
from llamabuild.arch.model import CudaArch, HipTarget, Item, Keyword
from llamabuild.arch.names import product_archs, products
from llamabuild.arch.overrides import (
    Override,
    gfx_target,
    gfx_version,
    known_wrong,
    listed_targets,
    override_for,
    runs_natively,
)
from llamabuild.arch.parsing import parse, parse_gpu

__all__ = [
    "CudaArch",
    "CudaRange",
    "HipTarget",
    "Item",
    "Keyword",
    "Override",
    "compilers",
    "describe",
    "expand",
    "expand_hip",
    "gfx_target",
    "gfx_version",
    "hip_target",
    "known_cuda",
    "known_hip",
    "known_wrong",
    "listed_targets",
    "missing",
    "needed",
    "needed_hip",
    "override_for",
    "parse",
    "parse_gpu",
    "product_archs",
    "products",
    "runs_natively",
    "sorted_targets",
]
