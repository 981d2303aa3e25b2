"""What an architecture is: plain values that parse, print and sort."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from llamabuild.errors import ArchitectureError

__all__ = ["CudaArch", "HipTarget", "Item", "Keyword"]


class Keyword(StrEnum):
    """A word that stands for a set of architectures until :func:`expand` resolves it."""

    NATIVE = "native"
    AUTO = "auto"
    ALL = "all"
    ALL_MAJOR = "all-major"


@dataclass(frozen=True, order=True)
class CudaArch:
    """One NVIDIA architecture to generate code for. Sorts numerically: 9.0 comes before 12.0.

    :param number: compute capability times ten: 89 for 8.9, 120 for 12.0.
    :param suffix: ``""``; ``"a"`` (code for this architecture only) or ``"f"`` (for its family).
    :param virtual: PTX, which a driver compiles for any newer GPU, instead of machine code.
    """

    number: int
    suffix: str = ""
    virtual: bool = False

    @classmethod
    def from_code(cls, code: str) -> CudaArch:
        """Read the compiler's own name, ``sm_90a`` or ``compute_61``, known to us or not.

        :raises ArchitectureError: it is no such name.
        """
        match = re.fullmatch(r"(sm|compute)_([1-9][0-9]{1,2})([af]?)", code)
        if match is None:
            raise ArchitectureError(f"{code!r} is not a name such as sm_89 or compute_89")
        kind, number, suffix = match.groups()
        return cls(int(number), suffix, virtual=kind == "compute")

    @property
    def name(self) -> str:
        """``90a``: number and suffix, without saying machine code or PTX."""
        return f"{self.number}{self.suffix}"

    @property
    def capability(self) -> str:
        """``9.0a``: the compute capability as NVIDIA writes it."""
        return f"{self.number // 10}.{self.number % 10}{self.suffix}"

    @property
    def major(self) -> int:
        """9 for 9.0, 12 for 12.1."""
        return self.number // 10

    @property
    def compute(self) -> str:
        """``compute_90a``: the name of the PTX this is, or is made from."""
        return f"compute_{self.name}"

    @property
    def code(self) -> str:
        """``sm_90a`` or, for PTX, ``compute_90a``: what nvcc's ``code=`` takes."""
        return self.compute if self.virtual else f"sm_{self.name}"

    def gencode(self) -> str:
        """``arch=compute_89,code=sm_89``: the argument of nvcc's ``-gencode``."""
        return f"arch={self.compute},code={self.code}"

    def __str__(self) -> str:
        """``90a-real`` or ``61-virtual``, as CMake spells it."""
        return f"{self.name}-{'virtual' if self.virtual else 'real'}"


@dataclass(frozen=True, order=True)
class HipTarget:
    """One AMD target: ``gfx90a`` with the features it is pinned to, such as ``xnack-``."""

    name: str
    features: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``gfx90a:sramecc+:xnack-``, LLVM's target ID."""
        return ":".join((self.name, *self.features))


Item: TypeAlias = Keyword | CudaArch | HipTarget
