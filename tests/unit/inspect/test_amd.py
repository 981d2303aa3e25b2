from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamabuild.errors import LlamabuildError, ModuleRejectedError
from llamabuild.inspect import amd

TRAP, END, NOP = 0xBF920002, 0xBF810000, 0xBF800000
TRAP_11, END_11 = 0xBF900002, 0xBFB00000
MESSAGE = b"%s:%d: ERROR: HIP kernel %s has no device code compatible with HIP arch %d.\n"


@pytest.fixture
def code(forge):
    return forge.code_object({"_Z1kPf": [NOP, END], "_Z1lPf": [NOP, NOP, END]})


def read(forge: Any, part: Any, section: bytes) -> Any:
    return forge.read(forge.library(more=(part(".hip_fatbin", 1, section),)), "ggml-rocm.so")


def test_bundles_of_several_translation_units(forge, part, code):
    unit = forge.bundle(
        ("host-x86_64-unknown-linux--", b""),
        ("hipv4-amdgcn-amd-amdhsa--gfx906", code),
        ("hipv4-amdgcn-amd-amdhsa--gfx90a:sramecc+:xnack-", code),
        ("hip-amdgcn-amd-amdhsa-gfx1030", code),
        ("hipv4-amdgcn-amd-amdhsa--gfx10-3-generic", code),
    )
    module = read(forge, part, unit + bytes(-len(unit) % 4096) + unit)
    assert module.backend == "hip"
    assert module.labels == ("gfx906", "gfx90a:sramecc+:xnack-", "gfx1030", "gfx10-3-generic")
    assert [entry.container for entry in module.entries] == [0] * 4 + [1] * 4
    assert {kernel.name for entry in module.entries for kernel in entry.kernels} == {
        "_Z1kPf",
        "_Z1lPf",
    }


def compressed(version: int, content: bytes, *, method: int = 0, size: int | None = None) -> bytes:
    packed = zlib.compress(content) if method == 0 else content
    size = len(content) if size is None else size
    if version == 1:
        sizes = struct.pack("<IQ", size, 0)
    else:
        layout = "<IIQ" if version == 2 else "<QQQ"
        sizes = struct.pack(layout, 8 + struct.calcsize(layout) + len(packed), size, 0)
    return b"CCOB" + struct.pack("<HH", version, method) + sizes + packed


@pytest.mark.parametrize("version", [1, 2, 3])
def test_compressed_bundles(forge, part, code, version):
    unit = forge.bundle(("hipv4-amdgcn-amd-amdhsa--gfx1100", code))
    one = compressed(version, unit)
    module = read(forge, part, one + bytes(100) + one)
    assert [(entry.arch, entry.container) for entry in module.entries] == [
        ("gfx1100", 0),
        ("gfx1100", 1),
    ]


def test_bundles_packed_with_zstd(forge, part, code, monkeypatch):
    zstandard = pytest.importorskip("zstandard")
    unit = forge.bundle(("hipv4-amdgcn-amd-amdhsa--gfx1100", code))
    packed = zstandard.ZstdCompressor().compress(unit)
    section = compressed(3, packed, method=1, size=len(unit))
    assert read(forge, part, section).labels == ("gfx1100",)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    with pytest.raises(ModuleRejectedError, match="zstd") as refusal:
        read(forge, part, section)
    assert "pip install zstandard" in refusal.value.hint


@pytest.mark.parametrize(
    "section",
    [
        b"no bundle",
        b"__CLANG_OFFLOAD_BUNDLE__",
        b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<Q", 1 << 60),
        b"__CLANG_OFFLOAD_BUNDLE__" + struct.pack("<QQQQ", 1, 1 << 40, 99, 4) + b"hip-",
        b"CCOB" + bytes(40),
        b"CCOB" + struct.pack("<HHIIQ", 2, 0, 28, 99, 0) + b"junk",
        b"CCOB" + struct.pack("<HHIIQ", 2, 9, 28, 99, 0) + b"junk",
        b"CCOB" + struct.pack("<HHIIQ", 2, 0, 28, 0xFFFFFFFF, 0) + b"junk",
    ],
)
def test_damaged_bundles_are_refused(forge, part, section):
    with pytest.raises(ModuleRejectedError):
        read(forge, part, section)


def test_a_compressed_bundle_that_lies_about_its_size_is_refused(forge, part, code):
    unit = forge.bundle(("hipv4-amdgcn-amd-amdhsa--gfx1100", code))
    for size in (len(unit) - 1, len(unit) + 1):
        with pytest.raises(ModuleRejectedError, match="promised"):
            read(forge, part, compressed(2, unit, size=size))


def test_entries_that_overlap_are_refused(forge, part, code):
    """Forty targets that share one code object would be read forty times."""
    unit = bytearray(
        forge.bundle(*[(f"hip-amdgcn-amd-amdhsa--gfx{n}", code) for n in range(900, 940)])
    )
    first = struct.unpack_from("<Q", unit, 32)[0]
    at = 32
    for _ in range(40):
        _, _, length = struct.unpack_from("<QQQ", unit, at)
        struct.pack_into("<QQ", unit, at, first, len(unit) - first)
        at += 24 + length
    with pytest.raises(ModuleRejectedError, match="more bytes"):
        read(forge, part, bytes(unit))


@pytest.mark.parametrize(
    ("target", "words", "verdict"),
    [
        ("gfx906", [NOP, END], "none"),
        ("gfx906", [TRAP], "trapped"),
        ("gfx906", [NOP, TRAP, END], "suspect"),
        ("gfx906", [END], "suspect"),
        ("gfx906", [NOP, TRAP_11, END], "none"),
        ("gfx90a:xnack-", [NOP, TRAP, END], "suspect"),
        ("gfx1030", [NOP, TRAP, END], "suspect"),
        ("gfx1100", [NOP, TRAP_11, END_11], "suspect"),
        ("gfx1100", [NOP, TRAP, END_11], "none"),
        ("gfx1201", [END_11], "suspect"),
        ("gfx11-generic", [TRAP_11], "trapped"),
        ("gfx9-4-generic", [TRAP], "trapped"),
        ("gfx906", [], "none"),
    ],
)
def test_traps(forge, target, words, verdict):
    (kernel,) = amd.kernels(memoryview(forge.code_object({"k": words})), target)
    assert kernel.trap == verdict


def test_the_message_is_found_by_its_distance_from_the_program_counter(forge):
    # s_getpc at 0x2004; the literal of s_add stands at 0x200c and counts from 0x2008.
    reads = [NOP, 0xBE801C00, 0x8000FF00, (0x1040 - 0x2008) & 0xFFFFFFFF, NOP, TRAP, END]
    functions = {"gives_up": reads, "checks": [NOP, NOP, TRAP, END]}
    for text, verdict in ((MESSAGE, "trapped"), (b"%d is negative\n", "suspect")):
        code = forge.code_object(functions, text=text)
        found = {kernel.name: kernel.trap for kernel in amd.kernels(memoryview(code), "gfx906")}
        assert found == {"gives_up": verdict, "checks": "suspect"}


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_truncated_bundle_never_crashes(forge, part, code, version):
    unit = forge.bundle(("hipv4-amdgcn-amd-amdhsa--gfx906", code))
    whole = compressed(version, unit) if version else unit
    for size in range(0, len(whole), 7):
        with suppress(LlamabuildError):
            read(forge, part, whole[:size])


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_module_never_crashes(forge, part, code, data):
    content = bytearray(
        forge.library(
            more=(part(".hip_fatbin", 1, forge.bundle(("hip-amdgcn-amd-amdhsa--gfx906", code))),)
        )
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        forge.read(bytes(content), "damaged.so")
    except LlamabuildError:
        return
