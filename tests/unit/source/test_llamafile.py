"""llamafile 0.6 to 0.9.3: recognised by contents, copied into one folder, told what it needs."""

from __future__ import annotations

import os
import shutil
import stat
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llamabuild.errors import SourceError
from llamabuild.source import llamafile

CUDA = "llama.cpp/ggml-cuda.cu"


def release(samples: Any, crc: str, **others: str) -> dict[str, bytes]:
    """Contents whose ``ggml-cuda.cu`` is taken for the one with that checksum."""
    contents = dict(samples.CLASSIC)
    contents[CUDA] = samples.with_crc(contents[CUDA] + b"\n// ", crc)
    for name, value in others.items():
        contents[name] = samples.with_crc(contents[name] + b"// ", value)
    return contents


def unpacked(contents: dict[str, bytes]) -> dict[str, bytes]:
    """The same files as llamafile's loader unpacks them: all in one folder."""
    return {Path(name).name: data for name, data in contents.items()}


@pytest.fixture
def known(samples: Any) -> dict[str, bytes]:
    """Taken for llamafile 0.8.1."""
    return release(samples, "57723abe")


def test_a_llamafile_is_recognised_and_its_sources_copied(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    tree = bench.open(bench.file("llava.llamafile", samples.llamafile(known)))
    assert (tree.kind, tree.version, tree.layout) == ("llamafile", "0.8.1", "classic")
    assert tree.flavors == ("classic",)
    assert tree.root == bench.scratch / tree.digest
    copied = {path.name: path.read_bytes() for path in tree.root.iterdir()}
    assert copied == {n: data for n, data in unpacked(known).items() if n in samples.READ}
    assert set(tree.files) == samples.READ
    assert (tree.device, tree.core, tree.includes) == (("ggml-cuda.cu",), (), (".",))
    assert tree.notes == ()
    assert bench.left_over() == []


def test_the_files_come_in_the_loaders_order(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    tree = bench.open(bench.file("a.llamafile", samples.llamafile(known)))
    assert tree.files[0] == "ggml.h"
    assert tree.files[-1] == "ggml-cuda.cu"
    assert tree.files.index("llamafile.h") < tree.files.index("tinyblas.h")


def test_file_folder_checkout_and_archive_are_the_same_source(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    samples.write(bench.cwd / "checkout", {**known, "Makefile": b"", "llamafile/version.h": b""})
    samples.write(bench.cwd / "app", unpacked(known))
    given = [
        bench.file("a.llamafile", samples.llamafile(known)),
        bench.file("renamed.zip", samples.zipped(known)),
        bench.file("0.8.1.tar.gz", samples.tarred(known)),
        "checkout",
        "app",
    ]
    assert len({bench.open(source).digest for source in given}) == 1


def test_stale_files_in_llamafiles_folder_do_not_matter(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    folder = samples.write(bench.cwd / ".llamafile", unpacked(known))
    before = bench.open(folder)
    samples.write(folder, {"ggml-cuda.so": b"old", "ggml-metal.m": b"", "ggml-impl.h": b"new"})
    os.utime(folder / "ggml.h", (1, 1))
    after = bench.open(folder)
    assert (after.digest, after.version) == (before.digest, "0.8.1")
    assert "ggml-cuda.so" not in after.files


def test_the_folder_of_all_releases_means_the_newest(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    folder = samples.write(bench.cwd / ".llamafile", {"v/0.10.1/ggml-cuda.so": b""})
    samples.write(folder / "v/0.8.1", unpacked(known))
    samples.write(folder / "v/0.8", unpacked(samples.CLASSIC))
    assert bench.open(folder).version == "0.8.1"


def test_the_name_of_a_file_decides_nothing(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    path = bench.file("llamafile-0.9.3.exe", samples.llamafile(known))
    assert bench.open(path).version == "0.8.1"


@pytest.mark.parametrize(
    ("crc", "version"),
    [
        ("b9b9da51", "0.6"),
        ("5316af72", "0.6.2"),
        ("61eb9187", "0.8.2-0.8.4"),
        ("a6f02dc4", "0.8.10-0.8.12"),
        ("3e5f2f53", "0.8.14-0.8.16"),
        ("77be3013", "0.9.2-0.9.3"),
    ],
)
def test_releases_with_the_same_file_are_a_range(
    bench: Any, samples: Any, crc: str, version: str
) -> None:
    tree = bench.open(bench.file("a.zip", samples.zipped(release(samples, crc))))
    assert tree.version == version
    assert tree.notes == ()


@pytest.mark.parametrize(
    ("crc", "other", "version"),
    [
        ("a6f02dc4", {"llamafile/llamafile.h": "8ca9b654"}, "0.8.12"),
        ("a6f02dc4", {"llamafile/llamafile.h": "d5f345a6"}, "0.8.10-0.8.11"),
        ("5b024dc2", {"llama.cpp/ggml-impl.h": "05724860"}, "0.8.7"),
        ("db2062f0", {"llamafile/llamafile.h": "cd692e9f"}, "0.7"),
    ],
)
def test_other_files_narrow_the_range(
    bench: Any, samples: Any, crc: str, other: dict[str, str], version: str
) -> None:
    contents = release(samples, crc, **other)
    assert bench.open(bench.file("a.zip", samples.zipped(contents))).version == version


def test_line_ends_of_a_windows_checkout_are_no_difference(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    windows = {name: data.replace(b"\n", b"\r\n") for name, data in known.items()}
    assert bench.open(samples.write(bench.cwd / "co", windows)).version == "0.8.1"


def test_the_recipe_is_that_of_the_release(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    tree = bench.open(bench.file("a.zip", samples.zipped(known)))
    recipe = tree.recipe
    assert recipe is not None
    assert (recipe.first, recipe.last, recipe.fast_math) == ("0.8", "0.8.4", False)
    assert tree.fast_math is False
    assert tree.defines == recipe.defines
    assert "GGML_MULTIPLATFORM" in recipe.defines
    assert "ggml_backend_cuda_register_host_buffer" in recipe.required
    assert "ggml_backend_cuda_get_device_description" not in recipe.required
    assert recipe.link_returns == "bool"
    assert tree.levels == (61, 70)


def test_releases_are_compared_by_number_in_two_parts_or_three() -> None:
    oldest_first = [*llamafile.releases(), "0.10", "0.10.1"]
    assert sorted(set(oldest_first), key=llamafile.release_number) == oldest_first
    assert llamafile.release_number("0.8") == llamafile.release_number("0.8.0") == (0, 8, 0)


def test_each_release_has_a_recipe_and_symbols() -> None:
    seen = {}
    for name in llamafile._releases()["crc32"]:
        recipe = llamafile._recipe_of([name])
        assert llamafile.release_number(recipe.first) <= llamafile.release_number(name)
        assert llamafile.release_number(name) <= llamafile.release_number(recipe.last)
        seen[name] = len(recipe.required)
    counts = {"0.6": 25, "0.6.1": 25, "0.6.2": 16, "0.7": 9, "0.7.4": 9, "0.8": 9, "0.8.1": 10}
    counts |= {"0.8.14": 10, "0.8.15": 11, "0.9.1": 11, "0.9.2": 12, "0.9.3": 12}
    assert {name: seen[name] for name in counts} == counts


@pytest.mark.parametrize(
    ("name", "fast_math", "code_size", "tinyblas_cuda", "returns"),
    [
        ("0.6", True, False, None, "void"),
        ("0.6.2", True, False, (12, 0), "void"),
        ("0.7.4", False, False, (12, 0), "bool"),
        ("0.8.4", False, False, None, "bool"),
        ("0.8.5", True, False, None, "bool"),
        ("0.8.7", True, True, None, "bool"),
        ("0.9.3", True, True, None, "bool"),
    ],
)
def test_what_the_releases_differ_in(
    name: str,
    fast_math: bool,
    code_size: bool,
    tinyblas_cuda: tuple[int, int] | None,
    returns: str,
) -> None:
    recipe = llamafile._recipe_of([name])
    assert (recipe.fast_math, recipe.code_size) == (fast_math, code_size)
    assert (recipe.tinyblas_cuda, recipe.link_returns) == (tinyblas_cuda, returns)
    assert ("GGML_MULTIPLATFORM" in recipe.defines) == (name != "0.6")


@pytest.mark.parametrize(
    ("name", "oldest", "needs_blas"),
    [
        ("0.6", None, True),
        ("0.7.4", None, True),
        ("0.8", None, False),
        ("0.8.4", None, False),
        ("0.8.5", (5, 5), False),
        ("0.9.3", (5, 5), False),
    ],
)
def test_what_the_releases_ask_of_amds_compilers(
    name: str, oldest: tuple[int, int] | None, needs_blas: bool
) -> None:
    found = llamafile._hip(name)
    assert found["hip_oldest"] == oldest
    assert bool(found["hip_why"]) == (oldest is not None)
    assert bool(found["hip_blas"]) == needs_blas


def test_an_unknown_file_may_ask_for_less(bench: Any, samples: Any) -> None:
    tree = bench.open(bench.file("a.zip", samples.zipped(samples.CLASSIC)))
    assert (tree.hip_oldest, tree.hip_blas) == (None, "")


def test_an_unknown_file_gets_the_nearest_recipe_and_says_so(bench: Any, samples: Any) -> None:
    tree = bench.open(bench.file("a.zip", samples.zipped(samples.CLASSIC)))
    assert tree.version is None
    assert tree.recipe is not None
    assert tree.recipe.releases == "0.8 to 0.8.4"
    assert "no llamafile release known here" in tree.notes[0]
    assert "0.8 to 0.8.4" in tree.notes[0]


@pytest.mark.parametrize(
    ("words", "releases"),
    [
        (b"", "0.6"),
        (b"CC_PASCAL", "0.6.1"),
        (b"CC_PASCAL ggml_backend_cuda_reg_devices(", "0.6.2"),
        (b'ggml_backend_cuda_reg_devices( "ggml-common.h"', "0.7 to 0.7.4"),
        (b'"ggml-common.h" GGML_CUDA_NO_PEER_COPY cuda_bf16.h', "0.8.5 to 0.8.6"),
        (b"GGML_CUDA_NO_PEER_COPY cuda_bf16.h GGML_MINIMIZE_CODE_SIZE", "0.8.7 to 0.9.3"),
    ],
)
def test_the_words_of_an_unknown_file_choose_its_recipe(words: bytes, releases: str) -> None:
    text = b"bool ggml_cuda_link(\nint ggml_backend_cuda_init(\n" + words
    fields = llamafile.describe({"ggml-cuda.cu": text}, lambda member: None, "it")
    assert fields["recipe"].releases == releases
    assert "ggml_cuda_link" in fields["recipe"].required
    assert "ggml_backend_cuda_get_device_properties" not in fields["recipe"].required


def test_an_unknown_file_must_export_what_it_defines() -> None:
    text = b"bool ggml_cuda_link(\nvoid ggml_backend_cuda_get_device_properties(\n"
    fields = llamafile.describe({"ggml-cuda.cu": text}, lambda member: None, "it")
    assert "ggml_backend_cuda_get_device_properties" in fields["recipe"].required


def test_a_llamafile_older_than_the_interface_is_refused(bench: Any, samples: Any) -> None:
    contents = {**samples.CLASSIC, CUDA: b'#include "tinyblas.cu"\nvoid ggml_init_cublas(void);\n'}
    with pytest.raises(SourceError, match="no ggml_cuda_link") as caught:
        bench.open(bench.file("llamafile-0.5", samples.llamafile(contents)))
    assert "0.6 to 0.9.3" in caught.value.hint
    assert bench.left_over() == []


def test_a_llamafile_without_sources_says_what_is_needed(bench: Any, samples: Any) -> None:
    inside = {"llama.cpp/ggml/src/ggml-metal/ggml-metal.metal": b"", "ggml-cuda.so": b"\x7fELF"}
    with pytest.raises(SourceError, match=r"0\.10 and later") as caught:
        bench.open(bench.file("new.llamafile", samples.llamafile(inside)))
    assert "make setup" in caught.value.hint
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("missing", ["llamafile/tinyblas.cu", "llama.cpp/ggml-backend-impl.h"])
def test_a_missing_file_is_named(
    bench: Any, samples: Any, known: dict[str, bytes], missing: str
) -> None:
    del known[missing]
    with pytest.raises(SourceError, match=missing):
        bench.open(bench.file("a.llamafile", samples.llamafile(known)))
    assert bench.left_over() == []


def test_a_truncated_llamafile_is_refused(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    whole = samples.llamafile(known)
    for length in (5000, len(whole) - 30, len(whole) - 5):
        with pytest.raises(SourceError) as caught:
            bench.open(bench.file("cut.llamafile", whole[:length]))
        assert "cut off" in caught.value.message or "damaged" in caught.value.message
        assert "again" in caught.value.hint
    assert bench.left_over() == []


def test_a_llamafile_behind_whose_end_something_stands_is_read(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    stale = samples.llamafile({**known, CUDA: b"an older version"})
    path = bench.file("a.llamafile", stale + samples.zipped(known))
    assert bench.open(path).version == "0.8.1"


def encrypted(data: bytes) -> bytes:
    changed = bytearray(data)
    for signature, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = changed.find(signature)
        while place >= 0:
            changed[place + flags] |= 1
            place = changed.find(signature, place + 4)
    return bytes(changed)


def test_an_encrypted_one_is_refused(bench: Any, samples: Any, known: dict[str, bytes]) -> None:
    path = bench.file("a.llamafile", encrypted(samples.zipped(known, b"MZ")))
    with pytest.raises(SourceError, match="encrypted") as caught:
        bench.open(path)
    assert "unpack it yourself" in caught.value.hint


@pytest.mark.parametrize("name", ["../../evil.so", "/etc/evil.so"])
def test_one_with_a_member_that_lands_elsewhere_is_refused(
    bench: Any, samples: Any, known: dict[str, bytes], name: str
) -> None:
    with pytest.raises(SourceError, match="written elsewhere"):
        bench.open(bench.file("a.llamafile", samples.llamafile({**known, name: b""})))


def test_a_wanted_member_that_is_a_link_is_refused(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    del known["llama.cpp/ggml.h"]
    path = bench.file("a.llamafile", samples.llamafile(known))
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("llama.cpp/ggml.h")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, b"/etc/passwd")
    with pytest.raises(SourceError, match="link"):
        bench.open(path)


def test_a_source_that_unpacks_to_gigabytes_is_stopped(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    known["llama.cpp/ggml.h"] = bytes(40 << 20)
    path = bench.file("a.llamafile", samples.llamafile(known))
    with pytest.raises(SourceError, match="more than 33,554,432 bytes"):
        bench.open(path)
    assert bench.left_over() == []


def test_thirty_gigabytes_are_not_read(bench: Any, samples: Any, known: dict[str, bytes]) -> None:
    path = bench.cwd / "huge.llamafile"
    with path.open("wb") as file:
        file.write(b"MZqFpD")
        file.seek(30 << 30)  # a hole, where the weights would be
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in known.items():
                archive.writestr(name, data)
    if path.stat().st_blocks > 1 << 20:
        pytest.skip("this file system has no holes in files")
    tracemalloc.start()
    try:
        tree = bench.open(path)
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
        path.unlink()
    assert tree.version == "0.8.1"


def test_a_checkout_with_a_file_that_cannot_be_read_is_an_error(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    folder = samples.write(bench.cwd / "co", known)
    with (folder / "llamafile/tinyblas.cu").open("wb") as file:
        file.truncate(65 << 20)
    with pytest.raises(SourceError, match="longer than any source"):
        bench.open(folder)


def test_names_with_spaces_quotes_and_letters_of_other_alphabets(
    bench: Any, samples: Any, known: dict[str, bytes]
) -> None:
    folder = samples.write(bench.cwd / 'it\'s a "ßrebuild" путь $HOME', known)
    shutil.copy(bench.file("x", samples.llamafile(known)), folder / "ж b.llamafile")
    assert bench.open(folder).digest == bench.open(folder / "ж b.llamafile").digest


def test_releases_are_known_by_the_checksums_of_a_zip_directory() -> None:
    def of(**checksums: str) -> tuple[str, ...]:
        return llamafile.releases_of(
            {name.replace("_", "-", 1) + ".cu": int(crc, 16) for name, crc in checksums.items()}
        )

    assert of(ggml_cuda="57723abe") == ("0.8.1",)
    assert of(ggml_cuda="e90a74c9") == ("0.8.5", "0.8.6")
    assert of(ggml_cuda="00000000") == of() == ()
    narrowed = {"ggml-cuda.cu": 0x5B024DC2, "ggml-impl.h": 0xB3923DFC, "llamafile.h": 0x8159CF0A}
    assert llamafile.releases_of(narrowed) == ("0.8.8",)
    assert llamafile.releases_of({**narrowed, "ggml-impl.h": 1}) == ("0.8.7", "0.8.8", "0.8.9")


def test_each_release_looks_up_its_own_symbols() -> None:
    assert llamafile.releases()[0] == "0.6"
    assert len(llamafile.loader_symbols("0.6")) == 25
    assert len(llamafile.loader_symbols("0.6.2")) == 16
    register = "ggml_backend_cuda_register_host_buffer"
    assert register not in llamafile.loader_symbols("0.8")
    assert register in llamafile.loader_symbols("0.8.1")
    assert llamafile.loader_symbols("0.10.0") == ()
