"""Kernels inside one entry: in a cubin (an ELF file for the GPU) and in PTX text."""

from __future__ import annotations

import re

from llamabuild.inspect import elf
from llamabuild.inspect.image import Image

__all__ = ["kernels_of_cubin", "kernels_of_ptx"]

_STT_FUNC = 2
#: In a symbol's ``st_other``: the host can launch it. (Device functions that were not inlined are
#: functions too, without this bit.)
_STO_CUDA_ENTRY = 0x10

_PTX_ENTRY = re.compile(
    rb"^[ \t]*(?:\.(?:visible|weak)[ \t]+)*\.entry[ \t]+([\w$%]+)", re.MULTILINE
)


def kernels_of_cubin(cubin: memoryview) -> tuple[str, ...]:
    """Mangled names of the kernels that a cubin defines, in the order of its symbol table.

    :raises Damaged: it is no readable ELF file.
    """
    return tuple(
        symbol.name
        for symbol in elf.parse(Image(cubin)).symbols()
        if symbol.kind == _STT_FUNC and symbol.other & _STO_CUDA_ENTRY and symbol.section
    )


def kernels_of_ptx(text: memoryview) -> tuple[str, ...]:
    """Mangled names of the kernels that PTX defines, in the order of the text."""
    return tuple(name.decode("ascii", "replace") for name in _PTX_ENTRY.findall(text))
