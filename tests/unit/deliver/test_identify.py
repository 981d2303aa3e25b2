"""Which llamafile is it, without running it."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.unit.deliver.world import CRC, CUDA, World, classic, program
from tests.unit.source.conftest import zipped

from llamabuild.deliver import identify
from llamabuild.deliver.identify import is_program
from llamabuild.errors import LlamabuildError, SourceError, UsageError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestVersion:
    @pytest.mark.parametrize("release", ["0.6.0", "0.8.0", "0.8.1", "0.8.13", "0.9.0"])
    def test_by_the_sources_checksum(self, world: World, release: str) -> None:
        found = identify(world.llamafile(release, text=False))
        if len(found.candidates) == 1:
            assert found.version == release
        assert release in found.candidates
        assert found.told_by == "the checksums of its sources"

    @pytest.mark.parametrize("release", ["0.8.6", "0.9.3", "0.8.4", "0.10.0", "0.10.6"])
    def test_by_the_program_s_own_text(self, world: World, release: str) -> None:
        found = identify(world.llamafile(release))
        assert (found.candidates, found.version) == ((release,), release)
        assert release in found.told_by

    def test_releases_with_one_source_and_different_folders_are_a_question(
        self, world: World
    ) -> None:
        found = identify(world.llamafile("0.8.6", text=False))
        assert found.candidates == ("0.8.5", "0.8.6")
        with pytest.raises(SourceError, match=r"0\.8\.5 or 0\.8\.6") as caught:
            _ = found.version
        assert "--llamafile-version 0.8.6" in caught.value.hint

    def test_releases_that_do_all_the_same_are_none(self, world: World) -> None:
        found = identify(world.llamafile("0.8.4", text=False))
        assert found.candidates == ("0.8.2", "0.8.3", "0.8.4")
        assert found.version == "0.8.4"

    def test_the_user_may_know_better(self, world: World) -> None:
        path = world.llamafile("0.8.6", text=False)
        assert identify(path, version="0.8.5").version == "0.8.5"
        assert identify(path, version="v0.8.5").told_by == "--llamafile-version"

    def test_but_not_against_the_contents(self, world: World) -> None:
        path = world.llamafile("0.8.6", text=False)
        with pytest.raises(SourceError, match=r"that of 0\.8\.5 or 0\.8\.6"):
            identify(path, version="0.9.3")

    @pytest.mark.parametrize("version", ["", "9", "0.x", "0.8.6-beta", "latest", "0.5"])
    def test_what_is_no_release_is_refused(self, world: World, version: str) -> None:
        with pytest.raises(UsageError):
            identify(world.llamafile("0.8.6"), version=version)

    def test_a_text_that_contradicts_the_sources_does_not_count(self, world: World) -> None:
        path = world.cwd / "a.llamafile"
        path.write_bytes(zipped(classic("0.8.1"), program("0.9.3")))
        assert identify(path).version == "0.8.1"

    def test_two_texts_are_a_question(self, world: World) -> None:
        path = world.cwd / "a.llamafile"
        path.write_bytes(zipped(classic("0.8.6"), program("0.8.5") + program("0.8.6")))
        with pytest.raises(SourceError, match=r"0\.8\.5 or 0\.8\.6"):
            _ = identify(path).version

    def test_nothing_known_is_a_question(self, world: World) -> None:
        found = identify(world.llamafile("0.10.0", text=False))
        with pytest.raises(SourceError, match="does not tell") as caught:
            _ = found.version
        assert "--llamafile-version" in caught.value.hint

    def test_a_patched_source_is_a_question_unless_the_program_tells(self, world: World) -> None:
        contents = {**classic("0.8.1"), CUDA: b"patched"}
        path = world.cwd / "a.llamafile"
        path.write_bytes(zipped(contents, program(None)))
        with pytest.raises(SourceError, match="does not tell"):
            _ = identify(path).version
        path.write_bytes(zipped(contents, program("0.8.1")))
        assert identify(path).version == "0.8.1"

    def test_a_text_across_two_reads_is_found(self, world: World) -> None:
        path = world.cwd / "a.llamafile"
        for shift in range(-30, 4):
            start = bytes((1 << 20) + shift - 9)
            path.write_bytes(zipped({"x": b""}, b"MZqFpD='\n" + start + b"llamafile v0.10.1\n\0"))
            assert identify(path).candidates == ("0.10.1",), shift

    def test_a_text_in_the_weights_does_not_count(self, world: World) -> None:
        path = world.cwd / "a.llamafile"
        contents = {**classic("0.8.6"), "model.gguf": b"GGUF"}
        path.write_bytes(zipped(contents, program(None)))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo("b.gguf"), b"llamafile v0.8.5\n\0")
        assert identify(path).candidates == ("0.8.5", "0.8.6")


class TestContents:
    def test_are_told(self, world: World) -> None:
        path = world.llamafile("0.8.1", cuda=b"so", rocm=b"rocm", args=b"-m\nmodel.gguf\n...\n")
        found = identify(path)
        assert found.kind == "llamafile"
        assert [member.name for member in found.modules] == ["ggml-cuda.so", "ggml-rocm.so"]
        assert [member.name for member in found.weights] == ["model.gguf"]
        assert found.arguments == ("-m", "model.gguf", "...")
        assert found.sources[0].name == "ggml.h"
        assert found.sources[-1].name == "ggml-cuda.cu"
        assert f"{found.sources[-1].crc:08x}" == CRC["0.8.1"]
        assert found.contents() == {
            Path(name).name: data for name, data in classic("0.8.1").items()
        }

    def test_the_program_alone_has_no_weights(self, world: World) -> None:
        path = world.cwd / "llamafile-0.9.3"
        path.write_bytes(zipped(classic("0.9.3"), program("0.9.3")))
        assert (identify(path).kind, identify(path).version) == ("program", "0.9.3")


class TestFolders:
    def test_one_llamafile_in_a_folder_is_meant(self, world: World) -> None:
        path = world.llamafile("0.8.1")
        (world.cwd / "notes.txt").write_text("x")
        assert identify(world.cwd).path == path

    def test_several_are_a_question(self, world: World) -> None:
        world.llamafile("0.8.1")
        world.llamafile("0.9.3", name="b.llamafile")
        with pytest.raises(SourceError, match="2 llamafiles"):
            identify(world.cwd)

    def test_llamafiles_own_folder_for_a_release(self, world: World) -> None:
        world.start(world.llamafile("0.8.6"), "0.8.6")
        found = identify(world.app("0.8.6"))
        assert (found.kind, found.version) == ("folder", "0.8.6")
        assert found.sources[-1].name == "ggml-cuda.cu"

    def test_a_release_without_sources(self, world: World) -> None:
        folder = world.app("0.10.4")
        folder.mkdir(parents=True)
        assert identify(folder).version == "0.10.4"

    def test_the_folder_that_old_releases_share(self, world: World) -> None:
        world.start(world.llamafile("0.8.1"), "0.8.1")
        assert identify(world.home / ".llamafile").version == "0.8.1"

    def test_the_folder_of_all_releases_is_a_question(self, world: World) -> None:
        world.app("0.9.3").mkdir(parents=True)
        world.app("0.10.4").mkdir(parents=True)
        with pytest.raises(SourceError, match="several releases"):
            identify(world.home / ".llamafile")

    def test_any_other_folder_is_refused(self, world: World) -> None:
        with pytest.raises(SourceError, match="holds no llamafile"):
            identify(world.home)


class TestBadFiles:
    @pytest.mark.skipif(sys.platform == "win32", reason="has no such files")
    def test_one_that_would_be_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "x.llamafile")
        with pytest.raises(SourceError, match="neither a file nor a folder"):
            identify(tmp_path / "x.llamafile")
        assert not is_program(tmp_path / "x.llamafile")

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "is empty"),
            (b"GGUF" + bytes(100), "a model's weights"),
            (b"hello", "no program"),
            (b"PK\3\4", "no program"),
            (b"MZqFpD='\n" + bytes(5000), "no ZIP directory"),
            (b"\x7fELF" + bytes(5000), "no ZIP directory"),
        ],
    )
    def test_are_refused_with_the_reason(self, world: World, data: bytes, words: str) -> None:
        path = world.cwd / "a.llamafile"
        path.write_bytes(data)
        with pytest.raises(SourceError, match=words):
            identify(path)

    def test_a_download_that_has_not_ended(self, world: World) -> None:
        path = world.llamafile("0.8.1")
        data = path.read_bytes()
        for part in (0.2, 0.5, 0.9, 0.999):
            path.write_bytes(data[: int(len(data) * part)])
            with pytest.raises(SourceError, match="still being written"):
                identify(path)
        path.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))  # room made beforehand
        with pytest.raises(SourceError, match="still being written"):
            identify(path)

    @pytest.mark.parametrize("name", ["missing", "circle", "dangling"])
    def test_what_is_not_there(self, world: World, name: str) -> None:
        (world.cwd / "circle").symlink_to("circle")
        (world.cwd / "dangling").symlink_to("nowhere")
        with pytest.raises(SourceError, match="cannot be read"):
            identify(world.cwd / name)

    def test_damaged_files_are_errors_and_never_tracebacks(self, world: World) -> None:
        path = world.llamafile("0.8.1", cuda=b"so", args=b"-m\nx\n")
        whole = path.read_bytes()
        rng = random.Random(1)
        for _ in range(150):
            data = bytearray(whole)
            for _ in range(rng.randrange(1, 8)):
                place = rng.choice([rng.randrange(len(data)), len(data) - rng.randrange(1, 1500)])
                data[place] = rng.randrange(256)
            path.write_bytes(data)
            try:
                found = identify(path)
                found.contents()
            except LlamabuildError:
                continue

    def test_thirty_gigabytes_are_not_read(self, world: World) -> None:
        path = world.cwd / "huge.llamafile"
        with path.open("wb") as file:
            file.write(program("0.8.6"))
            with zipfile.ZipFile(file, "a") as archive:
                for name, data in classic("0.8.6").items():
                    archive.writestr(name, data)
                archive.start_dir = file.seek(30 << 30)  # a hole, where the weights would be
        if path.stat().st_blocks > 1 << 20:
            pytest.skip("this file system has no holes in files")
        tracemalloc.start()
        try:
            assert identify(path).version == "0.8.6"
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()
            path.unlink()


def test_a_program_part_without_end_is_looked_through_up_to_a_bound(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = sys.modules["llamabuild.deliver.identify"]
    monkeypatch.setattr(module, "_PROGRAM", 1 << 20)
    path = world.cwd / "a.llamafile"
    far = b"MZqFpD='\n" + bytes(1 << 20) + b"llamafile v0.10.1\n\0"
    path.write_bytes(zipped({"x": b""}, far))
    assert identify(path).candidates == ()
