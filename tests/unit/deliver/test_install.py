"""After an installation each release takes our module, and nothing that was there is lost."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.deliver.standin import COMPILED
from tests.unit.deliver.world import CRC, MODERN, OURS, SHIPPED, World, age

from llamabuild.deliver import exchange, install
from llamabuild.deliver.staging import Stage
from llamabuild.errors import DeliveryError, SourceError

FRESH = [name for name in CRC if tuple(map(int, name.split("."))) < (0, 8, 13)]
PRESENT = [name for name in CRC if name not in FRESH]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class TestEveryRelease:
    @pytest.mark.parametrize("release", [*CRC, *MODERN])
    def test_takes_what_was_installed(self, world: World, release: str) -> None:
        path = world.llamafile(release)
        world.install(path)
        for _ in range(2):  # a start must not spoil the next one
            start = world.start(path, release, nvcc=True)
            assert (start.loaded, start.compiled) == (OURS, False)

    @pytest.mark.parametrize("release", CRC)
    def test_takes_it_before_the_one_that_it_shipped_with(self, world: World, release: str) -> None:
        path = world.llamafile(release, cuda=SHIPPED)
        assert world.start(path, release).loaded == SHIPPED
        world.install(path)
        assert world.start(path, release, nvcc=True).loaded == OURS
        assert world.start(path, release).loaded == OURS

    @pytest.mark.parametrize("release", CRC)
    def test_takes_it_after_another_release_was_there(self, world: World, release: str) -> None:
        other = "0.7.0" if release != "0.7.0" else "0.8.0"
        world.start(world.llamafile(other, name="other.llamafile", cuda=SHIPPED), other)
        path = world.llamafile(release)
        world.install(path)
        assert world.start(path, release, nvcc=True).loaded == OURS

    @pytest.mark.parametrize("release", [*CRC, *MODERN])
    def test_takes_it_from_inside(self, world: World, release: str) -> None:
        path = world.llamafile(release, cuda=SHIPPED)
        world.install(path, embed=True)
        assert world.start(path, release).loaded == OURS

    @pytest.mark.parametrize("release", FRESH)
    def test_does_not_compile_again_when_its_sources_are_from_the_future(
        self, world: World, release: str
    ) -> None:
        path = world.llamafile(release)
        world.start(path, release)
        age(world.app(release) / "ggml-cuda.cu", -3600)
        world.install(path)
        assert world.start(path, release, nvcc=True).loaded == OURS

    def test_writes_the_module_last(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        real = exchange._copy

        def slowly(file: Any, stage: Stage) -> None:
            time.sleep(0.02)  # longer than the clock of any file system's times
            real(file, stage)

        monkeypatch.setattr(exchange, "_copy", slowly)
        path = world.llamafile("0.8.1")
        world.install(path)
        assert world.start(path, "0.8.1", nvcc=True).loaded == OURS

    @pytest.mark.parametrize("release", ["0.8.1", "0.9.3", "0.10.0"])
    def test_is_not_installed_twice(self, world: World, release: str) -> None:
        path = world.llamafile(release)
        assert world.install(path) is not None
        before = world.snapshot()
        assert world.install(path) is None
        assert world.snapshot() == before

    def test_is_installed_again_when_llamafile_would_compile(self, world: World) -> None:
        path = world.llamafile("0.8.1")
        world.install(path)
        age(world.app("0.8.1") / "ggml-cuda.so", 3600)
        assert world.install(path) is not None
        assert world.start(path, "0.8.1", nvcc=True).loaded == OURS


class TestPlace:
    def test_without_home_it_is_the_working_folder(self, world: World) -> None:
        del world.environ["HOME"]
        path = world.llamafile("0.9.3")
        plan = world.plan(path)
        assert plan.place.path == world.cwd / ".llamafile/v/0.9.3/ggml-cuda.so"
        assert any("there is no HOME" in remark for remark in plan.remarks)

    def test_old_releases_look_in_the_folder_for_temporary_files(self, world: World) -> None:
        world.environ["TMPDIR"] = str(world.folder / "tmp")
        path = world.llamafile("0.8.1")
        plan = world.plan(path)
        assert plan.place.path == world.folder / "tmp/.llamafile/ggml-cuda.so"
        assert any("TMPDIR" in remark for remark in plan.remarks)
        install.apply(plan, world.backups)
        assert world.start(path, "0.8.1", nvcc=True).loaded == OURS

    def test_a_module_inside_hides_every_other_in_0_10_0(self, world: World) -> None:
        path = world.llamafile("0.10.0", cuda=SHIPPED)
        with pytest.raises(DeliveryError, match="before any other") as caught:
            world.install(path)
        assert "--embed" in caught.value.hint
        assert not world.app("0.10.0").exists()

    def test_a_module_inside_is_passed_by_beside_the_llamafile(self, world: World) -> None:
        path = world.llamafile("0.10.6", cuda=SHIPPED)
        world.install(path)
        assert (world.cwd / "ggml-cuda.so").read_bytes() == OURS
        assert world.start(path, "0.10.6").loaded == OURS

    def test_a_module_beside_the_llamafile_is_replaced_where_it_hides_the_others(
        self, world: World
    ) -> None:
        path = world.llamafile("0.10.6")
        (world.cwd / "ggml-cuda.so").write_bytes(b"somebody's")
        world.install(path)
        assert world.start(path, "0.10.6").loaded == OURS
        assert not world.app("0.10.6").exists()

    def test_its_own_folder_is_preferred_as_other_releases_do_not_see_it(
        self, world: World
    ) -> None:
        path = world.llamafile("0.10.6")
        world.install(path)
        assert (world.app("0.10.6") / "ggml-cuda.so").read_bytes() == OURS
        assert not (world.cwd / "ggml-cuda.so").exists()

    def test_the_folder_itself_may_be_named(self, world: World) -> None:
        path = world.llamafile("0.8.12")
        world.start(path, "0.8.12", nvcc=True)
        world.install(world.app("0.8.12"))
        assert world.start(path, "0.8.12", nvcc=True).loaded == OURS

    def test_nothing_can_be_embedded_in_a_folder(self, world: World) -> None:
        world.start(world.llamafile("0.8.12"), "0.8.12")
        with pytest.raises(DeliveryError, match="is a folder"):
            world.install(world.app("0.8.12"), embed=True)

    def test_a_llamafile_that_is_a_link_is_the_file_it_leads_to(self, world: World) -> None:
        path = world.llamafile("0.10.6", cuda=SHIPPED)
        link = world.folder / "link.llamafile"
        link.symlink_to(path)
        plan = world.plan(link)
        assert plan.place.path == world.cwd / "ggml-cuda.so"
        assert plan.llamafile.notes == (f"{link} is a link to {path}",)

    def test_a_plan_writes_nothing(self, world: World) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        before = world.snapshot()
        plan = world.plan(path)
        assert world.snapshot() == before
        assert plan.sources[-1] == "ggml-cuda.cu"
        assert not world.backups.root.exists()


class TestRemarks:
    def remarks(self, world: World, path: Path, **options: Any) -> str:
        return "\n".join(world.plan(path, **options).remarks)

    def test_a_rocm_module_that_is_tried_first(self, world: World) -> None:
        path = world.llamafile("0.8.13", rocm=SHIPPED)
        words = self.remarks(world, path)
        assert "ROCm module is tried first" in words
        assert "--gpu nvidia" in words
        assert "ROCm" not in self.remarks(world, world.llamafile("0.10.6", rocm=SHIPPED))

    def test_a_module_that_hides_the_embedded_one(self, world: World) -> None:
        path = world.llamafile("0.9.3")
        world.install(path)
        (hidden,) = world.plan(path, embed=True).hidden_by
        assert f"still before it comes {world.app('0.9.3') / 'ggml-cuda.so'}" in hidden
        assert world.plan(path).hidden_by == ()

    def test_the_folder_that_old_releases_share(self, world: World) -> None:
        assert "shared by all releases" in self.remarks(world, world.llamafile("0.8.1"))
        assert "shared" not in self.remarks(world, world.llamafile("0.8.6"))

    def test_the_switch_without_which_no_gpu_is_used(self, world: World) -> None:
        assert "-ngl 999" in self.remarks(world, world.llamafile("0.8.1"))
        told = world.llamafile("0.8.1", args=b"-m\nmodel.gguf\n-ngl\n99\n")
        assert "-ngl" not in self.remarks(world, told)
        assert "-ngl" not in self.remarks(world, world.llamafile("0.10.6"))


class TestRefusal:
    """Whatever is refused, the machine stays as it was."""

    def refused(self, world: World, path: Path, words: str) -> DeliveryError:
        before = world.snapshot()
        with pytest.raises(DeliveryError, match=words) as caught:
            world.install(path)
        assert world.snapshot() == before
        return caught.value

    def test_a_folder_of_somebody_else(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        path = world.llamafile("0.8.1")
        world.start(path, "0.8.1")
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert "run llamabuild as" in self.refused(world, path, "belongs to").hint

    def test_an_empty_folder_of_somebody_else(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.llamafile("0.9.3")
        world.app("0.9.3").mkdir(parents=True)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        self.refused(world, path, r"\.llamafile belongs to")

    def test_a_link_to_a_folder_of_somebody_else(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        theirs = world.folder / "theirs"
        theirs.mkdir()
        (world.home / ".llamafile").symlink_to(theirs)
        real = Path.stat

        def stat(self: Path, **options: Any) -> os.stat_result:
            found = real(self, **options)
            if self.name == ".llamafile" and options.get("follow_symlinks", True):
                return os.stat_result((*tuple(found)[:4], 4711, *tuple(found)[5:10]))
            return found

        monkeypatch.setattr(Path, "stat", stat)
        self.refused(world, world.llamafile("0.9.3"), "theirs belongs to user 4711")

    def test_a_module_of_somebody_else(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        theirs = world.app("0.9.3") / "ggml-cuda.so"
        real = Path.lstat

        def lstat(self: Path) -> os.stat_result:
            found = real(self)
            if self == theirs:
                return os.stat_result((*tuple(found)[:4], 4711, *tuple(found)[5:10]))
            return found

        monkeypatch.setattr(Path, "lstat", lstat)
        self.refused(world, path, "belongs to user 4711")

    def test_a_link_out_of_the_folder(self, world: World) -> None:
        path = world.llamafile("0.9.3")
        victim = world.folder / "victim"
        victim.write_bytes(b"precious")
        world.app("0.9.3").mkdir(parents=True)
        (world.app("0.9.3") / "ggml-cuda.so").symlink_to(victim)
        self.refused(world, path, "link out of its folder")
        assert victim.read_bytes() == b"precious"

    def test_a_source_that_is_a_link_out_of_the_folder(self, world: World) -> None:
        path = world.llamafile("0.8.1")
        victim = world.folder / "victim"
        victim.write_bytes(b"precious")
        world.app("0.8.1").mkdir(parents=True)
        (world.app("0.8.1") / "ggml-cuda.cu").symlink_to(victim)
        self.refused(world, path, "link out of its folder")
        assert victim.read_bytes() == b"precious"

    def test_a_link_within_the_folder_is_replaced(self, world: World) -> None:
        path = world.llamafile("0.9.3")
        app = world.app("0.9.3")
        app.mkdir(parents=True)
        (app / "old.so").write_bytes(b"old")
        (app / "ggml-cuda.so").symlink_to("old.so")
        world.install(path)
        assert not (app / "ggml-cuda.so").is_symlink()
        assert (app / "old.so").read_bytes() == b"old"

    def test_a_folder_that_is_a_link_is_followed_and_said(self, world: World) -> None:
        (world.folder / "big disk").mkdir()
        (world.home / ".llamafile").symlink_to(world.folder / "big disk")
        path = world.llamafile("0.9.3")
        assert any("is a link to" in remark for remark in world.plan(path).remarks)
        world.install(path)
        assert world.start(path, "0.9.3").loaded == OURS

    def test_a_folder_that_is_a_link_to_nothing(self, world: World) -> None:
        (world.home / ".llamafile").symlink_to(world.folder / "gone")
        self.refused(world, world.llamafile("0.9.3"), "where there is no folder")

    def test_a_file_in_place_of_the_folder(self, world: World) -> None:
        (world.home / ".llamafile").write_bytes(b"")
        self.refused(world, world.llamafile("0.9.3"), "is not a folder")

    def test_a_folder_in_place_of_the_module(self, world: World) -> None:
        (world.app("0.9.3") / "ggml-cuda.so").mkdir(parents=True)
        self.refused(world, world.llamafile("0.9.3"), "neither a file")

    @pytest.mark.usefixtures("permissions_hold")
    def test_a_read_only_folder(self, world: World) -> None:
        world.home.chmod(0o555)
        try:
            self.refused(world, world.llamafile("0.9.3"), "cannot create")
        finally:
            world.home.chmod(0o755)

    def test_a_read_only_file_system(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        real = os.open

        def refuse(name: Any, flags: int, *more: Any, **options: Any) -> int:
            if flags & os.O_CREAT and "v/0.9.3" in str(name):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(name))
            return real(name, flags, *more, **options)

        monkeypatch.setattr(os, "open", refuse)
        assert "--embed" in self.refused(world, path, "Read-only").hint

    @pytest.mark.parametrize("release", ["0.8.1", "0.9.3"])
    def test_a_full_disk(self, world: World, monkeypatch: pytest.MonkeyPatch, release: str) -> None:
        path = world.llamafile(release, cuda=SHIPPED)
        world.start(path, release)
        (world.app(release) / "ggml.h").write_bytes(b"of another release")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(exchange, "_copy", full)
        assert "free some space" in self.refused(world, path, "No space").hint

    def test_a_disk_that_is_too_full_for_the_backup(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(type(world.backups), "_copy", full)
        self.refused(world, path, "cannot keep a copy")

    def test_a_file_that_is_cut_off(self, world: World) -> None:
        path = world.llamafile("0.9.3")
        path.write_bytes(path.read_bytes()[:-500])
        with pytest.raises(SourceError, match="still being written"):
            world.install(path)

    def test_another_installation_at_this_moment(self, world: World) -> None:
        from llamabuild.deliver.staging import staged

        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        with staged(world.app("0.9.3") / "ggml-cuda.so"):
            self.refused(world, path, "another process")
        world.install(path)


class TestInterruption:
    @pytest.mark.parametrize("interrupted_at", range(14))
    def test_at_any_rename_leaves_the_old_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
    ) -> None:
        other = world.llamafile("0.8.0", name="other.llamafile", cuda=SHIPPED)
        world.start(other, "0.8.0")
        path = world.llamafile("0.8.1")
        before = world.snapshot()
        real, calls = Stage.publish, []

        def publish(self: Stage, like: os.stat_result) -> None:
            if self._target.parent == world.app("0.8.1"):
                calls.append(self._target.name)
                if len(calls) == interrupted_at + 1:
                    raise KeyboardInterrupt
            real(self, like)

        monkeypatch.setattr(Stage, "publish", publish)
        if interrupted_at == 13:  # the last: twelve sources and the module were renamed
            world.install(path)
            assert calls[-1] == "ggml-cuda.so"
            return
        with pytest.raises(KeyboardInterrupt):
            world.install(path)
        assert world.snapshot() == before
        assert world.backups.records(world.app("0.8.1")) == ()
        assert world.start(other, "0.8.0", nvcc=True).loaded == SHIPPED

    @pytest.mark.parametrize("killed_at", [0, 1, 7, 12])
    def test_a_kill_at_a_rename_can_be_taken_back(
        self, world: World, monkeypatch: pytest.MonkeyPatch, killed_at: int
    ) -> None:
        other = world.llamafile("0.8.0", name="other.llamafile", cuda=SHIPPED)
        world.start(other, "0.8.0")
        path = world.llamafile("0.8.1")
        before = world.snapshot()
        child = os.fork()
        if child == 0:
            _kill_at(killed_at, world.app("0.8.1"), monkeypatch)
            world.install(path)
            os._exit(1)  # it was to be killed
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        world.install(path)
        assert world.start(path, "0.8.1", nvcc=True).loaded == OURS
        with pytest.raises(DeliveryError, match="nothing more to go back to"):
            _all_the_way_back(world, world.app("0.8.1"))
        assert world.snapshot() == before
        assert world.start(other, "0.8.0", nvcc=True).loaded == SHIPPED

    def test_a_kill_leaves_nothing_that_stops_the_next(self, world: World) -> None:
        path = world.llamafile("0.8.1")
        app = world.app("0.8.1")
        app.mkdir(parents=True)
        (app / ".ggml-cuda.so.llamabuild").write_bytes(b"half")
        (app / ".ggml.h.llamabuild").write_bytes(b"half")
        world.install(path)
        assert world.start(path, "0.8.1").loaded == OURS
        assert [entry for entry in app.iterdir() if entry.name.startswith(".")] == []

    def test_a_program_that_runs_keeps_its_module(self, world: World) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        with (world.app("0.9.3") / "ggml-cuda.so").open("rb") as running:
            world.install(path)
            assert running.read() == SHIPPED


def _all_the_way_back(world: World, folder: Path) -> None:
    while True:
        world.rollback(folder)


def _kill_at(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """End this process at a rename in ``folder``, with no chance to tidy up."""
    real, calls = Stage.publish, []

    def publish(self: Stage, like: os.stat_result) -> None:
        if self._target.parent == folder:
            calls.append(self._target.name)
            if len(calls) > count:
                os._exit(9)
        real(self, like)

    monkeypatch.setattr(Stage, "publish", publish)


def test_files_are_as_llamafile_would_leave_them(world: World) -> None:
    world.install(world.llamafile("0.8.1"))
    app = world.app("0.8.1")
    assert stat.S_IMODE((app / "ggml-cuda.so").stat().st_mode) == 0o755
    assert stat.S_IMODE((app / "ggml.h").stat().st_mode) == 0o644


def test_names_with_spaces_and_letters_of_other_alphabets(tmp_path: Path) -> None:
    folder = tmp_path / 'it\'s a "ß" путь $HOME'
    folder.mkdir()
    world = World(folder)
    path = world.llamafile("0.8.1")
    world.install(path)
    assert world.start(path, "0.8.1", nvcc=True).loaded == OURS


def test_the_stand_in_compiles_without_an_installation(world: World) -> None:
    """Or the tests above would show nothing."""
    path = world.llamafile("0.8.1", cuda=SHIPPED)
    assert world.start(path, "0.8.1", nvcc=True).loaded == COMPILED
