"""GPU architectures: parse, order, expand and name them. No I/O beyond the tables beside it."""

from __future__ import annotations

from llamabuild.arch.expansion import expand, missing, needed
from llamabuild.arch.facts import CudaRange, compilers, describe, known_cuda
from llamabuild.arch.model import CudaArch, HipTarget, Item, Keyword
from llamabuild.arch.names import product_archs, products
from llamabuild.arch.parsing import parse

__all__ = [
    "CudaArch",
    "CudaRange",
    "HipTarget",
    "Item",
    "Keyword",
    "compilers",
    "describe",
    "expand",
    "known_cuda",
    "missing",
    "needed",
    "parse",
    "product_archs",
    "products",
]
