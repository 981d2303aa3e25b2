from __future__ import annotations

import hashlib
import os
import random
import struct
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamabuild.errors import LlamabuildError, ModuleRejectedError, UsageError
from llamabuild.inspect import Entry, read_module

PTX = b"""
.version 7.8
.target sm_61
.visible .entry _Z5plainPf(.param .u64 p)
{ ret; }
.weak .entry _Z4tmplILi7EEvPf(.param .u64 p)
{ ret; }
// .entry not_a_kernel
.func helper() { ret; }
\0\0"""


def names(entry: Entry) -> list[str] | None:
    return None if entry.kernels is None else [kernel.name for kernel in entry.kernels]


def test_a_module_is_described(forge):
    content = forge.library(
        forge.container(
            forge.entry(forge.cubin(["_Z5plainPf", "_Z4tmplILi7EEvPf"], functions=("helper",))),
            forge.entry(PTX, kind=1, options=bytes(24)),
        ),
        exported=("ggml_cuda_link", "ggml_backend_cuda_init"),
        undefined=("cuDeviceGet", "malloc"),
        weak=("__gmon_start__",),
        needed=("libcuda.so.1", "libc.so.6"),
        versions=("GLIBC_2.9", "GLIBC_2.34", "GLIBC_PRIVATE", "GLIBCXX_3.4.9", "GLIBCXX_3.4.21"),
        soname="ggml-cuda.so",
    )
    module = forge.read(content)
    assert module.format == "elf"
    assert module.machine == "x86_64"
    assert module.backend == "cuda"
    assert module.labels == ("61-real", "61-virtual")
    assert [names(entry) for entry in module.entries] == [["_Z5plainPf", "_Z4tmplILi7EEvPf"]] * 2
    assert module.exported == ("ggml_backend_cuda_init", "ggml_cuda_link")
    assert module.undefined == ("cuDeviceGet", "malloc")
    assert module.needed == ("libcuda.so.1", "libc.so.6")
    assert module.soname == "ggml-cuda.so"
    assert (module.glibc, module.glibcxx) == ("2.34", "3.4.21")
    assert module.stripped
    assert module.sha256 == hashlib.sha256(content).hexdigest()
    assert module.size_bytes == len(content)
    assert module.notes == ()


@pytest.mark.parametrize(
    ("flags", "label"),
    [(0x11, "90-real"), (0x100011, "90a-real"), (0x1200011, "90f-real")],
)
def test_the_suffix_of_an_architecture_stands_in_the_flags(forge, flags, label):
    entry = forge.entry(forge.cubin(["k"]), arch=90, flags=flags)
    assert forge.read(forge.library(forge.container(entry))).labels == (label,)


def test_every_translation_unit_has_its_container(forge):
    units = [forge.container(forge.entry(forge.cubin([f"k{i}"]), arch=75)) for i in range(3)]
    padding = bytes(4096)
    module = forge.read(forge.library(padding.join(units)))
    assert [(entry.container, names(entry)) for entry in module.entries] == [
        (0, ["k0"]),
        (1, ["k1"]),
        (2, ["k2"]),
    ]


def test_the_device_linkers_stand_in_is_no_code(forge):
    stub = forge.container(forge.entry(forge.cubin([]), arch=50))
    real = forge.container(forge.entry(forge.cubin(["k"]), arch=61))
    assert forge.read(forge.library(stub + real)).labels == ("61-real",)


def test_an_entry_without_kernels_beside_one_with_kernels_is_kept(forge):
    unit = forge.container(
        forge.entry(forge.cubin([]), arch=61), forge.entry(forge.cubin(["k"]), arch=90)
    )
    assert forge.read(forge.library(unit)).labels == ("61-real", "90-real")


def test_inputs_of_the_device_linker_are_left_out_and_said(forge, part):
    relocatable = forge.container(forge.entry(forge.cubin(["k"]), arch=35))
    module = forge.read(
        forge.library(
            forge.container(forge.entry(forge.cubin(["k"]))),
            more=(part("__nv_relfatbin", 1, relocatable),),
        )
    )
    assert module.labels == ("61-real",)
    assert any("__nv_relfatbin" in note for note in module.notes)


def test_a_library_without_gpu_code_says_so(forge):
    module = forge.read(forge.library(exported=("f",)))
    assert module.entries == ()
    assert module.backend is None


@pytest.mark.parametrize("how", ["lz4", "zstd"])
def test_packed_entries_are_unpacked(forge, how):
    cubin = forge.cubin(["_Z5plainPf"])
    if how == "zstd":
        zstandard = pytest.importorskip("zstandard")
        packed, flags = zstandard.ZstdCompressor().compress(cubin), 0x8011
    else:
        packed, flags = literal_lz4(cubin), 0x2011
    entry = forge.entry(packed, flags=flags, size=len(cubin))
    (found,) = forge.read(forge.library(forge.container(entry))).entries
    assert names(found) == ["_Z5plainPf"]
    assert found.size_bytes == len(packed)


def literal_lz4(data: bytes) -> bytes:
    """A valid LZ4 block of one literal run."""
    length = len(data) - 15
    return b"\xf0" + b"\xff" * (length // 255) + bytes([length % 255]) + data


def test_a_packed_entry_that_lies_about_its_size_is_unknown_not_fatal(forge):
    cubin = forge.cubin(["k"])
    for packed, flags, size in [
        (literal_lz4(cubin), 0x2011, len(cubin) - 1),
        (literal_lz4(cubin), 0x2011, len(cubin) + 1),
        (literal_lz4(cubin), 0x2011, 1 << 60),
        (literal_lz4(cubin)[:-9], 0x2011, len(cubin)),
        (b"\x28\xb5\x2f\xfd junk junk junk", 0x8011, 4096),
        (b"not an ELF file at all..", 0x11, None),
    ]:
        module = forge.read(
            forge.library(forge.container(forge.entry(packed, flags=flags, size=size)))
        )
        assert module.labels == ("61-real",)
        assert module.entries[0].kernels is None
        assert len(module.notes) == 1


def test_a_zstd_bomb_costs_no_more_than_it_promises(forge):
    zstandard = pytest.importorskip("zstandard")
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 26))
    module = forge.read(forge.library(forge.container(forge.entry(bomb, flags=0x8011, size=1000))))
    assert module.entries[0].kernels is None


def test_many_bombs_are_refused_together(forge):
    entry = forge.entry(b"\x1f" + bytes(60), flags=0x2011, size=1 << 28)
    module = forge.read(forge.library(forge.container(*[entry] * 50)))
    assert all(entry.kernels is None for entry in module.entries)
    assert any("far more than any real one" in note for note in module.notes)


def test_without_a_zstd_decoder_the_architectures_are_still_known(forge, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    entry = forge.entry(b"\x28\xb5\x2f\xfd", arch=120, flags=0x208011, size=4096)
    module = forge.read(forge.library(forge.container(entry)))
    assert module.labels == ("120f-real",)
    assert module.entries[0].kernels is None
    assert "zstandard" in module.notes[0]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        b"hello, world" * 100,
        b"\x7fELF\x01\x01\x01" + bytes(100),
        b"\x7fELF\x02\x02\x01" + bytes(100),
    ],
    ids=["empty", "cut short", "text", "32-bit", "big-endian"],
)
def test_what_is_no_module_is_refused_with_a_reason(forge, content):
    with pytest.raises(ModuleRejectedError, match=r"empty|damaged"):
        forge.read(content)


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "absent.so", tmp_path, pipe):
        with pytest.raises(UsageError, match=r"does not exist|not a file"):
            read_module(path)


def test_a_symbol_table_of_one_long_shared_name_is_refused(forge, part):
    table = b"\0" + b"x" * 30_000 + b"\0"
    rows = bytes(24) + (b"\1\0\0\0\x12\0\1\0" + bytes(16)) * 5_000
    content = forge.elf(
        [part(".text", 1, b""), part(".dynsym", 11, rows, ".dynstr"), part(".dynstr", 3, table)]
    )
    with pytest.raises(ModuleRejectedError, match="beyond any use"):
        forge.read(content)


def test_sections_that_overlap_are_refused(forge):
    content = bytearray(forge.library(exported=("f",)))
    table, count = struct.unpack_from("<Q", content, 40)[0], 5
    for row in range(1, count):
        struct.pack_into("<QQ", content, table + 64 * row + 24, 0, len(content))
    with pytest.raises(ModuleRejectedError, match="more bytes than it has"):
        forge.read(bytes(content))


def test_a_truncated_module_never_crashes(forge):
    content = sample(forge)
    for size in range(0, len(content), 7):
        survive(forge, content[:size])


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_module_never_crashes(forge, data):
    content = bytearray(sample(forge))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        value = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
        content[at] = value
    survive(forge, bytes(content))


def test_random_bytes_behind_a_true_beginning_never_crash(forge):
    chance = random.Random(4)
    for _ in range(200):
        survive(forge, sample(forge)[:64] + chance.randbytes(2000))


def sample(forge: Any) -> bytes:
    cubin = forge.cubin(["a", "b"])
    content: bytes = forge.library(
        forge.container(
            forge.entry(cubin),
            forge.entry(PTX, kind=1),
            forge.entry(literal_lz4(cubin), flags=0x2011, size=len(cubin)),
        ),
        exported=("f",),
        undefined=("cuInit",),
        needed=("libc.so.6",),
        versions=("GLIBC_2.2.5", "GLIBC_2.34"),
    )
    return content


def survive(forge: Any, content: bytes) -> None:
    """Reading gives a module or a clear refusal; anything else fails the test that calls."""
    with suppress(LlamabuildError):
        forge.read(content, "damaged.so")


@pytest.mark.parametrize("start", [b"", b"MZqFpD='\n" + bytes(5000), b"\x7fELF" + bytes(5000)])
def test_an_archive_is_called_one(tmp_path: Path, start: bytes) -> None:
    """Many will ask about the llamafile itself."""
    path = tmp_path / "a b.llamafile"
    path.write_bytes(start)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("ggml-cuda.so", b"x")
    with pytest.raises(ModuleRejectedError, match="an archive or a llamafile") as caught:
        read_module(path)
    assert f"llamabuild status '{path}'" in caught.value.hint
