"""Which folder is the cache."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from llamabuild.errors import StoreError
from llamabuild.store import Store, cache_root

from .conftest import Notes


def test_the_option_wins(tmp_path: Path) -> None:
    environ = {"LLAMABUILD_CACHE_DIR": "/b", "XDG_CACHE_HOME": "/c", "HOME": "/d"}
    assert cache_root(str(tmp_path), environ) == tmp_path


def test_then_the_variable(tmp_path: Path) -> None:
    environ = {"LLAMABUILD_CACHE_DIR": str(tmp_path / "b"), "HOME": "/d"}
    assert cache_root(None, environ) == tmp_path / "b"


def test_then_the_platforms_cache_folder(tmp_path: Path) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path / "c"), "HOME": str(tmp_path)}
    assert cache_root(None, environ) == tmp_path / "c" / "llamabuild"


def test_then_the_home(tmp_path: Path) -> None:
    assert cache_root(None, {"HOME": str(tmp_path)}) == tmp_path / ".cache" / "llamabuild"


@pytest.mark.parametrize("empty", [{"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "relative"}])
def test_variables_that_say_nothing(tmp_path: Path, empty: dict[str, str]) -> None:
    environ = empty | {"HOME": str(tmp_path), "LLAMABUILD_CACHE_DIR": ""}
    assert cache_root("", environ) == tmp_path / ".cache" / "llamabuild"


def test_names_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_root("c", {}) == tmp_path / "c"
    assert cache_root("~/c", {}) == Path("/home/me/c")


def test_no_home(notes: Notes) -> None:
    root = cache_root(None, {}, notes)
    assert root == Path(tempfile.gettempdir()) / f"llamabuild-{os.getuid()}"
    assert "there is no home folder" in notes
    assert "--cache-dir" in notes


def test_a_home_that_cannot_be_written(plain_user: Path, notes: Notes) -> None:
    home = plain_user / "home"
    home.mkdir(mode=0o500)
    root = cache_root(None, {"HOME": str(home)}, notes)
    assert root.is_relative_to(tempfile.gettempdir())
    assert f"{home}/.cache/llamabuild cannot be written" in notes


def test_nothing_is_created_to_find_out(tmp_path: Path, notes: Notes) -> None:
    assert cache_root(None, {"HOME": str(tmp_path)}, notes) == tmp_path / ".cache/llamabuild"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".cache").write_text("a file")
    assert cache_root(None, {"HOME": str(tmp_path)}, notes).is_relative_to(tempfile.gettempdir())
    assert f"{tmp_path}/.cache/llamabuild cannot be written" in notes


def test_a_home_that_is_not_there(plain_user: Path, notes: Notes) -> None:
    cache_root(None, {"HOME": "/nonexistent"}, notes)
    assert "/nonexistent/.cache/llamabuild cannot be written" in notes


def test_a_cache_that_became_read_only(plain_user: Path, notes: Notes) -> None:
    (plain_user / ".cache/llamabuild").mkdir(mode=0o500, parents=True)
    assert cache_root(None, {"HOME": str(plain_user)}, notes).name.startswith("llamabuild-")
    assert notes.texts


def test_a_folder_that_was_named_is_not_replaced(plain_user: Path) -> None:
    plain_user.chmod(0o500)
    root = cache_root(str(plain_user / "cache"), {})
    with pytest.raises(StoreError, match="Permission denied"):
        Store(root).create()


def test_a_trap_in_the_folder_for_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can take the fallback's name before we do; the store then refuses it."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    root = cache_root(None, {})
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(StoreError, match="other users can write"):
        Store(root)


def test_no_place_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    with pytest.raises(StoreError, match="no place for a cache") as caught:
        cache_root(None, {})
    assert "--cache-dir" in caught.value.hint


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_platforms_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    import platformdirs

    def known_folder(name: str, *, appauthor: bool) -> Path:
        assert appauthor is False
        return tmp_path / "Local" / name

    monkeypatch.setattr(platformdirs, "user_cache_path", known_folder)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_root(None, {"HOME": "/home/me"}) == tmp_path / "Local" / "llamabuild"
