"""A look at the cache that changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamabuild.errors import StoreError
from llamabuild.store import Store, checkup, intended_root

from .conftest import KEY, OTHER, publish


def everything(root: Path) -> dict[str, tuple[int, float, int]]:
    """What is there, with sizes and times."""
    return {
        str(path): (status.st_size, status.st_mtime, status.st_mode)
        for path in (root, *root.rglob("*"))
        for status in (path.lstat(),)
    }


def test_a_sound_cache(store: Store, root: Path) -> None:
    publish(store)
    before = everything(root)
    found = checkup(root, seconds=60)
    assert found is not None
    assert (found.sound, found.damaged, found.unread) == (1, (), 0)
    assert found.size_bytes > len(b"module")
    assert everything(root) == before


@pytest.mark.parametrize("content", [b"modulf", b"module and more", None])
def test_damage_is_told_and_left_where_it_is(
    store: Store, root: Path, content: bytes | None
) -> None:
    publish(store)
    path = publish(store, OTHER).path
    path.unlink() if content is None else path.write_bytes(content)
    before = everything(root)
    found = checkup(root, seconds=60)
    assert found is not None
    assert [damage.key for damage in found.damaged] == [OTHER]
    assert found.sound == 1
    assert everything(root) == before


def test_when_the_time_is_up_only_sizes_are_compared(store: Store, root: Path) -> None:
    publish(store).path.write_bytes(b"modulf")
    publish(store, OTHER).path.write_bytes(b"longer than it was")
    found = checkup(root, seconds=0)
    assert found is not None
    assert (found.sound, found.unread) == (1, 1)
    assert [damage.key for damage in found.damaged] == [OTHER]


def test_what_dead_builds_left_is_counted(store: Store, root: Path) -> None:
    publish(store)
    (store.base / "staging" / f"{KEY}.dead").mkdir()
    (store.base / "staging" / f"{KEY}.dead" / "object.o").write_bytes(bytes(1000))
    found = checkup(root, seconds=60)
    assert found is not None
    assert found.leftover_bytes == 1000


def test_no_cache_is_not_made(tmp_path: Path) -> None:
    assert checkup(tmp_path / "none", seconds=60) is None
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_others_can_write(store: Store, root: Path) -> None:
    root.chmod(0o777)
    with pytest.raises(StoreError, match="other users can write"):
        checkup(root, seconds=60)


def test_a_cache_that_cannot_be_read(plain_user: Path) -> None:
    root = plain_user / "cache"
    publish(Store(root))
    root.chmod(0)
    with pytest.raises(StoreError, match="cannot read"):
        checkup(root, seconds=60)


def test_where_it_would_be(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path / "home")}
    assert intended_root(None, home) == tmp_path / "home/.cache/llamabuild"
    assert intended_root("/x", {"LLAMABUILD_CACHE_DIR": "/y"}) == Path("/x")
    assert intended_root(None, {"LLAMABUILD_CACHE_DIR": "/y", **home}) == Path("/y")
    assert intended_root(None, {}) is None
    assert list(tmp_path.iterdir()) == []
