from __future__ import annotations

import pytest

from llamabuild.inspect import elf

LEA, RET, ENDBR = b"\x48\x8d\x05", b"\xc3", b"\xf3\x0f\x1e\xfa"
FRAME, LEAVE = b"\x55\x48\x89\xe5", b"\x5d"


def returning(text: bytes, *, before: bytes = b"", after: bytes = b"", gap: int = 9) -> bytes:
    """x86-64 code that returns the address of a text some bytes behind it."""
    tail = after + RET
    return before + LEA + (len(tail) + gap).to_bytes(4, "little") + tail + bytes(gap) + text


def returning_aarch64(text: bytes, page: int = 0) -> bytes:
    """ADRP, ADD and RET, with the text 64 bytes behind the beginning of the section."""
    adrp = 0x90000000 | (page & 3) << 29 | (page >> 2 & 0x7FFFF) << 5
    words = [0xD503245F, adrp, 0x91000000 | 64 << 10, 0xD65F03C0]
    return b"".join(word.to_bytes(4, "little") for word in words) + bytes(48) + text


@pytest.mark.parametrize(
    "code",
    [
        returning(b"0.21.0\0"),
        returning(b"0.21.0\0", before=ENDBR),
        returning(b"0.21.0\0", before=FRAME, after=LEAVE),
    ],
    ids=["optimized", "with branch protection", "not optimized"],
)
def test_the_version_of_ggml_is_what_its_function_returns(forge, code):
    module = forge.read(forge.library(exported=("ggml_version",), code=code))
    assert (module.ggml_version, module.ggml_commit) == ("0.21.0", "")
    module = forge.read(forge.dll(exported=("a", "ggml_commit", "z"), code=code))
    assert (module.ggml_version, module.ggml_commit) == ("", "0.21.0")


def test_the_version_of_ggml_on_aarch64(forge):
    def read(code: bytes, machine: int = 183) -> str:
        content = forge.library(exported=("ggml_version",), code=code, machine=machine)
        found = forge.read(content).ggml_version
        assert isinstance(found, str)
        return found

    assert read(returning_aarch64(b"0.21.0-dirty\0")) == "0.21.0-dirty"
    assert read(returning_aarch64(b"0.21.0\0", page=-1)) == ""
    assert read(returning_aarch64(b"0.21.0\0", page=1)) == ""
    assert read(returning_aarch64(b"0.21.0\0"), machine=62) == ""
    # A linker makes one instruction of two where the text is near: 20 bytes on.
    relaxed = [0xD503201F, 0x10000000 | 20 >> 2 << 5, 0xD65F03C0]
    code = b"".join(word.to_bytes(4, "little") for word in relaxed)
    assert read(code + bytes(12) + b"0.21.0\0") == "0.21.0"


@pytest.mark.parametrize(
    "code",
    [
        b"\x90",
        b"",
        LEA,
        LEA + b"\xff\xff\xff\x7f" + RET,
        LEA + b"\xff\xff\xff\xff" + RET,
        returning(b"no version at all\0"),
        returning(b"\0"),
        returning(b"1.2\xff\0"),
        returning(b"1" * 100 + b"\0"),
        returning(b"1.2\0").replace(RET, b"\x90" + RET, 1),
    ],
)
def test_what_is_not_plainly_a_version_is_not_guessed(forge, code):
    for content in (
        forge.library(exported=("ggml_version",), code=code),
        forge.dll(exported=("ggml_version",), code=code),
    ):
        assert forge.read(content).ggml_version == ""


def test_a_name_is_looked_at_once_however_often_it_is_exported(forge, monkeypatch):
    looked_at: list[int] = []

    def look(_read: object, address: int, _machine: str) -> str:
        looked_at.append(address)
        return ""

    monkeypatch.setattr(elf, "returned_text", look)
    forge.read(forge.library(exported=("ggml_version",) * 1000))
    assert looked_at == [0]


def test_without_the_function_nothing_is_known(forge):
    code = returning(b"0.21.0\0")
    assert forge.read(forge.library(exported=("other",), code=code)).ggml_version == ""
    assert forge.read(forge.library(undefined=("ggml_version",), code=code)).ggml_version == ""


@pytest.mark.parametrize(
    ("needed", "inside", "runtime"),
    [
        (("libc.so.6", "libstdc++.so.6"), False, "shared"),
        (("libc++.so.1", "libc++abi.so.1"), True, "shared"),
        (("libc.so.6",), True, "static"),
        (("libc.so.6",), False, ""),
    ],
)
def test_where_the_cxx_runtime_of_an_elf_file_is(forge, part, needed, inside, runtime):
    text = b"anything\0N10__cxxabiv117__class_type_infoE\0" if inside else b"anything\0"
    rodata = part(".rodata", 1, text)
    assert forge.read(forge.library(needed=needed, more=(rodata,))).cxx_runtime == runtime


@pytest.mark.parametrize(
    ("library", "inside", "runtime"),
    [
        ("MSVCP140.dll", True, "shared"),
        ("vcruntime140_1.dll", True, "shared"),
        ("libstdc++-6.dll", False, "shared"),
        ("KERNEL32.dll", True, "static"),
        ("KERNEL32.dll", False, ""),
    ],
)
def test_where_the_cxx_runtime_of_a_dll_is(forge, library, inside, runtime):
    rdata = b"anything\0.?AVtype_info@@\0" if inside else b"anything\0"
    content = forge.dll(imported=((library, ("f",)),), rdata=rdata)
    assert forge.read(content).cxx_runtime == runtime
