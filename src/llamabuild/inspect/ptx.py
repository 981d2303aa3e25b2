"""Kernels inside PTX: text that the driver compiles, so its own words say which kernels give up."""

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
    //[^\n]* | /\*.*?\*/ | "[^"\n]*"                              # comments and texts: passed over
  | \.b8 \s+ (?P<table>[\w$%]+) \s* \[\d+\] \s* = \s* \{ (?P<bytes>[^}]*) \}
  | \.(?P<kind>entry|func)\b (?P<head>[^{};]*) (?P<end>[{;])
  | (?P<brace>[{}])
  | (?P<guard>@!?[\w$%]+\s+)? \b(?P<word>trap|brkpt|exit|ret|bra|brx|call)\b (?P<rest>[^;]*) ;
  | mov\.[bu]64 \s+ [\w$%]+ \s* , \s* (?P<address>[A-Za-z_$][\w$]*)
    """,
    re.VERBOSE | re.DOTALL,
)
_NAME = re.compile(rb"\s*(?:\([^)]*\)\s*)?([\w$%]+)")
_CALLEE = re.compile(rb"(?:\([^)]*\)\s*,\s*)?([A-Za-z_$][\w$]*)")
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


def kernels(text: memoryview) -> tuple[Kernel, ...]:
    """The kernels that PTX defines, in the order of the text.

    :raises Damaged: it is no PTX.
    """
    if b".version" not in bytes(text[:_PREAMBLE]):
        raise Damaged("it does not begin as PTX does")
    functions = {function.name: function for function in _functions(text)}
    # What a function that was not inlined does, its callers do.
    giving_up = {name for name, function in functions.items() if function.trap == "trapped"}
    while callers := {
        name
        for name, function in functions.items()
        if name not in giving_up and function.calls & giving_up
    }:
        giving_up |= callers
    return tuple(
        Kernel(
            function.name.decode("ascii", "replace"),
            "trapped" if function.name in giving_up else function.trap,
        )
        for function in functions.values()
        if function.launchable
    )


def _functions(text: memoryview) -> Iterator[_Function]:
    messages: set[bytes] = set()
    function: _Function | None = None
    depth = 0
    for token in _TOKEN.finditer(text):
        if token["table"] and _gives_up(token["bytes"]):
            messages.add(token["table"])
        elif token["kind"] and token["end"] == b"{" and function is None:
            name = _NAME.match(token["head"])
            if name is not None:
                function, depth = _Function(name[1], token["kind"] == b"entry"), 1
        elif function is None:
            continue
        elif token["brace"]:
            depth += 1 if token["brace"] == b"{" else -1
            if depth == 0:
                yield function
                function = None
        elif token["address"] in messages:
            function.trap = "trapped"
        elif token["word"]:
            _step(function, token["word"], token["rest"], guarded=bool(token["guard"]))


def _step(function: _Function, word: bytes, rest: bytes, *, guarded: bool) -> None:
    if word == b"call":
        if callee := _CALLEE.search(rest.removeprefix(b".uni")):
            function.calls.add(callee[1])
    elif word in _BRANCHES:
        function.straight = False
    elif function.trap != "trapped":
        function.trap = "trapped" if function.straight and not guarded else "suspect"


def _gives_up(numbers: bytes) -> bool:
    try:
        content = bytes(int(number) & 255 for number in numbers.split(b","))
    except ValueError:
        return False
    return traps.gives_up(content.partition(b"\0")[0])
