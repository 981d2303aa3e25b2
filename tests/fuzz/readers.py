"""Feeds the readers of foreign files with damaged ones: ``nox -s fuzz -- TARGET ...``.

By itself: ``python -m tests.fuzz.readers TARGET [options of libFuzzer] [more seeds' folders]``.
A reader may refuse its input in the ways that it documents; anything else, and anything slow or
large (see the session's options), ends the run and leaves the input in a file. What is found
becomes a test in ``tests/unit/inspect``.
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["llamabuild.inspect"]):
    from llamabuild.errors import LlamabuildError
    from llamabuild.inspect import (
        Module,
        amd,
        compare,
        cubin,
        demangle,
        image,
        lz4,
        page,
        ptx,
        read_module,
        report,
        zstd,
    )

from tests.unit.inspect.conftest import Forge, Part

MESSAGE = b"ERROR: CUDA kernel %s has no device code compatible with CUDA arch %d.\n"
CARDS = {"60": ("P100",), "61": ("GTX 1080",), "121": ("GB10",), "gfx906": ("MI50",)}
SCRATCH = Path(tempfile.mkdtemp())
TEMPLATE = b"_Z3mmqIL9ggml_type2ELi64ELb1EEvPKT_S1_PfNSt8optionalIiEE"
TEXT = b"""
.version 7.8
.target sm_61
.global .align 1 .b8 $str[%d] = {%s};
.func (.param .b32 r) helper(.param .b64 a) { mov.u64 %%rd1, $str; trap; ret; }
.visible .entry k() { @%%p1 bra $L; call.uni (r), helper, (a); $L: /* x */ ret; // y
 }
""" % (len(MESSAGE), b", ".join(str(byte).encode() for byte in MESSAGE))


def module(data: bytes) -> Module | None:
    """A whole file: ELF or PE, what is in its sections, and what is packed in there."""
    path = SCRATCH / "module"
    path.write_bytes(data)
    with suppress(LlamabuildError):
        return read_module(path)
    return None


def told(data: bytes) -> None:
    """All that ``inspect`` says of a file."""
    found = module(data)
    if found is not None:
        report.document(found, CARDS)
        report.summary(found)
        report.explain(found, "61", ())
        page.page(found, CARDS)
        assert compare(found, found).document["same"]


def mangled(data: bytes) -> None:
    name = f"_Z{data.decode('latin-1')}"
    demangle.family(demangle.demangle(name))


#: Target -> what it reads, and how large its inputs may be.
TARGETS: Mapping[str, tuple[Callable[[bytes], object], int]] = {
    "module": (module, 6_000),
    "report": (told, 6_000),
    "cubin": (lambda data: cubin.kernels(memoryview(data), 61 if len(data) % 2 else 90), 3_000),
    "object": (lambda data: amd.kernels(memoryview(data), "gfx906"), 3_000),
    "bundle": (lambda data: [*amd.bundles(memoryview(data), image.Budget(len(data)))], 3_000),
    "ptx": (lambda data: ptx.kernels(memoryview(data)), 3_000),
    "lz4": (lambda data: lz4.decompress(memoryview(data), 300), 400),
    "zstd": (lambda data: zstd.decompress(memoryview(data), 300), 400),
    "demangle": (mangled, 3_000),
}


def packed(data: bytes) -> bytes:
    """A valid LZ4 block: one literal run."""
    more, rest = divmod(len(data) - 15, 255)
    return b"\xf0" + b"\xff" * more + bytes([rest]) + data


def compressed(bundle: bytes, version: int, method: int, packed: bytes) -> bytes:
    """AMD's compressed bundle, with a header of one of its three versions."""
    width, has_length = (8, True) if version == 3 else (4, version == 2)
    size = 8 + width * (1 + has_length) + 8
    lengths = [size + len(packed)] if has_length else []
    numbers = b"".join(number.to_bytes(width, "little") for number in [*lengths, len(bundle)])
    return b"CCOB" + bytes([version, 0, method, 0]) + numbers + bytes(8) + packed


def seeds(target: str) -> Iterator[bytes]:
    """Sound inputs, from which the damaged ones are made."""
    import zstandard

    forge = Forge(SCRATCH)
    code = {"k": bytes(32), "l": bytes.fromhex("c000010000a0e300") * 4}
    cubins = [
        forge.cubin(["k", "l"], functions=("helper",)),
        forge.code(code, text=MESSAGE, referred=("k",)),
        forge.code(code, text=MESSAGE, referred=("k",), through_constants=True),
    ]
    amds = forge.code_object({"k": [0xBF800000, 0xBF920002], "l": [0xBF810000]}, text=MESSAGE)
    bundle = forge.bundle(("hip-amdgcn-amd-amdhsa--gfx906:xnack-", amds), ("host-x", b""))
    bundles = [
        bundle,
        *(compressed(bundle, version, 0, zlib.compress(bundle)) for version in (1, 2, 3)),
        compressed(bundle, 2, 1, zstandard.compress(bundle)),
    ]
    fatbin = forge.container(
        forge.entry(cubins[0]),
        forge.entry(TEXT, kind=1, options=bytes(24)),
        forge.entry(packed(cubins[1]), flags=0x2011, size=len(cubins[1])),
        forge.entry(zstandard.compress(cubins[2]), arch=90, flags=0x8011, size=len(cubins[2])),
    )
    symbols = {
        "exported": ("ggml_version", "ggml_backend_init"),
        "code": b"\x48\x8d\x05\1\0\0\0\xc3",
    }
    elf = {"undefined": ("cuInit",), "needed": ("libc.so.6",), "versions": ("GLIBC_2.34",)}
    imports = {"imported": (("nvcuda.dll", ("cuInit",)),), "delayed": (("a.dll", ("f",)),)}
    modules = [
        forge.library(fatbin, **symbols, **elf),  # type: ignore[arg-type]
        forge.library(more=(Part(".hip_fatbin", 1, b"".join(bundles)),)),
        forge.dll(fatbin, **symbols, **imports),  # type: ignore[arg-type]
    ]
    found = {
        "module": modules,
        "report": modules,
        "cubin": cubins,
        "object": [amds],
        "bundle": bundles,
        "ptx": [TEXT],
        "lz4": [packed(bytes(range(250)) + bytes(50)), b"\x1f1\x01\x00\xff\xff\x00"],
        "zstd": [zstandard.compress(bytes(300))],
        "demangle": [TEMPLATE[2:]],
    }
    yield from found[target]


def main(target: str, *options: str) -> None:
    read, largest = TARGETS[target]
    folder = SCRATCH / "seeds"
    folder.mkdir()
    for number, seed in enumerate(seeds(target)):
        folder.joinpath(str(number)).write_bytes(seed)

    def one(data: bytes) -> None:
        with suppress(image.Damaged, image.Unreadable):
            read(data)

    atheris.Setup([sys.argv[0], f"-max_len={largest}", *options, str(folder)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
