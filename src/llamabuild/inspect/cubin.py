"""Kernels inside a cubin: an ELF file for the GPU, one section of machine code per function."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from llamabuild.inspect import elf, traps
from llamabuild.inspect.image import Image
from llamabuild.inspect.model import Kernel, Trap

__all__ = ["kernels"]

_STT_FUNC = 2
#: In a symbol's ``st_other``: the host can launch it. (Device functions that were not inlined are
#: functions too, without this bit.)
_STO_CUDA_ENTRY = 0x10

_SHT_RELA, _SHT_REL = 4, 9
_RELOCATION = {_SHT_RELA: struct.Struct("<QIIq"), _SHT_REL: struct.Struct("<QII")}
_ADDRESSES = ".nv.constant4"

#: An attribute in ``.nv.info.KERNEL``: u8 format, u8 attribute, u16 value or, in format 4, size.
_ATTRIBUTE = struct.Struct("<BBH")
_SIZED, _CUDA_API_VERSION = 4, 0x37


def kernels(cubin: memoryview, arch: int) -> tuple[tuple[Kernel, ...], tuple[int, int] | None]:
    """The kernels that a cubin defines, in the order of its symbol table, and the CUDA it is from.

    :param arch: the number of its architecture: 61, 120.
    :raises Damaged: it is no readable ELF file.
    """
    file = elf.parse(Image(cubin))
    symbols = list(file.symbols())
    refers = _References(file, symbols)
    judged: dict[int, Trap] = {}  # by section, for symbols may share one
    found = []
    for symbol in symbols:
        if symbol.kind != _STT_FUNC or not symbol.other & _STO_CUDA_ENTRY:
            continue
        if not 0 < symbol.section < len(file.sections):  # 0: declared here, defined elsewhere
            continue
        if symbol.section not in judged:
            code = file.content(file.sections[symbol.section])
            judged[symbol.section] = (
                "trapped"
                if refers.gives_up(symbol.section, code, arch)
                else traps.verdict(code, arch)
            )
        found.append(Kernel(symbol.name, judged[symbol.section]))
    return tuple(found), _cuda(file)


class _References:
    """Which functions refer to a message with which a source gives up."""

    def __init__(self, file: elf.Elf, symbols: list[elf.Symbol]) -> None:
        self._file = file
        betraying = {index for index, symbol in enumerate(symbols) if self._is_message(symbol)}
        self._sections: set[int] = set()
        self._slots: set[int] = set()
        for section in file.sections if betraying else ():
            for offset, symbol in _relocations(file, section):
                if symbol in betraying:
                    if section.name.endswith(_ADDRESSES):
                        self._slots.add(offset)
                    else:
                        self._sections.add(section.info)

    def gives_up(self, section: int, code: memoryview, arch: int) -> bool:
        if section in self._sections:
            return True
        return bool(self._slots) and not self._slots.isdisjoint(traps.constant_slots(code, arch))

    def _is_message(self, symbol: elf.Symbol) -> bool:
        if not 0 < symbol.section < len(self._file.sections):
            return False
        section = self._file.sections[symbol.section]
        if section.name != ".nv.global.init":
            return False
        content = bytes(self._file.content(section)[symbol.value :][: traps.LONGEST_MESSAGE])
        return traps.gives_up(content.partition(b"\0")[0])


def _cuda(file: elf.Elf) -> tuple[int, int] | None:
    """(11, 8) where the first kernel's attributes say 118."""
    section = next((each for each in file.sections if each.name.startswith(".nv.info.")), None)
    image = Image(memoryview(b"") if section is None else file.content(section))
    at = 0
    while at + _ATTRIBUTE.size <= len(image):
        form, attribute, value = image.unpack(_ATTRIBUTE, at)
        at += _ATTRIBUTE.size
        if form == _SIZED:
            if attribute == _CUDA_API_VERSION:
                (number,) = image.unpack(struct.Struct("<I"), at)
                return number // 10, number % 10
            at += value
    return None


def _relocations(file: elf.Elf, section: elf.Section) -> Iterator[tuple[int, int]]:
    """(offset, index of the symbol) of each relocation in a section of relocations."""
    layout = _RELOCATION.get(section.kind)
    if layout is None:
        return
    rows = file.content(section)
    for offset, _, symbol, *_ in layout.iter_unpack(rows[: len(rows) - len(rows) % layout.size]):
        yield offset, symbol
