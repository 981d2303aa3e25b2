"""Archives of strangers: what is refused, what is bounded, and what a sound one gives."""

from __future__ import annotations

import io
import lzma
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamabuild.errors import SourceError
from llamabuild.source import archive
from llamabuild.source.bounded import Limits

ESCAPES = ["../evil.c", "a/../../evil.c", "/etc/evil.c", "C:evil.c", "a\\..\\..\\evil.c", "a\nb.c"]


def make_zip(*members: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for info, data in members:
            opened.writestr(info, data)
    return buffer.getvalue()


def make_tar(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz", **options: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode, **options) as opened:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data)
            opened.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_info(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


def tar_info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


class Unpacker:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.into = folder / "into"
        self.into.mkdir()

    def __call__(
        self,
        data: bytes,
        *,
        wanted: Callable[[str], bool] = lambda name: True,
        limits: Limits | None = None,
    ) -> dict[str, bytes]:
        path = self.folder / "archive"
        path.write_bytes(data)
        archive.unpack(path, self.into, wanted=wanted, limits=limits)
        return self.contents()

    def contents(self) -> dict[str, bytes]:
        return {
            path.relative_to(self.into).as_posix(): path.read_bytes()
            for path in self.into.rglob("*")
            if path.is_file()
        }

    def refuses(self, data: bytes, *, limits: Limits | None = None) -> str:
        """The error's message; nothing may be written outside the target."""
        before = set(self.folder.iterdir()) | {self.folder / "archive"}
        with pytest.raises(SourceError) as caught:
            self(data, limits=limits)
        assert set(self.folder.iterdir()) == before
        assert not any(path.is_symlink() for path in self.into.rglob("*"))
        return caught.value.message


@pytest.fixture
def unpack(tmp_path: Path) -> Unpacker:
    return Unpacker(tmp_path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_unpacked_however_it_is_compressed(unpack: Unpacker, mode: str) -> None:
    data = make_tar((tar_info("./top/a.c"), b"a" * 3_000_000), (tar_info("b.h"), b""), mode=mode)
    assert unpack(data) == {"top/a.c": b"a" * 3_000_000, "b.h": b""}


def test_a_zip_is_unpacked_even_behind_a_program(unpack: Unpacker) -> None:
    data = b"MZ a program" + make_zip(("top/a.c", b"a"), ("top/sub/", b""), ("b.h", b"b"))
    assert unpack(data) == {"top/a.c": b"a", "b.h": b"b"}


def test_only_what_is_wanted_is_written(unpack: Unpacker) -> None:
    for data in (
        make_zip(("a.c", b"a"), ("model.gguf", b"x")),
        make_tar((tar_info("b.c"), b"b"), (tar_info("model.gguf"), b"x")),
    ):
        unpack(data, wanted=lambda name: name.endswith(".c"))
    assert unpack.contents() == {"a.c": b"a", "b.c": b"b"}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_member_that_would_land_elsewhere_is_refused(unpack: Unpacker, name: str) -> None:
    assert repr(name) in unpack.refuses(make_zip((zip_info(name, stat.S_IFREG), b"evil")))
    assert repr(name) in unpack.refuses(make_tar((tar_info(name), b"evil")))


@pytest.mark.parametrize("name", ESCAPES)
def test_even_when_nobody_wants_it(unpack: Unpacker, name: str) -> None:
    for data in (make_zip((name, b"")), make_tar((tar_info(name), b""))):
        with pytest.raises(SourceError):
            unpack(data, wanted=lambda name: False)


@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "b/../../outside"])
def test_a_link_that_leads_out_is_refused(unpack: Unpacker, target: str) -> None:
    link = zip_info("link.c", stat.S_IFLNK | 0o777)
    assert repr(target) in unpack.refuses(make_zip((link, target.encode())))
    for name in ("link.c", "./link.c"):
        data = make_tar((tar_info(name, tarfile.SYMTYPE, target), b""))
        assert repr(target) in unpack.refuses(data)
    unpack.refuses(make_tar((tar_info("hard.c", tarfile.LNKTYPE, target), b"")))


def test_a_member_without_a_name_is_refused(unpack: Unpacker) -> None:
    nameless = bytearray(make_zip(("a.c", b"")))
    place = nameless.index(b"PK\1\2")
    nameless[place + 28] = 0  # the length of its name, whose bytes become a comment
    nameless[place + 32] = 3
    unpack.refuses(bytes(nameless))


def test_a_link_inside_the_archive_becomes_a_file(unpack: Unpacker) -> None:
    link = (zip_info("sub/link.h", stat.S_IFLNK | 0o777), b"../real.h")
    assert unpack(make_zip(link, ("real.h", b"zip"))) == {"real.h": b"zip", "sub/link.h": b"zip"}


def test_tar_links_inside_become_files_and_loops_nothing(unpack: Unpacker) -> None:
    data = make_tar(
        (tar_info("sub/soft.h", tarfile.SYMTYPE, "../real.h"), b""),
        (tar_info("real.h"), b"tar"),
        (tar_info("hard.h", tarfile.LNKTYPE, "real.h"), b""),
        (tar_info("loop1.h", tarfile.SYMTYPE, "loop2.h"), b""),
        (tar_info("loop2.h", tarfile.SYMTYPE, "loop1.h"), b""),
        (tar_info("dangling.h", tarfile.SYMTYPE, "nothing.h"), b""),
    )
    assert unpack(data) == {"real.h": b"tar", "sub/soft.h": b"tar", "hard.h": b"tar"}


def test_a_link_cannot_redirect_a_later_member(unpack: Unpacker, tmp_path: Path) -> None:
    data = make_tar(
        (tar_info("folder", tarfile.SYMTYPE, "sub"), b""),
        (tar_info("folder/a.c"), b"a"),
    )
    assert unpack(data) == {"folder/a.c": b"a"}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_devices_are_refused(unpack: Unpacker, kind: bytes) -> None:
    assert "device" in unpack.refuses(make_tar((tar_info("dev.c", kind), b"")))


def test_devices_in_a_zip_are_refused(unpack: Unpacker) -> None:
    assert "device" in unpack.refuses(make_zip((zip_info("dev.c", stat.S_IFIFO), b"")))


def test_a_name_twice_is_refused(unpack: Unpacker) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = make_zip(("a.c", b"1"), ("a.c", b"2"))
    assert "twice" in unpack.refuses(data)


def test_a_name_twice_in_a_tar_is_refused(unpack: Unpacker) -> None:
    assert "twice" in unpack.refuses(make_tar((tar_info("a.c"), b"1"), (tar_info("a.c"), b"2")))


def test_a_file_where_a_folder_is_needed_is_refused(unpack: Unpacker) -> None:
    unpack.refuses(make_zip(("a", b"1"), ("a/b.c", b"2")))


@pytest.mark.parametrize("name", ["n" * 300 + ".c", "n/" * 600 + "a.c"])
def test_names_that_no_file_system_takes_are_refused(unpack: Unpacker, name: str) -> None:
    assert "too long" in unpack.refuses(make_zip((name, b"")))
    assert "too long" in unpack.refuses(make_tar((tar_info(name), b"")))


def test_too_many_members_are_refused(unpack: Unpacker) -> None:
    few = Limits(members=9)
    names = [f"{number}.c" for number in range(10)]
    assert "members" in unpack.refuses(make_zip(*((name, b"") for name in names)), limits=few)
    tar = make_tar(*((tar_info(name), b"") for name in names))
    assert "members" in unpack.refuses(tar, limits=few)


BOMB = bytes(3_000_000)


def test_a_bomb_is_stopped_while_it_unpacks(unpack: Unpacker) -> None:
    limits = Limits(unpacked=1_000_000)
    assert "unpacks to more" in unpack.refuses(make_zip(("a.c", BOMB)), limits=limits)
    assert sum(map(len, unpack.contents().values())) <= 1_100_000


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_tar_bomb_is_stopped_even_where_nobody_wants_it(unpack: Unpacker, mode: str) -> None:
    data = make_tar((tar_info("bomb.bin"), BOMB), mode=mode)
    with pytest.raises(SourceError, match="unpacks to more"):
        unpack(data, wanted=lambda name: False, limits=Limits(unpacked=1_000_000))


def test_the_bound_holds_for_all_members_together(unpack: Unpacker) -> None:
    data = make_zip(*((f"{number}.c", bytes(1000)) for number in range(20)))
    assert "unpacks to more" in unpack.refuses(data, limits=Limits(unpacked=10_000))


def test_a_size_in_a_header_is_not_believed(unpack: Unpacker) -> None:
    data = bytearray(make_zip(("a.c", BOMB)))
    place = data.index(b"PK\1\2") + 24  # the uncompressed size in the directory
    data[place : place + 4] = (10).to_bytes(4, "little")
    unpack.refuses(bytes(data), limits=Limits(unpacked=1_000_000))
    assert sum(map(len, unpack.contents().values())) <= 1_100_000


def test_a_directory_that_would_fill_the_memory_is_refused(unpack: Unpacker) -> None:
    data = make_zip(*((f"{number}.c", b"") for number in range(1000)))
    assert "claims" in unpack.refuses(data, limits=Limits(headers=20_000))


def test_so_is_a_tar_header(unpack: Unpacker) -> None:
    data = make_tar((tar_info("n/" * 500 + "a.c"), b""), format=tarfile.GNU_FORMAT)
    assert "claims" in unpack.refuses(data, limits=Limits(headers=900))


def test_an_xz_dictionary_that_would_fill_the_memory_is_refused(unpack: Unpacker) -> None:
    plain = make_tar((tar_info("a.c"), b"a"), mode="w")
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 32 << 20}]
    data = lzma.compress(plain, lzma.FORMAT_XZ, filters=filters)
    assert "damaged" in unpack.refuses(data, limits=Limits(dictionary=16 << 20))
    assert unpack(data) == {"a.c": b"a"}


def test_headers_nested_without_end_are_refused(unpack: Unpacker) -> None:
    header = tar_info("x", tarfile.XHDTYPE)
    header.size = 11
    block = header.tobuf() + b"11 path=ab\n".ljust(512, b"\0")
    assert "damaged" in unpack.refuses(block * 3000 + bytes(1024))


def test_an_encrypted_member_is_refused(unpack: Unpacker) -> None:
    data = bytearray(make_zip(("a.c", b"secret")))
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    message = unpack.refuses(bytes(data))
    assert "encrypted" in message
    assert "damaged" not in message


def test_unusual_compression_is_refused(unpack: Unpacker) -> None:
    info = zipfile.ZipInfo("a.c")
    info.compress_type = zipfile.ZIP_LZMA
    assert "unusual" in unpack.refuses(make_zip((info, b"a" * 1000)))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_truncated_tar_is_refused(unpack: Unpacker, mode: str) -> None:
    noise = bytes(number * number % 251 for number in range(60_000))
    data = make_tar((tar_info("a.c"), noise), mode=mode)
    assert "damaged" in unpack.refuses(data[: len(data) * 2 // 3])


def test_a_damaged_zip_member_is_refused(unpack: Unpacker) -> None:
    data = bytearray(make_zip(("a.c", bytes(range(256)) * 40)))
    data[60] ^= 0xFF
    assert "damaged" in unpack.refuses(bytes(data))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", None),
        (b"GGUF" + bytes(600), None),
        (b"PK\3\4" + bytes(600), None),
        (make_zip(("a", b"")), "zip"),
        (b"\x7fELF" + make_zip(("a", b"")), "zip"),
        (make_tar((tar_info("a"), b""), mode="w"), "tar"),
        (make_tar((tar_info("a"), b""), mode="w:xz"), "tar"),
    ],
)
def test_what_a_file_is_shows_in_its_contents(
    tmp_path: Path, data: bytes, kind: str | None
) -> None:
    path = tmp_path / "misleading.tar.gz"
    path.write_bytes(data)
    assert archive.kind(path) == kind


def test_a_full_disk_is_not_blamed_on_the_archive(
    unpack: Unpacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archive, "_write", full)
    with pytest.raises(OSError, match="No space"):
        unpack(make_zip(("a.c", b"a")))
    with pytest.raises(OSError, match="No space"):
        unpack(make_tar((tar_info("a.c"), b"a")))
