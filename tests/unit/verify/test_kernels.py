"""What Python believes of the C interface, against the header."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import pytest

from llamabuild.verify import kernels

HEADER = (Path(__file__).parents[3] / "kernels" / "include" / "llamabuild_kernels.h").read_text()
CODE = re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL)

C_TYPES = {
    "size_t": ctypes.c_size_t,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "pointer": ctypes.c_void_p,
}


def test_the_functions_are_those_of_the_header() -> None:
    declared = re.findall(r"LLAMABUILD_API[^;(]*?\bllamabuild_(\w+)\(", CODE)
    assert list(kernels.SYMBOLS) == declared


def test_the_version_is_that_of_the_header() -> None:
    version = re.search(r"LLAMABUILD_KERNELS_VERSION (\d+)", CODE)
    assert version
    assert int(version[1]) == kernels.VERSION


@pytest.mark.parametrize(
    ("structure", "name"),
    [(kernels.Product, "llamabuild_product"), (kernels.Groups, "llamabuild_groups")],
)
def test_the_structures_are_those_of_the_header(
    structure: type[ctypes.Structure], name: str
) -> None:
    body = re.search(rf"typedef struct {name} \{{(.*?)\}} {name};", CODE, re.DOTALL)
    assert body
    fields = []
    for declaration in body[1].split(";")[:-1]:
        kind, *names = re.findall(r"\w+\b(?: ?\*)?|\*\w+", declaration.replace("const ", ""))
        for field in names:
            pointer = "*" in declaration
            fields.append((field.lstrip("*"), C_TYPES["pointer" if pointer else kind.strip()]))
    assert [field[:2] for field in structure._fields_] == fields
