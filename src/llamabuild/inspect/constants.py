"""The text that a function returns, read from its machine code: what ``ggml_version()`` would say.

A function that does nothing but return a constant compiles to one address and a return, whatever
the compiler; anything else is not guessed at.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from llamabuild.inspect.image import Damaged

__all__ = ["returned_text"]

#: Bytes of code that such a function has at most, and of the text that it returns.
_LONGEST_CODE, _LONGEST_TEXT = 32, 80

#: endbr64; push rbp, mov rbp,rsp; lea rax,[rip+N]; pop rbp; ret. All but the lea and ret may lack.
_X86_64 = re.compile(
    rb"(?:\xf3\x0f\x1e\xfa)?(?:\x55\x48\x89\xe5)?\x48\x8d\x05(....)\x5d?\xc3", re.DOTALL
)
#: bti c; adrp x0,page; add x0,x0,#offset; ret. The first may lack, and a linker may have made
#: nop; adr x0,N of the two in the middle.
_AARCH64 = re.compile(
    rb"(?:\x5f\x24\x03\xd5)?"
    rb"(?:(...[\x90\xb0\xd0\xf0])(..[\x00-\x3f]\x91)|\x1f\x20\x03\xd5(...[\x10\x30\x50\x70]))"
    rb"\xc0\x03\x5f\xd6",
    re.DOTALL,
)
_TEXT = re.compile(rb"([\w.+~-]{1,64})\0", re.ASCII)
_INT, _WORD = struct.Struct("<i"), struct.Struct("<I")


def returned_text(read: Callable[[int, int], bytes], address: int, machine: str) -> str:
    """Return the version-like text that the function at ``address`` returns; empty if unknown.

    :param read: gives at most so many bytes of the loaded library at an address.
    """
    try:
        code = read(address, _LONGEST_CODE)
        where = _address_in(code, address, machine)
        found = None if where is None else _TEXT.match(read(where, _LONGEST_TEXT))
    except Damaged:
        return ""
    return found[1].decode() if found else ""


def _address_in(code: bytes, address: int, machine: str) -> int | None:
    if machine == "x86_64":
        found = _X86_64.match(code)
        return found and address + found.end(1) + int(_INT.unpack(found[1])[0])
    if machine == "aarch64":
        found = _AARCH64.match(code)
        return found and _aarch64(found, address)
    return None


def _aarch64(found: re.Match[bytes], address: int) -> int:
    if found[3]:
        return address + found.start(3) + _distance(found[3])
    page = (address + found.start(1) & ~0xFFF) + (_distance(found[1]) << 12)
    return page + (int(_WORD.unpack(found[2])[0]) >> 10 & 0xFFF)


def _distance(instruction: bytes) -> int:
    """What ADR counts in bytes, and ADRP in pages of 4 KiB: a signed number of 21 bits."""
    word = int(_WORD.unpack(instruction)[0])
    number = word >> 29 & 3 | (word >> 5 & 0x7FFFF) << 2
    return number - ((number & 1 << 20) << 1)
