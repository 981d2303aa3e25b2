from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamabuild.errors import LlamabuildError, ModuleRejectedError
from llamabuild.inspect import check


@pytest.fixture
def fatbin(forge):
    return forge.container(forge.entry(forge.cubin(["k"]), arch=61))


def test_a_dll_is_described(forge, fatbin):
    module = forge.read(
        forge.dll(
            fatbin,
            exported=("ggml_cuda_link", "ggml_backend_cuda_init"),
            imported=(("KERNEL32.dll", ("GetProcAddress", "Sleep")), ("nvcuda.dll", ("cuInit",))),
            delayed=(("cublas64_12.dll", ("cublasCreate_v2",)),),
        ),
        "ggml-cuda.dll",
    )
    assert (module.format, module.machine, module.soname) == ("pe", "x86_64", "ggml-cuda.dll")
    assert module.labels == ("61-real",)
    assert module.exported == ("ggml_backend_cuda_init", "ggml_cuda_link")
    assert module.undefined == ("GetProcAddress", "Sleep", "cuInit", "cublasCreate_v2")
    assert module.needed == ("KERNEL32.dll", "nvcuda.dll", "cublas64_12.dll")
    assert module.stripped
    assert module.glibc == ""


def test_a_dll_is_checked_like_a_shared_object(forge, fatbin):
    def problems(content: bytes, allowed: tuple[str, ...]) -> tuple[str, ...]:
        return check(
            forge.read(content),
            archs=("61-real",),
            exports=("ggml_cuda_link",),
            allowed_needed=allowed,
        )

    good = forge.dll(
        fatbin,
        exported=("ggml_cuda_link",),
        imported=(("nvcuda.dll", ("cuInit",)), ("KERNEL32.dll", ("Sleep",))),
    )
    assert problems(good, ("kernel32.dll", "nvcuda.dll")) == ()
    (needless,) = problems(good, ("nvcuda.dll",))
    assert "KERNEL32.dll" in needless


def test_arm(forge):
    assert forge.read(forge.dll(machine=0xAA64)).machine == "aarch64"


@pytest.mark.parametrize(
    "content",
    [
        b"MZ",
        b"MZ" + bytes(100),
        b"MZ" + bytes(58) + struct.pack("<I", 1 << 31) + bytes(100),
        b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + bytes(200),
    ],
)
def test_what_only_begins_like_a_dll_is_refused(forge, content):
    with pytest.raises(ModuleRejectedError):
        forge.read(content)


def test_a_32_bit_dll_is_refused(forge):
    content = bytearray(forge.dll())
    struct.pack_into("<H", content, 64 + 24, 0x10B)
    with pytest.raises(ModuleRejectedError, match="32-bit"):
        forge.read(bytes(content))


def test_a_table_of_names_that_a_thousand_libraries_share_is_refused(forge):
    content = forge.dll(imported=(("a.dll", ("",) * 10_000),), repeat_imports=1000)
    with pytest.raises(ModuleRejectedError, match="beyond any use"):
        forge.read(content)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [(20, 1 << 30, "of 1073741824 functions"), (24, 1 << 30, "1073741824 exported names")],
    ids=["functions", "names"],
)
def test_a_table_of_exports_beyond_any_use_is_refused(forge, field, value, problem):
    content = bytearray(forge.dll(exported=("f", "g")))
    struct.pack_into("<I", content, exports_in(content) + field, value)
    with pytest.raises(ModuleRejectedError, match=problem):
        forge.read(bytes(content))


def test_a_name_of_a_function_that_is_not_there_is_refused(forge):
    content = bytearray(forge.dll(exported=("f", "g")))
    struct.pack_into("<I", content, exports_in(content) + 20, 1)
    with pytest.raises(ModuleRejectedError, match="function 1, not there"):
        forge.read(bytes(content))


def exports_in(content: bytearray) -> int:
    """Where the table of exports is: its address in the header, counted from the first section."""
    (address,) = struct.unpack_from("<I", content, 64 + 24 + 112)
    (offset,) = struct.unpack_from("<I", content, 64 + 24 + 112 + 16 * 8 + 20)
    return int(offset + address - 0x1000)


def test_a_truncated_dll_never_crashes(forge, fatbin):
    whole = forge.dll(fatbin, exported=("ggml_version",), imported=(("a.dll", ("f",)),))
    for size in range(0, len(whole), 7):
        with suppress(LlamabuildError):
            forge.read(whole[:size], "damaged.dll")


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_dll_never_crashes(forge, fatbin, data):
    content = bytearray(
        forge.dll(fatbin, exported=("f",), imported=(("KERNEL32.dll", ("Sleep",)),))
    )
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    try:
        forge.read(bytes(content), "damaged.dll")
    except LlamabuildError:
        return
