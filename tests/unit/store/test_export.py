"""Copies for ``--output``."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from llamabuild.errors import StoreError
from llamabuild.store import Artifact, Store, export

from .conftest import publish


@pytest.fixture
def artifact(store: Store) -> Artifact:
    return publish(store, content=b"module")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the user wants to have it; the name is as hard as users' names are."""
    folder = tmp_path / "dist 'é' \"x\""
    folder.mkdir()
    return folder


def test_to_a_file(artifact: Artifact, place: Path) -> None:
    assert export(artifact, place / "my.so") == place / "my.so"
    assert (place / "my.so").read_bytes() == b"module"
    assert [path.name for path in place.iterdir()] == ["my.so"]


def test_to_a_folder(artifact: Artifact, place: Path) -> None:
    assert export(artifact, str(place)) == place / "ggml-cuda.so"
    assert (place / "ggml-cuda.so").read_bytes() == b"module"


def test_a_path_that_ends_as_a_folder_becomes_one(artifact: Artifact, place: Path) -> None:
    assert export(artifact, f"{place}/a/b/") == place / "a" / "b" / "ggml-cuda.so"


def test_a_missing_folder_is_not_guessed(artifact: Artifact, place: Path) -> None:
    with pytest.raises(StoreError, match="there is no folder") as caught:
        export(artifact, place / "a" / "b.so")
    assert "end the path with /" in caught.value.hint


def test_replaces_what_is_there(artifact: Artifact, place: Path) -> None:
    (place / "my.so").write_bytes(b"an older and longer module")
    export(artifact, place / "my.so")
    assert (place / "my.so").read_bytes() == b"module"


def test_a_program_that_has_the_old_one_open_keeps_it(artifact: Artifact, place: Path) -> None:
    (place / "my.so").write_bytes(b"old")
    with (place / "my.so").open("rb") as loaded:
        export(artifact, place / "my.so")
        assert loaded.read() == b"old"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_a_linkers(artifact: Artifact, place: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = export(artifact, place)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask


def test_a_link_to_a_file_leads_to_the_file(artifact: Artifact, place: Path) -> None:
    (place / "real.so").write_bytes(b"old")
    (place / "link.so").symlink_to("real.so")
    assert export(artifact, place / "link.so") == place / "real.so"
    assert (place / "link.so").is_symlink()
    assert (place / "real.so").read_bytes() == b"module"


def test_a_link_to_a_folder_is_a_folder(artifact: Artifact, place: Path) -> None:
    (place / "real").mkdir()
    (place / "link").symlink_to("real")
    assert export(artifact, place / "link") == place / "real" / "ggml-cuda.so"


@pytest.mark.parametrize("target", ["nowhere.so", "missing/x.so", "link.so"])
def test_a_link_that_leads_nowhere(artifact: Artifact, place: Path, target: str) -> None:
    (place / "link.so").symlink_to(target)
    with pytest.raises(StoreError, match="a link that leads nowhere"):
        export(artifact, place / "link.so")
    assert [path.name for path in place.iterdir()] == ["link.so"]


def test_devices_and_pipes_are_refused(artifact: Artifact, place: Path) -> None:
    os.mkfifo(place / "pipe")
    (place / "link").symlink_to(os.devnull)
    for path in (place / "pipe", place / "link", Path(os.devnull)):
        with pytest.raises(StoreError, match="neither a plain file nor a folder"):
            export(artifact, path)
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_folder_with_the_modules_name_in_the_folder(artifact: Artifact, place: Path) -> None:
    (place / "ggml-cuda.so").mkdir()
    with pytest.raises(StoreError, match="neither a plain file"):
        export(artifact, place)


def test_a_name_that_is_too_long(artifact: Artifact, place: Path) -> None:
    with pytest.raises(StoreError, match="too long"):
        export(artifact, place / ("x" * 300))


def test_a_folder_that_cannot_be_written(plain_user: Path) -> None:
    artifact = publish(Store(plain_user / "cache"))
    (plain_user / "out").mkdir(mode=0o500)
    with pytest.raises(StoreError, match="Permission denied") as caught:
        export(artifact, plain_user / "out")
    assert "--output" in caught.value.hint


def test_a_full_disk(artifact: Artifact, place: Path, request: pytest.FixtureRequest) -> None:
    (place / "my.so").write_bytes(b"old")
    request.getfixturevalue("full_disk")
    with pytest.raises(StoreError, match="No space left") as caught:
        export(artifact, place / "my.so")
    assert "--output" in caught.value.hint
    assert [path.name for path in place.iterdir()] == ["my.so"]
    assert (place / "my.so").read_bytes() == b"old"


def test_a_module_that_was_pruned_meanwhile(artifact: Artifact, store: Store, place: Path) -> None:
    store.clear()
    with pytest.raises(StoreError, match="No such file"):
        export(artifact, place)
    assert list(place.iterdir()) == []
