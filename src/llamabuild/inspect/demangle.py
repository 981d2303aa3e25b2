"""Kernel names as their authors wrote them, without a demangler.

The part of the Itanium C++ ABI's mangling that names of kernels use: (nested) names and template
arguments. What a kernel returns and takes is left out, for nobody needs it to tell two kernels
apart. A name that needs more of the grammar is returned as it is.
"""

from __future__ import annotations

import re
from functools import lru_cache

__all__ = ["demangle", "family"]

_SIMPLE = dict(
    zip(
        "vwbcahstijlmxynofdegz",
        (
            *("void", "wchar_t", "bool", "char", "signed char", "unsigned char", "short"),
            *("unsigned short", "int", "unsigned int", "long", "unsigned long", "long long"),
            *("unsigned long long", "__int128", "unsigned __int128", "float", "double"),
            *("long double", "__float128", "..."),
        ),
        strict=True,
    )
)
_SIMPLE |= {"Dh": "__half", "Dn": "std::nullptr_t", "Di": "char32_t", "Ds": "char16_t"}
_SIMPLE |= {"Du": "char8_t", "Da": "auto", "DF16_": "_Float16", "DF16b": "__bf16"}
_STANDARD = {"a": "allocator", "b": "basic_string", "s": "string", "i": "istream", "o": "ostream"}
_POSTFIX = {"P": "*", "R": "&", "O": "&&", "K": " const", "V": " volatile"}
_SUFFIX = {"j": "u", "l": "l", "m": "ul", "x": "ll", "y": "ull"}
#: Template arguments within each other, beyond which nobody looks for the family.
_DEEPEST = 60
_LONGEST = 1 << 14
#: Characters remembered and repeated in all; a short name could double its length at every step.
_MOST_SPENT = 1 << 22
#: The namespace by which nvcc keeps a file's own functions apart, with numbers of the build.
_OF_ONE_FILE = re.compile(r"\b_INTERNAL_[0-9a-f]{1,16}_\d{1,9}_\w{1,400}?::")


class _Unknown(Exception):
    """More of the grammar than is known here."""


@lru_cache(maxsize=1 << 14)
def demangle(name: str) -> str:
    """``mul_mat_vec_q<32, block_q8_0>`` for ``_Z13mul_mat_vec_qILi32E10block_q8_0EvPKv``."""
    if not name.startswith("_Z") or len(name) > _LONGEST:
        return name
    try:
        return _OF_ONE_FILE.sub("", _Reader(name[2:]).name())
    except (_Unknown, IndexError, RecursionError):
        return name


def family(name: str) -> str:
    """The name of a kernel without namespaces and template arguments: ``mul_mat_vec_q``."""
    plain = demangle(name)
    for _ in range(_DEEPEST):
        plain, count = re.subn(r"<[^<>]*>", "", plain)
        if not count:
            break
    return plain.partition("<")[0].rpartition("::")[2]


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.spent = 0
        self.seen: list[str] = []  # what S_, S0_, … stand for
        self.arguments: list[str] = []  # what T_, T0_, … stand for

    # --- characters ------------------------------------------------------------------------------

    def ahead(self, *options: str) -> bool:
        return self.text.startswith(options, self.at)

    def take(self, option: str) -> bool:
        if self.text.startswith(option, self.at):
            self.at += len(option)
            return True
        return False

    def need(self, option: str) -> None:
        if not self.take(option):
            raise _Unknown

    def match(self, pattern: str) -> str:
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            raise _Unknown
        self.at = found.end()
        return found[0]

    def index(self) -> int:
        """``_`` is 0, ``0_`` is 1, ``A_`` is 11."""
        digits = self.match("[0-9A-Z]*")
        self.need("_")
        return int(digits, 36) + 1 if digits else 0

    def spend(self, text: str) -> str:
        self.spent += len(text)
        if self.spent > _MOST_SPENT:
            raise _Unknown
        return text

    def remember(self, text: str) -> str:
        self.seen.append(self.spend(text))
        return text

    # --- names -----------------------------------------------------------------------------------

    def name(self) -> str:
        if self.take("N"):
            return self.nested()
        if self.take("Z"):
            outer = self.encoding()
            self.need("E")
            if self.take("s"):
                return f"{outer}::string literal"
            inner = self.name()
            return f"{outer}::{inner}"
        if self.ahead("S") and not self.ahead("St"):
            text = self.substitution()
        else:
            text = "std::" if self.take("St") else ""
            text += self.part()
            if self.ahead("I"):
                self.remember(text)
        return text + self.template() if self.ahead("I") else text

    def nested(self) -> str:
        self.match("[rVK]*[RO]?")
        text = ""
        while not self.take("E"):
            if self.ahead("I"):
                text += self.template()
            elif self.ahead("S") and not self.ahead("St"):
                text = self.substitution()
                continue
            elif self.ahead("T"):
                text = self.parameter()
            elif self.take("St"):
                text = "std"
                continue
            else:
                text = f"{text}::{self.part(text)}" if text else self.part()
            if not self.ahead("E"):
                self.remember(text)
        return text

    def part(self, outer: str = "") -> str:
        """One name without its scope."""
        if self.take("Ut"):
            return f"{{unnamed type#{self.index() + 1}}}"
        if self.take("Ul"):
            self.types_until_end()
            return f"{{lambda#{self.index() + 1}}}"
        if self.ahead("C", "D"):
            kind = self.match("[CD][0-5]")
            last = re.sub(r"<.*", "", outer).rpartition("::")[2]
            return f"~{last}" if kind[0] == "D" else last
        self.take("L")
        length = int(self.match("[0-9]{1,5}"))
        text = self.text[self.at : self.at + length]
        if len(text) != length:
            raise _Unknown
        self.at += length
        while self.take("B"):
            tag = int(self.match("[0-9]{1,5}"))
            self.at += tag
        return "(anonymous namespace)" if text.startswith("_GLOBAL__N_") else text

    def encoding(self) -> str:
        """A function with the types it takes; they are read and dropped."""
        text = self.name()
        while not self.ahead("E") and self.at < len(self.text):
            self.type()
        return text

    def substitution(self) -> str:
        self.need("S")
        letter = self.text[self.at]
        if letter in _STANDARD:
            self.at += 1
            return f"std::{_STANDARD[letter]}"
        return self.spend(self.seen[self.index()])

    def parameter(self) -> str:
        self.need("T")
        index = self.index()
        return self.spend(self.arguments[index]) if index < len(self.arguments) else f"T{index}"

    def template(self) -> str:
        self.need("I")
        found: list[str] = []
        while not self.take("E"):
            found += self.argument()
        self.arguments = found
        text = ", ".join(found)
        return f"<{text} >" if text.endswith(">") else f"<{text}>"

    def argument(self) -> list[str]:
        if self.take("J"):
            found = []
            while not self.take("E"):
                found += self.argument()
            return found
        if self.take("X"):
            text = self.expression()
            self.need("E")
            return [text]
        return [self.literal() if self.ahead("L") else self.type()]

    def expression(self) -> str:
        if self.take("ad"):
            return f"&{self.expression()}"
        if self.ahead("L"):
            return self.literal()
        if self.ahead("T"):
            return self.parameter()
        raise _Unknown

    def literal(self) -> str:
        self.need("L")
        if self.take("_Z"):
            text = self.encoding()
            self.need("E")
            return text
        kind = self.text[self.at]
        of_type = self.type()
        value = self.match("n?[0-9]*").replace("n", "-")
        self.need("E")
        if kind == "b":
            return "true" if value == "1" else "false"
        if kind == "i" or kind in _SUFFIX:
            return value + _SUFFIX.get(kind, "")
        return f"({of_type}){value}"

    # --- types -----------------------------------------------------------------------------------

    def types_until_end(self) -> list[str]:
        found = []
        while not self.take("E"):
            found.append(self.type())
        return found

    def type(self) -> str:
        for length in (1, 2, 5):
            code = self.text[self.at : self.at + length]
            if code in _SIMPLE:
                self.at += length
                return _SIMPLE[code]
        if self.ahead("S") and not self.ahead("St"):
            text = self.substitution()
            return self.remember(text + self.template()) if self.ahead("I") else text
        if self.take("Dp"):
            return self.type()
        return self.remember(self.compound())

    def compound(self) -> str:
        letter = self.text[self.at]
        if letter in _POSTFIX:
            self.at += 1
            return _with_postfix(self.type(), _POSTFIX[letter])
        if self.take("F"):
            self.take("Y")
            returned, *taken = self.types_until_end() or ["void"]
            listed = "" if taken == ["void"] else ", ".join(taken)
            return f"{returned} ({listed})"
        if letter == "A":
            size = self.match("A[0-9]*_")[1:-1]
            return f"{self.type()} [{size}]"
        if letter == "T":
            return self.parameter()
        return self.name()


def _with_postfix(text: str, postfix: str) -> str:
    """Put ``*`` where C++ puts it: into the middle of a function's or an array's type."""
    head, separator, tail = text.partition(" (" if text.endswith(")") else " [")
    if separator and text.endswith((")", "]")):
        return f"{head} ({postfix}){separator.strip()}{tail}"
    return text + postfix
