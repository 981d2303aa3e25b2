"""Kernels inside PTX: text that the driver compiles, so its own words say which kernels give up.

Every step goes on where the last one ended, so the time is bounded by the length of the text,
whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from llamabuild.inspect import traps
from llamabuild.inspect.image import Damaged
from llamabuild.inspect.model import Kernel, Trap

__all__ = ["kernels"]

_TOKEN = re.compile(
    rb"""
    (?P<skip> // | /\* | ")
  | (?P<brace> [{}])
  | (?P<table> \.b8\b)
  | (?P<head> \.(?:entry|func)\b)
  | (?P<guard> @!?[\w$%]{1,60}[ \t]{1,8})?
    \b(?P<word> trap|brkpt|exit|ret|bra|brx|call|mov\.[bu]64)\b
    """,
    re.VERBOSE,
)
_CLOSES = {b"//": b"\n", b"/*": b"*/", b'"': b'"'}
_END_OF_HEAD = re.compile(rb"[{;]")
#: ``(.param .b32 r) name (`` or ``name(``.
_NAME = re.compile(rb"\s*(?:\([^)]*\)\s*)?([\w$%]+)")
_CALLEE = re.compile(rb"(?:\.uni)?\s*(?:\([^)]*\)\s*,\s*)?([A-Za-z_$][\w$]*)")
_ADDRESS = re.compile(rb"\s*[\w$%]+\s*,\s*([A-Za-z_$][\w$]*)")
_TABLE = re.compile(rb"\s*([\w$%]+)\s*\[\d+\]\s*=\s*\{([^}]*)\}")
#: Bytes of the statement that holds a message as numbers, at most ", 255" for each.
_LONGEST_TABLE = 8 * traps.LONGEST_MESSAGE
#: Bytes of an instruction's operands that are looked at.
_LONGEST_REST = 1 << 12
#: Bytes within which the first directive stands, behind the compiler's comments.
_PREAMBLE = 1 << 14
_BRANCHES = (b"exit", b"ret", b"bra", b"brx")


@dataclass
class _Function:
    name: bytes
    launchable: bool
    trap: Trap = "none"
    straight: bool = True
    calls: set[bytes] = field(default_factory=set)

    def step(self, word: bytes, rest: bytes, messages: set[bytes], *, guarded: bool) -> None:
        """Take one instruction into account; ``rest`` is what follows its first word."""
        if word.startswith(b"mov"):
            address = _ADDRESS.match(rest)
            if address is not None and address[1] in messages:
                self.trap = "trapped"
        elif word == b"call":
            callee = _CALLEE.match(rest)
            if callee is not None:
                self.calls.add(callee[1])
        elif word in _BRANCHES:
            self.straight = False
        elif self.trap != "trapped":
            self.trap = "trapped" if self.straight and not guarded else "suspect"


def kernels(text: memoryview) -> tuple[Kernel, ...]:
    """The kernels that PTX defines, in the order of the text.

    :raises Damaged: it is no PTX.
    """
    if b".version" not in bytes(text[:_PREAMBLE]):
        raise Damaged("it does not begin as PTX does")
    functions = {function.name: function for function in _functions(bytes(text))}
    giving_up = _with_callers(functions)
    return tuple(
        Kernel(
            function.name.decode("ascii", "replace"),
            "trapped" if function.name in giving_up else function.trap,
        )
        for function in functions.values()
        if function.launchable
    )


def _with_callers(functions: dict[bytes, _Function]) -> set[bytes]:
    """Functions that give up, or call one that was not inlined and does."""
    callers: dict[bytes, list[bytes]] = {}
    for name, function in functions.items():
        for callee in function.calls:
            callers.setdefault(callee, []).append(name)
    found: set[bytes] = set()
    left = [name for name, function in functions.items() if function.trap == "trapped"]
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += callers.get(name, ())
    return found


def _functions(text: bytes) -> Iterator[_Function]:
    messages: set[bytes] = set()
    function: _Function | None = None
    depth = at = 0
    while token := _TOKEN.search(text, at):
        at = token.end()
        if token["skip"]:
            at = _behind(text, _CLOSES[token["skip"]], at)
        elif token["table"]:
            at = _behind(text, b";", at)
            messages |= _message(text[token.end() : at])
        elif token["head"]:
            head = _END_OF_HEAD.search(text, at)
            if head is None:
                return
            at = head.end()
            name = _NAME.match(text[token.end() : at])
            if head[0] == b"{" and function is None and name is not None:
                function, depth = _Function(name[1], token["head"] == b".entry"), 1
        elif function is None:
            continue
        elif token["brace"]:
            depth += 1 if token["brace"] == b"{" else -1
            if depth == 0:
                yield function
                function = None
        else:
            at = _behind(text, b";", at)
            rest = text[token.end() : at][:_LONGEST_REST]
            function.step(token["word"], rest, messages, guarded=bool(token["guard"]))


def _message(statement: bytes) -> set[bytes]:
    """The name of a table of bytes with which a source gives up, if it is one."""
    table = _TABLE.match(statement) if len(statement) < _LONGEST_TABLE else None
    return {table[1]} if table is not None and _gives_up(table[2]) else set()


def _behind(text: bytes, what: bytes, at: int) -> int:
    found = text.find(what, at)
    return len(text) if found < 0 else found + len(what)


def _gives_up(numbers: bytes) -> bool:
    try:
        content = bytes(int(number) & 255 for number in numbers.split(b","))
    except ValueError:
        return False
    return traps.gives_up(content.partition(b"\0")[0])
