"""``llamabuild embed``, from the command line to the llamafile and back."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.deliver.test_delivery import MODERN_EXPORTS, Machine, Said
from tests.unit.deliver.world import OURS, SHIPPED, World

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are named as on Linux")

NAME = "ggml-cuda.so"
Say = Callable[..., Said]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path)
    monkeypatch.chdir(found.cwd)
    for name, value in found.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LLAMABUILD_BACKUP_DIR", str(found.backups.root))
    return found


@pytest.fixture
def machine(world: World, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(world)
    monkeypatch.setattr("llamabuild.inspect.read_module", found.read_module)
    return found


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], machine: Machine) -> Say:
    return lambda *argv: Said(capsys, *map(str, argv))


def inside(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist() if name.endswith("so")}


def refused(say: Say, path: Path, *argv: object) -> Said:
    """The command fails, with the llamafile as it was and nothing beside it."""
    before, listing = path.read_bytes(), sorted(path.parent.iterdir())
    said = say("embed", *argv)
    assert said.code != 0
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == listing
    return said


class TestEmbed:
    def test_puts_a_module_in_and_rollback_takes_it_out(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        said = say("embed", path, world.module)
        assert (said.code, said.out) == (0, f"{path}\n"), said.err
        assert "added ggml-cuda.so" in said.err
        assert inside(path) == {NAME: OURS}
        assert say("rollback", path).code == 0
        assert inside(path) == {}

    def test_keeps_what_it_replaces(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        said = say("embed", path, world.module)
        assert "replaced ggml-cuda.so" in said.err
        assert "llamabuild rollback brings it back" in said.err
        assert inside(path) == {NAME: OURS}
        assert say("rollback", path).code == 0
        assert inside(path) == {NAME: SHIPPED}

    def test_twice_changes_nothing_the_second_time(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        say("embed", path, world.module)
        before = path.stat()
        said = say("embed", path, world.module)
        assert (said.code, said.out) == (0, f"{path}\n")
        assert "this very module already" in said.err
        assert path.stat() == before
        assert len(world.backups.records(path)) == 1

    def test_into_one_of_two_releases_that_share_sources(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        """Where they look differs, and matters to no module inside."""
        machine.release = "0.9.3"
        path = world.llamafile("0.9.3", text=False)
        assert say("embed", path, world.module).code == 0

    def test_into_one_that_does_not_tell_its_release(self, world: World, say: Say) -> None:
        path = world.llamafile("0.10.1", text=False)
        said = say("embed", path, world.module)
        assert said.code == 0
        assert "warning" in said.err
        assert "not checked" in said.err

    def test_says_what_is_still_taken_before_it(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.release = "0.9.3"
        path = world.llamafile("0.9.3")
        app = world.app("0.9.3")
        app.mkdir(parents=True)
        (app / NAME).write_bytes(SHIPPED)
        assert "still before it comes" in say("embed", path, world.module).err

    def test_elsewhere(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        before = path.read_bytes()
        said = say("embed", path, world.module, "--output", "new.llamafile")
        assert said.out == f"{world.cwd / 'new.llamafile'}\n"
        assert path.read_bytes() == before
        assert inside(world.cwd / "new.llamafile") == {NAME: OURS}
        assert world.backups.records(path) == ()

    def test_elsewhere_is_not_in_place_of_what_it_is_made_of(
        self, world: World, say: Say, tmp_path: Path
    ) -> None:
        path = world.llamafile("0.8.1")
        (tmp_path / "link").symlink_to(path)
        for output in (path, tmp_path / "link", world.module):
            assert (
                "--output would overwrite"
                in refused(say, path, path, world.module, "-o", output).err
            )
        assert world.module.read_bytes() == OURS

    def test_as_json(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        document = say("embed", path, world.module, "--json").document
        assert document["schema"] == 1
        assert (document["llamafile"], document["module"]) == (str(path), NAME)
        assert (document["action"], document["changed"]) == ("replaced", True)
        assert [each["size_bytes"] for each in document["replaced"]] == [len(SHIPPED)]
        assert document["size_bytes"] == path.stat().st_size

    @pytest.mark.parametrize("more", [[], ["--output", "new.llamafile"]])
    def test_a_dry_run_changes_nothing(self, world: World, say: Say, more: list[str]) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        before, listing = path.read_bytes(), sorted(world.cwd.iterdir())
        said = say("embed", path, world.module, "--dry-run", *more)
        assert (said.code, said.out) == (0, "")
        assert "would replace ggml-cuda.so" in said.err
        assert (path.read_bytes(), sorted(world.cwd.iterdir())) == (before, listing)
        assert not world.backups.root.exists()

    def test_a_link_is_followed_and_told_of(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        link = world.cwd / "link.llamafile"
        link.symlink_to(path)
        said = say("embed", link, world.module)
        assert said.out == f"{path}\n"
        assert "is a link to" in said.err
        assert link.is_symlink()


class TestRefused:
    def test_a_module_of_another_flavor(self, world: World, machine: Machine, say: Say) -> None:
        path = world.llamafile("0.8.1")
        machine.exported = MODERN_EXPORTS
        said = refused(say, path, path, world.module)
        assert said.code == 9
        assert "a classic one is needed" in said.err

    def test_a_module_of_another_version(self, world: World, machine: Machine, say: Say) -> None:
        path = world.llamafile("0.9.3")
        machine.release = "0.8.1"
        assert (
            "ggml_backend_cuda_get_device_properties" in refused(say, path, path, world.module).err
        )

    def test_a_module_for_gpus_of_another_maker(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        said = refused(say, path, path, world.module, "--name", "ggml-rocm.so")
        assert "code for NVIDIA GPUs, and ggml-rocm.so promises code for AMD GPUs" in said.err

    def test_a_module_for_another_system(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        said = refused(say, path, path, world.module, "--name", "ggml-cuda.dll")
        assert "is an ELF file, and ggml-cuda.dll would not be" in said.err

    def test_a_name_that_llamafile_does_not_look_for(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        other = world.cwd / "mine.so"
        other.write_bytes(OURS)
        assert "--name ggml-cuda.so" in refused(say, path, path, other).err

    def test_no_module_named(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        assert refused(say, path, path).code == 2

    def test_a_module_that_is_not_there(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1")
        assert refused(say, path, path, "missing.so").code == 2

    def test_llamafiles_own_folder(self, world: World, say: Say) -> None:
        app = world.app("0.9.3")
        app.mkdir(parents=True)
        (app / "ggml-cuda.cu").write_bytes(b"//")
        assert say("embed", app, world.module).code != 0

    def test_one_that_cannot_be_kept_is_not_replaced(
        self, world: World, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        (world.folder / "file").write_bytes(b"")
        monkeypatch.setenv("LLAMABUILD_BACKUP_DIR", str(world.folder / "file"))
        refused(say, path, path, world.module)


class TestRemove:
    def test_takes_the_only_one_out_and_rollback_puts_it_back(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        said = say("embed", "--remove", path)
        assert (said.code, said.out) == (0, f"{path}\n")
        assert "removed ggml-cuda.so" in said.err
        assert inside(path) == {}
        assert say("rollback", path).code == 0
        assert inside(path) == {NAME: SHIPPED}

    def test_asks_which_one_where_there_are_several(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED, rocm=SHIPPED)
        said = refused(say, path, "--remove", path)
        assert said.code == 2
        assert "ggml-cuda.so, ggml-rocm.so" in said.err
        assert say("embed", "--remove", path, "ggml-rocm.so").code == 0
        assert inside(path) == {NAME: SHIPPED}

    @pytest.mark.parametrize("name", [[], [NAME]])
    def test_none_is_there(self, world: World, say: Say, name: list[str]) -> None:
        path = world.llamafile("0.8.1")
        assert refused(say, path, "--remove", path, *name).code == 9

    def test_elsewhere_and_dry(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        before = path.read_bytes()
        assert say("embed", "--remove", path, "--dry-run").out == ""
        assert say("embed", "--remove", path, "-o", "thin.llamafile").code == 0
        assert path.read_bytes() == before
        assert inside(world.cwd / "thin.llamafile") == {}
