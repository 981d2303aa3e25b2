"""Which kernels give up: found in machine code without a disassembler.

What the compilers emit, read from nvcc 11.8 and 13.0 for every architecture from 5.0 to 12.1:

* ``__trap()`` is one instruction whose encoding has not changed within a generation. 5.x and 6.x
  have words of 64 bits, every fourth of them scheduling; 7.0 and later have words of 128 bits.
* A source that has no code for an architecture prints a message and traps, often deep in a loop,
  so "the trap is reached on every path" would miss it. The message betrays it: the kernel refers
  to the text by a relocation, or reads its address from constant bank 4, which is relocated.
* ``assert`` calls ``__assertfail`` and needs no trap instruction.

So a kernel is ``trapped`` if it refers to a message of :data:`MESSAGES` (``messages.toml``) or if
nothing can branch away between its first instruction and a trap; it is ``suspect`` if it holds a
trap otherwise, for that may be a check of its arguments; else ``none``. (On 8.7 the compilers begin
every kernel with a branch, so there only a message makes it ``trapped``.)
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from llamabuild.inspect.model import Trap

__all__ = ["LONGEST_MESSAGE", "constant_slots", "gives_up", "messages_in", "verdict"]

#: Bytes of a message that are looked at.
LONGEST_MESSAGE = 1 << 10

#: The first architectures with instructions of 64 bits (Maxwell) and of 128 bits (Volta); older
#: ones are not known here.
_MAXWELL, _VOLTA = 50, 70

_OLD_TRAP = 0xE3A00000001000C0
_OLD_WORD = struct.Struct("<Q")
#: Instructions of 5.x and 6.x (their upper 12 bits) after which another one may come than the next:
#: 0xE2?, 0xE3? and SYNC, less the calls and the ones that only prepare a branch.
_OLD_HARMLESS = frozenset({0xE20, 0xE22, 0xE26, 0xE27, 0xE29, 0xE2A, 0xE2B, 0xE3A})
_OLD_SYNC = 0xF0F

_WORD = struct.Struct("<QQ")
#: BPT.TRAP 0x1, under any predicate (bits 12 to 15; 7 is "always").
_TRAP = re.compile(rb"\x5c.\x00\x00\x04\x00\x00\x00", re.DOTALL)
_BPT, _TRAP_KIND, _KIND_MASK = 0x95C, 0x300000, 0x700000
_ALWAYS = 7
#: Instructions of 7.0 and later (their lower 9 bits): control flow, less the calls and the ones
#: that only prepare a branch (CALL, BSSY, YIELD, WARPSYNC, LEPC, BMOV, BPT, NANOSLEEP).
_CONTROL = frozenset(range(0x140, 0x160))
_HARMLESS = frozenset({0x143, 0x144, 0x145, 0x146, 0x148, 0x14E, 0x155, 0x156, 0x157, 0x15C, 0x15D})
#: An instruction's form (bits 9 to 11) with a word of a constant bank among its operands.
_CONSTANT_FORMS = (3, 5)
_LDC, _NO_REGISTER = 0xB82, 0xFF
_LDCU = 0x7AC  # since 10.0; holds its offset one bit lower than the others
_ADDRESS_BANK = 4


@cache
def _messages() -> tuple[bytes, ...]:
    import tomllib

    table = tomllib.loads(Path(__file__).with_name("messages.toml").read_text("utf-8"))
    return tuple(message["text"].encode() for message in table["message"])


def gives_up(text: bytes) -> bool:
    """Is this what a source prints where it has no code for the architecture?"""
    return any(message in text for message in _messages())


def messages_in(data: memoryview) -> set[int]:
    """Where in ``data`` such texts begin; each follows a zero byte."""
    return {
        bytes(data[max(0, match.start() - LONGEST_MESSAGE) : match.start()]).rfind(b"\0")
        + 1
        + max(0, match.start() - LONGEST_MESSAGE)
        for message in _messages()
        for match in re.compile(re.escape(message)).finditer(data)
    }


def constant_slots(code: memoryview, arch: int) -> set[int]:
    """Byte offsets in constant bank 4, the addresses that a kernel uses, that ``code`` reads."""
    if arch < _VOLTA:
        return set()
    slots = set()
    for low, _ in _WORD.iter_unpack(code[: len(code) - len(code) % _WORD.size]):
        if low >> 54 & 31 != _ADDRESS_BANK or low >> 9 & 7 not in _CONSTANT_FORMS:
            continue
        operation = low & 0xFFF
        if operation == _LDCU:
            slots.add(low >> 37 & 0x1FFFF)
        elif operation != _LDC or low >> 24 & 0xFF == _NO_REGISTER:
            slots.add(low >> 38 & 0xFFFF)
    return slots


def verdict(code: memoryview, arch: int) -> Trap:
    """Judge machine code by its instructions alone, not by its messages."""
    if arch < _MAXWELL:
        return "unknown"
    first = next(_old_traps(code) if arch < _VOLTA else _traps(code), None)
    if first is None:
        return "none"
    at, always = first
    straight = _old_straight if arch < _VOLTA else _straight
    return "trapped" if always and straight(code[:at]) else "suspect"


def _old_traps(code: memoryview) -> Iterator[tuple[int, bool]]:
    for at, word in _old_words(code):
        if word == _OLD_TRAP:
            yield at, True


def _old_straight(code: memoryview) -> bool:
    for _, word in _old_words(code):
        operation = word >> 52
        control = operation >> 4 in (0xE2, 0xE3) and operation not in _OLD_HARMLESS
        if control or operation == _OLD_SYNC:
            return False
    return True


def _old_words(code: memoryview) -> Iterator[tuple[int, int]]:
    """The instructions: every fourth word, from the first on, schedules the three behind it."""
    whole = len(code) - len(code) % _OLD_WORD.size
    for index, (word,) in enumerate(_OLD_WORD.iter_unpack(code[:whole])):
        if index % 4:
            yield index * _OLD_WORD.size, word


def _traps(code: memoryview) -> Iterator[tuple[int, bool]]:
    """Where the traps are, and whether nothing makes them conditional."""
    for match in _TRAP.finditer(code):
        at = match.start()
        if at % _WORD.size == 0 and at + _WORD.size <= len(code):
            low, high = _WORD.unpack_from(code, at)
            if low & 0xFFF == _BPT and high & _KIND_MASK == _TRAP_KIND:
                yield at, low >> 12 & 0xF == _ALWAYS


def _straight(code: memoryview) -> bool:
    return all(
        (low & 0x1FF) not in _CONTROL or (low & 0x1FF) in _HARMLESS
        for low, _ in _WORD.iter_unpack(code)
    )
