"""Modules in llamafiles: the layout, and what a change leaves as it was."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.deliver.llamafiles import (
    MODULE,
    NAME,
    SOURCES,
    WEIGHTS,
    Room,
    add_twice,
    packed,
)

from llamabuild.deliver import ziplayout
from llamabuild.deliver.embed import embed, extract, module_name, modules, remove
from llamabuild.errors import DeliveryError
from llamabuild.events import Note


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


class TestLayout:
    """The result is laid out as llamafile's zipalign lays it out."""

    def test_a_module_is_added_behind_everything(self, room: Room) -> None:
        before = room.llamafile.read_bytes()
        directory = before.index(b"PK\1\2")
        change = room.embed()
        after = room.llamafile.read_bytes()
        assert after[:directory] == before[:directory]
        assert room.contents() == {**SOURCES, "model.gguf": WEIGHTS, NAME: MODULE}
        assert (change.action, change.written) == ("added", True)
        assert change.size_after == len(after)

    def test_it_is_stored_aligned_and_dated_alike_everywhere(self, room: Room) -> None:
        room.embed()
        (member,) = modules(room.llamafile)
        assert member.stored
        assert member.start % 65536 == 0
        with zipfile.ZipFile(room.llamafile) as archive:
            info = archive.getinfo(NAME)
        assert info.date_time == (2023, 11, 14, 22, 13, 20)
        assert info.flag_bits == 0x800
        assert (info.volume, info.internal_attr, info.create_system) == (0, 0, 3)
        assert info.create_version == info.extract_version == 45
        assert stat.S_IMODE(info.external_attr >> 16) == 0o755

    def test_sizes_and_places_are_in_zip64_form(self, room: Room) -> None:
        room.embed()
        data = room.llamafile.read_bytes()
        (member,) = modules(room.llamafile)
        packed_size, size = struct.unpack_from("<2I", data, member.offset + 18)
        assert (packed_size, size) == (0xFFFFFFFF, 0xFFFFFFFF)
        assert struct.unpack_from("<2H2Q", data, member.start - 20) == (1, 16, *[len(MODULE)] * 2)
        assert struct.unpack_from("<I", member.record, 42) == (0xFFFFFFFF,)
        assert member.record.endswith(
            struct.pack("<2H3Q", 1, 24, *[len(MODULE)] * 2, member.offset)
        )
        # llamafile takes the ZIP64 record only where the old one does not say the place itself.
        assert struct.unpack_from("<I", data, len(data) - 6) == (0xFFFFFFFF,)
        assert data[-42:-38] == b"PK\6\7"
        assert struct.unpack_from("<QHH", data, len(data) - 94) == (44, 3 << 8 | 45, 45)

    def test_zip64_sizes_are_found_behind_another_field(self, room: Room) -> None:
        room.embed()
        with io.FileIO(room.llamafile) as file:
            layout = ziplayout.read_layout(file, room.llamafile)
        *others, last = (member.record for member in layout.members)
        other_field = struct.pack("<2H4s", 0x5455, 4, b"time")
        split = 46 + len(NAME)
        longer = bytearray(last[:split] + other_field + last[split:])
        struct.pack_into("<H", longer, 30, len(last) - split + len(other_field))
        entries = b"".join([*others, longer])
        end = ziplayout.end_records(len(layout.members), len(entries), layout.directory, b"")
        data = room.llamafile.read_bytes()[: layout.directory]
        room.llamafile.write_bytes(data + entries + end)
        assert room.contents()[NAME] == MODULE
        assert room.embed().action == "unchanged"

    def test_the_same_inputs_give_the_same_bytes(self, room: Room, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        other = Room(tmp_path / "other")
        other.llamafile.write_bytes(room.llamafile.read_bytes())
        room.embed()
        other.embed()
        assert room.llamafile.read_bytes() == other.llamafile.read_bytes()

    def test_the_comment_stays(self, room: Room) -> None:
        room.llamafile.write_bytes(packed({"model.gguf": WEIGHTS}, comment=b"mine"))
        room.embed()
        with zipfile.ZipFile(room.llamafile) as archive:
            assert archive.comment == b"mine"
        assert NAME in room.contents()

    def test_what_is_said_of_other_members_stays(self, room: Room) -> None:
        """Comments, extra fields, modes: the directory's entries are taken over as they are."""
        with zipfile.ZipFile(room.llamafile, "a") as archive:
            info = zipfile.ZipInfo("notes.txt", (1999, 1, 2, 3, 4, 6))
            info.comment, info.extra = b"a comment", struct.pack("<2H4s", 0x5455, 4, b"time")
            info.external_attr = 0o100640 << 16
            archive.writestr(info, b"notes")
        room.embed()
        with zipfile.ZipFile(room.llamafile) as archive:
            found = archive.getinfo("notes.txt")
        assert (found.comment, found.extra) == (info.comment, info.extra)
        assert (found.date_time, found.external_attr) == (info.date_time, info.external_attr)

    def test_bytes_behind_the_zip_stay_where_they_are(self, room: Room) -> None:
        """A signature, say: what is not understood is not thrown away."""
        before = packed({"model.gguf": WEIGHTS}) + b"signature"
        room.llamafile.write_bytes(before)
        room.embed()
        assert room.llamafile.read_bytes().startswith(before)
        assert room.contents()[NAME] == MODULE

    def test_what_older_tools_left_inside_stays_harmless(self, room: Room) -> None:
        """zipalign appends only: old directories and dead members remain in the middle."""
        old = packed({NAME: b"old", "model.gguf": WEIGHTS})
        stale = old.index(b"PK\1\2")
        room.llamafile.write_bytes(old + b"signature")
        room.embed()  # leaves the whole old ZIP, with its directory, in front
        assert room.llamafile.read_bytes()[stale:].startswith(b"PK\1\2")
        assert room.contents() == {**SOURCES, "model.gguf": WEIGHTS, NAME: MODULE}
        assert room.embed().action == "unchanged"


class TestReplacing:
    def test_the_same_module_again_changes_nothing(self, room: Room) -> None:
        room.embed()
        before = room.llamafile.stat()
        change = room.embed()
        assert (change.action, change.written) == ("unchanged", False)
        assert room.llamafile.stat() == before

    def test_a_module_of_one_length_and_other_bytes_is_another(self, room: Room) -> None:
        room.embed()
        room.module.write_bytes(MODULE[::-1])
        assert room.embed().action == "replaced"
        assert room.contents()[NAME] == MODULE[::-1]

    def test_one_that_is_there_but_deflated_is_laid_out_anew(self, room: Room) -> None:
        with zipfile.ZipFile(room.llamafile, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(NAME, MODULE)
        assert room.embed().action == "replaced"
        assert modules(room.llamafile)[0].aligned

    def test_replacing_again_and_again_does_not_make_it_grow(self, room: Room) -> None:
        room.embed()
        size = room.llamafile.stat().st_size
        for number in range(3):
            room.module.write_bytes(MODULE[:-1] + bytes([number]))
            room.embed()
            assert room.llamafile.stat().st_size == size

    def test_one_in_the_middle_leaves_a_gap(self, room: Room) -> None:
        """Weights behind the old module stay where they are, as zipalign would leave them."""
        room.llamafile.write_bytes(packed({NAME: b"old", "model.gguf": WEIGHTS}))
        change = room.embed()
        assert change.action == "replaced"
        assert [member.size_bytes for member in change.dropped] == [3]
        assert room.contents() == {**SOURCES, "model.gguf": WEIGHTS, NAME: MODULE}

    def test_one_that_is_there_twice_is_there_once_afterwards(self, room: Room) -> None:
        add_twice(room.llamafile)
        assert len(room.embed().dropped) == 2
        assert len(modules(room.llamafile)) == 1
        assert room.contents()[NAME] == MODULE

    def test_removing_takes_only_the_module(self, room: Room) -> None:
        room.embed()
        room.embed("ggml-rocm.so")
        change = remove(room.llamafile, name=NAME)
        assert change.action == "removed"
        assert set(room.contents()) == {*SOURCES, "model.gguf", "ggml-rocm.so"}

    def test_removing_leaves_nothing_of_it(self, room: Room) -> None:
        room.embed()
        (member,) = modules(room.llamafile)
        change = remove(room.llamafile, name=NAME)
        data = room.llamafile.read_bytes()
        assert MODULE not in data
        assert data[member.offset :].startswith(b"PK\1\2")
        assert change.size_after == len(data)

    def test_removing_what_is_not_there_says_what_is(self, room: Room) -> None:
        room.embed("ggml-rocm.so")
        before = room.llamafile.read_bytes()
        with pytest.raises(DeliveryError, match=r"no ggml-cuda\.so inside.*: ggml-rocm\.so"):
            remove(room.llamafile, name=NAME)
        assert room.llamafile.read_bytes() == before

    @given(data=st.data())
    @settings(max_examples=40)
    def test_any_history_ends_with_the_right_members(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        folder = tmp_path_factory.mktemp("history")
        room = Room(folder)
        prefix = data.draw(st.binary(max_size=70_000).map(lambda start: b"MZ" + start))
        room.llamafile.write_bytes(packed({"model.gguf": WEIGHTS}, prefix=prefix))
        expected = {**SOURCES, "model.gguf": WEIGHTS}
        names = st.sampled_from([NAME, "ggml-rocm.so", "ggml-cuda.dll"])
        for _ in range(data.draw(st.integers(1, 6))):
            name = data.draw(names)
            if name in expected and data.draw(st.booleans()):
                remove(room.llamafile, name=name)
                del expected[name]
            else:
                expected[name] = data.draw(st.binary(min_size=1, max_size=500))
                room.module.write_bytes(expected[name])
                room.embed(name)
            assert room.contents() == expected
            assert room.llamafile.read_bytes().startswith(prefix)
            assert all(member.aligned for member in modules(room.llamafile))
        assert room.listing() == {room.llamafile.name, NAME}


class TestOtherFile:
    def test_the_mode_is_that_of_the_old_file(self, room: Room) -> None:
        room.llamafile.chmod(0o750)
        room.embed()
        assert stat.S_IMODE(room.llamafile.stat().st_mode) == 0o750

    def test_a_process_that_has_the_old_file_open_keeps_it(self, room: Room) -> None:
        before = room.llamafile.read_bytes()
        with room.llamafile.open("rb") as running:
            room.embed()
            assert running.read() == before

    def test_the_result_can_go_elsewhere(self, room: Room, tmp_path: Path) -> None:
        before = room.llamafile.read_bytes()
        folder = tmp_path / "out"
        folder.mkdir()
        assert room.embed(output=folder).path == folder / room.llamafile.name
        assert room.embed(output=folder / "new").path == folder / "new"
        assert room.llamafile.read_bytes() == before
        for name in (room.llamafile.name, "new"):
            assert room.contents(folder / name)[NAME] == MODULE

    def test_a_copy_that_changes_nothing_is_still_a_copy(self, room: Room, tmp_path: Path) -> None:
        room.embed()
        change = room.embed(output=tmp_path / "copy.llamafile")
        assert change.written
        assert room.contents(tmp_path / "copy.llamafile") == room.contents()

    def test_a_folder_that_is_not_there(self, room: Room, tmp_path: Path) -> None:
        room.refused("there is no folder", output=tmp_path / "missing" / "new")

    def test_a_dry_run_writes_nothing(self, room: Room) -> None:
        before, listing = room.llamafile.read_bytes(), room.listing()
        change = room.embed(dry_run=True)
        assert (change.action, change.written) == ("added", False)
        assert room.llamafile.read_bytes() == before
        assert room.listing() == listing
        assert room.embed().size_after == change.size_after

    def test_a_link_is_followed_and_stays_a_link(self, room: Room, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        link = tmp_path / "elsewhere" / "link.llamafile"
        link.symlink_to(room.llamafile)
        change = embed(link, room.module, name=NAME, notify=room.events.append)
        assert change.path == room.llamafile
        assert link.is_symlink()
        assert room.contents()[NAME] == MODULE
        assert f"{link} is a link to {room.llamafile}" in [
            event.text for event in room.events if isinstance(event, Note)
        ]

    def test_another_name_of_the_file_is_told_of(self, room: Room, tmp_path: Path) -> None:
        (tmp_path / "second").hardlink_to(room.llamafile)
        before = room.llamafile.read_bytes()
        room.embed()
        assert (tmp_path / "second").read_bytes() == before
        assert any(
            isinstance(event, Note) and event.level == "warning" and "2 names" in event.text
            for event in room.events
        )


class TestExtract:
    def test_a_stored_and_a_deflated_one(self, room: Room) -> None:
        room.embed()
        for name, data in (
            (NAME, MODULE),
            ("llama.cpp/ggml-cuda.cu", SOURCES["llama.cpp/ggml-cuda.cu"]),
        ):
            copy = io.BytesIO()
            assert extract(room.llamafile, name, copy).size_bytes == len(data)
            assert copy.getvalue() == data

    def test_the_last_of_two_counts(self, room: Room) -> None:
        add_twice(room.llamafile)
        copy = io.BytesIO()
        extract(room.llamafile, NAME, copy)
        assert copy.getvalue() == b"second"

    @pytest.mark.parametrize("name", [NAME, "llama.cpp/ggml-cuda.cu"])
    def test_a_damaged_one(self, room: Room, name: str) -> None:
        room.embed()
        data = bytearray(room.llamafile.read_bytes())
        with zipfile.ZipFile(room.llamafile) as archive:
            info = archive.getinfo(name)
        start = info.header_offset + 30 + len(name) + (20 if name == NAME else 0)
        data[start + 2] ^= 0xFF
        room.llamafile.write_bytes(data)
        with pytest.raises(DeliveryError, match="is damaged"):
            extract(room.llamafile, name, io.BytesIO())

    def test_an_encrypted_one(self, room: Room) -> None:
        data = bytearray(packed({NAME: b"??????"}))
        data[data.rindex(b"PK\1\2") + 8] |= 1
        room.llamafile.write_bytes(data)
        with pytest.raises(DeliveryError, match="cannot be read here"):
            extract(room.llamafile, NAME, io.BytesIO())

    def test_one_that_is_not_there(self, room: Room) -> None:
        with pytest.raises(DeliveryError, match=r"no ggml-cuda\.so inside"):
            extract(room.llamafile, NAME, io.BytesIO())


class TestName:
    @pytest.mark.parametrize(
        ("path", "name", "expected"),
        [
            ("/cache/x/ggml-cuda.so", None, "ggml-cuda.so"),
            ("/somewhere/mine.so", "ggml-rocm.so", "ggml-rocm.so"),
            ("ggml-vulkan.dll", None, "ggml-vulkan.dll"),
        ],
    )
    def test_what_llamafile_looks_for(self, path: str, name: str | None, expected: str) -> None:
        assert module_name(Path(path), name) == expected

    @pytest.mark.parametrize(
        ("path", "name"),
        [("mine.so", None), ("ggml-cuda.so", "cuda"), ("ggml-cuda.so", "../ggml-cuda.so")],
    )
    def test_what_it_does_not(self, path: str, name: str | None) -> None:
        with pytest.raises(DeliveryError, match="looks for no module") as caught:
            module_name(Path(path), name)
        assert "--name ggml-cuda.so" in caught.value.hint
