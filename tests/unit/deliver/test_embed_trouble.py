"""Whatever happens to an embed, the old file stays whole until the new one is."""

from __future__ import annotations

import errno
import io
import os
import shutil
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.deliver.llamafiles import (
    MODULE,
    NAME,
    PROGRAM,
    SOURCES,
    WEIGHTS,
    Room,
    packed,
)

from llamabuild.deliver import copying, staging
from llamabuild.deliver.embed import embed, extract
from llamabuild.errors import DeliveryError
from llamabuild.events import StepStarted


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


class TestRefused:
    """Llamafiles that are not to be touched."""

    def test_none_there(self, room: Room) -> None:
        room.module.unlink()
        room.refused("No such file")

    def test_no_llamafile_there(self, room: Room, tmp_path: Path) -> None:
        with pytest.raises(DeliveryError, match="No such file"):
            embed(tmp_path / "missing", room.module, name=NAME)

    @pytest.mark.parametrize("what", ["llamafile", "module"])
    def test_a_folder(self, room: Room, what: str, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        setattr(room, what, tmp_path / "folder")
        with pytest.raises(DeliveryError, match=r"is no file|Is a directory"):
            room.embed()

    def test_a_read_only_one(self, room: Room) -> None:
        room.llamafile.chmod(0o555)
        assert "chmod u+w" in room.refused("is read-only").hint

    def test_somebody_elses(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        assert "--output" in room.refused("belongs to user").hint

    @pytest.mark.usefixtures("permissions_hold")
    def test_a_folder_that_cannot_be_written(self, room: Room) -> None:
        room.folder.chmod(0o555)
        try:
            assert "--output" in room.refused("Permission denied").hint
        finally:
            room.folder.chmod(0o755)

    def test_a_model_without_a_program(self, room: Room) -> None:
        room.llamafile.write_bytes(WEIGHTS)
        room.refused("no ZIP directory")

    @pytest.mark.parametrize("data", [b"", b"PK", bytes(100), b"PK\5\6" + bytes(18)])
    def test_what_is_no_archive(self, room: Room, data: bytes) -> None:
        room.llamafile.write_bytes(data)
        room.refused("cannot be used")

    @given(where=st.integers(0, 10**9))
    @settings(max_examples=150)
    def test_one_that_was_cut_off_anywhere(
        self, tmp_path_factory: pytest.TempPathFactory, where: int
    ) -> None:
        room = Room(tmp_path_factory.mktemp("cut"))
        room.embed()
        data = room.llamafile.read_bytes()
        # Half of them in the directory, which is small.
        size = where % len(data) if where % 2 else len(data) - 1 - where % 600
        room.llamafile.write_bytes(data[:size])
        room.module.write_bytes(b"other")
        room.refused("cannot be used")

    @pytest.mark.parametrize("missing", [1, 3, 4, 5])
    def test_one_that_was_cut_off_in_its_comment(self, room: Room, missing: int) -> None:
        room.llamafile.write_bytes(packed({"model.gguf": WEIGHTS}, comment=b"mine")[:-missing])
        room.refused("cannot be used")

    def test_offsets_from_the_start_of_the_zip(self, room: Room) -> None:
        """``cat program zip`` without ``zip -A``: llamafile finds nothing in such a file."""
        room.llamafile.write_bytes(PROGRAM + packed({"model.gguf": WEIGHTS}, prefix=b""))
        room.refused("does not count from the start of the file")

    @pytest.mark.parametrize("at", [4, 6, 8])
    def test_a_part_of_several_disks(self, room: Room, at: int) -> None:
        data = bytearray(room.llamafile.read_bytes())
        data[len(data) - 22 + at] += 1
        room.llamafile.write_bytes(data)
        room.refused("part of several")

    @pytest.mark.parametrize(
        ("at", "value", "words"),
        [
            (0, b"XXXX", "ZIP64 record at its end is damaged"),  # its magic
            (16, b"\1", "part of several"),
            (24, b"\7", "part of several"),
            (40, b"\xff" * 8, "claims"),  # the directory's length
            (40, b"\5" + bytes(7), "not where its end says"),
            (48, b"\xff" * 8, "does not count from the start"),  # its place
            (48, b"\0" * 8, "does not count from the start"),
        ],
    )
    def test_a_damaged_zip64_record(self, room: Room, at: int, value: bytes, words: str) -> None:
        room.embed()
        data = bytearray(room.llamafile.read_bytes())
        start = len(data) - 22 - 20 - 56
        data[start + at : start + at + len(value)] = value
        room.llamafile.write_bytes(data)
        room.module.write_bytes(b"other")
        room.refused(words)

    def test_records_that_disagree(self, room: Room) -> None:
        room.embed()
        data = bytearray(room.llamafile.read_bytes())
        struct.pack_into("<I", data, len(data) - 6, len(PROGRAM))
        room.llamafile.write_bytes(data)
        room.module.write_bytes(b"other")
        room.refused("records at its end disagree")

    @pytest.mark.parametrize(
        ("at", "value", "words"),
        [
            (0, b"XX", "directory is damaged"),
            (20, b"\5\0\0\0", "states two sizes"),
            (20, b"\xfe\xff\xff\x7f", "reaches into the ZIP directory"),
            (28, b"\xff\xff", "directory is damaged"),  # the name's length
            (34, b"\1", "another disk"),
            (42, b"\1\0\0\0", "not where the ZIP directory says"),  # its header
            (42, b"\xff\xff\xff\xff", "lacks its ZIP64 sizes"),
            (46, b"x", "another name"),
        ],
    )
    def test_a_damaged_entry(self, room: Room, at: int, value: bytes, words: str) -> None:
        data = bytearray(room.llamafile.read_bytes())
        start = data.rindex(b"PK\1\2")
        data[start + at : start + at + len(value)] = value
        room.llamafile.write_bytes(data)
        room.refused(words)

    @given(seed=st.integers(0, 10**9), flip=st.integers(1, 255), back=st.integers(0, 600))
    @settings(max_examples=200)
    def test_any_damage_is_refused_or_does_no_harm(
        self, tmp_path_factory: pytest.TempPathFactory, seed: int, flip: int, back: int
    ) -> None:
        room = Room(tmp_path_factory.mktemp("damage"))
        data = bytearray(room.llamafile.read_bytes())
        data[len(data) - 1 - back if seed % 2 else seed % len(data)] ^= flip
        room.llamafile.write_bytes(data)
        try:
            room.embed()
        except DeliveryError:
            assert room.llamafile.read_bytes() == data
        else:
            copy = io.BytesIO()
            extract(room.llamafile, NAME, copy)
            assert copy.getvalue() == MODULE
        assert room.listing() == {room.llamafile.name, NAME}

    def test_members_that_cannot_be_read_are_carried_over(self, room: Room) -> None:
        """Encrypted, packed in ways of tomorrow: nobody has to look into them."""
        data = bytearray(packed({"secret": b"??????"}))
        for start in (data.rindex(b"PK\3\4"), data.rindex(b"PK\1\2")):
            local = data[start : start + 4] == b"PK\3\4"
            data[start + (6 if local else 8)] |= 1
            data[start + (8 if local else 10)] = 99
        room.llamafile.write_bytes(data)
        room.embed()
        with zipfile.ZipFile(room.llamafile) as archive:
            assert archive.getinfo("secret").compress_type == 99
            assert archive.read(NAME) == MODULE


class TestTrouble:
    """What can happen on the way."""

    def test_no_room(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(room.folder)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(copying, "share_blocks", lambda *_: False)
        assert "--output" in room.refused("1,000 left").hint

    @pytest.mark.parametrize("call", ["copy", "difference"])
    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
    def test_the_disk_gives_up(
        self, room: Room, monkeypatch: pytest.MonkeyPatch, number: int, call: str
    ) -> None:
        def fail(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(copying, "share_blocks", lambda *_: False)
        monkeypatch.setattr(copying, call, fail)
        error = room.refused(os.strerror(number))
        assert bool(error.hint) == (number != errno.EIO)

    @pytest.mark.skipif(sys.platform == "win32", reason="has no such limit")
    def test_a_limit_on_the_size_of_files(self, room: Room) -> None:
        import resource

        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
        try:
            assert "--output" in room.refused("too large").hint
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    @pytest.mark.parametrize("step", ["copying", "checking"])
    @pytest.mark.parametrize("what", ["grows", "shrinks", "is touched", "is replaced", "module"])
    def test_a_file_that_changes_meanwhile(self, room: Room, step: str, what: str) -> None:
        def meddle(event: object) -> None:
            if not (isinstance(event, StepStarted) and event.step.startswith(step)):
                return
            if what == "grows":
                with room.llamafile.open("ab") as file:
                    file.write(b"more")
            elif what == "shrinks":
                os.truncate(room.llamafile, 1000)
            elif what == "is touched":
                os.utime(room.llamafile, (1, 1))
            elif what == "is replaced":
                copy = room.folder / "copy"
                shutil.copy(room.llamafile, copy)
                copy.replace(room.llamafile)
            else:
                room.module.write_bytes(MODULE[:-1])

        with pytest.raises(DeliveryError, match=r"changed|damaged"):
            embed(room.llamafile, room.module, name=NAME, notify=meddle)
        assert room.listing() == {room.llamafile.name, NAME}
        if what != "shrinks":
            assert NAME not in room.contents()

    @pytest.mark.parametrize("where", [0, 9000, -1])
    def test_a_copy_that_is_not_one_is_noticed(
        self, room: Room, monkeypatch: pytest.MonkeyPatch, where: int
    ) -> None:
        whole = copying.copy

        def flip(source: io.FileIO, target: io.FileIO, length: int, *more: Any) -> None:
            whole(source, target, length, *more)
            os.pwrite(target.fileno(), b"!", where % length)

        monkeypatch.setattr(copying, "share_blocks", lambda *_: False)
        monkeypatch.setattr(copying, "copy", flip)
        room.refused("changed while it was copied")

    def test_a_module_that_arrives_damaged_is_noticed(self, room: Room) -> None:
        def flip(event: object) -> None:
            if isinstance(event, StepStarted) and event.step.startswith("checking"):
                (stage,) = room.folder.glob(".*.llamabuild")
                with stage.open("r+b") as file:
                    file.seek(stage.stat().st_size - 2000)
                    file.write(b"!")

        with pytest.raises(DeliveryError, match=r"copy of .* is damaged"):
            embed(room.llamafile, room.module, name=NAME, notify=flip)
        assert NAME not in room.contents()
        assert room.listing() == {room.llamafile.name, NAME}

    def test_an_interrupt_at_any_moment_leaves_the_old_file(self, room: Room) -> None:
        room.embed("ggml-rocm.so")
        moments = len(room.events)
        before = room.llamafile.read_bytes()
        for moment in range(moments):
            countdown = iter(range(moment, -1, -1))

            def interrupt(_: object, countdown: Any = countdown) -> None:
                if next(countdown) == 0:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                embed(room.llamafile, room.module, name=NAME, notify=interrupt)
            assert room.llamafile.read_bytes() == before
            assert room.listing() == {room.llamafile.name, NAME}

    def test_what_a_killed_one_left_is_used_again(self, room: Room) -> None:
        if sys.platform == "win32":
            pytest.skip("has no fork")
        before = room.llamafile.read_bytes()
        child = os.fork()
        if child == 0:
            embed(room.llamafile, room.module, name=NAME, notify=killed_at)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status)
        assert room.llamafile.read_bytes() == before
        assert len(room.listing()) == 3
        room.embed()
        assert room.contents()[NAME] == MODULE
        assert room.listing() == {room.llamafile.name, NAME}

    def test_one_at_a_time(self, room: Room) -> None:
        with staging.staged(room.llamafile):
            room.refused("another process is replacing")
        room.embed()

    def test_a_stage_that_becomes_the_target_is_not_emptied(
        self, room: Room, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its holder publishes it between another process's open and lock."""
        stage = room.folder / f".{room.llamafile.name}.llamabuild"
        stage.write_bytes(packed({"model.gguf": b"new"}))

        def publish_first(_: int) -> bool:
            stage.replace(room.llamafile)
            return True

        monkeypatch.setattr(staging, "try_lock", publish_first)
        with pytest.raises(DeliveryError, match="another process"):
            room.embed()
        assert room.contents()["model.gguf"] == b"new"

    @pytest.mark.parametrize("kind", ["link", "second name", "folder"])
    def test_something_else_has_the_stages_name(self, room: Room, kind: str) -> None:
        stage = room.folder / f".{room.llamafile.name}.llamabuild"
        precious = room.folder / "precious"
        precious.write_bytes(b"precious")
        if kind == "link":
            stage.symlink_to(precious)
        elif kind == "second name":
            stage.hardlink_to(precious)
        else:
            stage.mkdir()
        room.refused("in the way" if kind != "folder" else "Is a directory")
        assert precious.read_bytes() == b"precious"

    def test_many_at_once_leave_one_whole_file(self, room: Room) -> None:
        from concurrent.futures import ThreadPoolExecutor

        choices = {}
        for number in range(8):
            choices[number] = room.folder / f"{number}.so"
            choices[number].write_bytes(bytes([number]) * 100_000)

        def attempt(number: int) -> bool:
            try:
                embed(room.llamafile, choices[number], name=NAME)
            except DeliveryError:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            outcomes = list(pool.map(attempt, [*choices] * 4))
        assert any(outcomes)
        contents = room.contents()
        assert set(contents) == {*SOURCES, "model.gguf", NAME}
        assert contents[NAME] in {path.read_bytes() for path in choices.values()}
        assert not list(room.folder.glob(".*"))


def killed_at(event: object) -> None:
    if isinstance(event, StepStarted) and event.step.startswith("checking"):
        os.kill(os.getpid(), 9)
