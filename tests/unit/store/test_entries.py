"""Publishing, looking up, and telling a sound entry from a damaged one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest

from llamabuild.errors import StoreError
from llamabuild.store import Artifact, Store
from llamabuild.store.artifact import sha256

from .conftest import KEY, OTHER, Notes, leftovers, publish


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.lookup(KEY) is None
    assert store.entries() == ()


def test_what_was_published_is_found_whole(store: Store) -> None:
    published = publish(store, content=b"code for an H200")
    found = store.lookup(KEY)
    assert found == published
    assert found.path.read_bytes() == b"code for an H200"
    assert found.path == store.base / KEY / "ggml-cuda.so"
    assert sorted(path.name for path in found.path.parent.iterdir()) == [
        "build.log",
        "ggml-cuda.so",
        "manifest.json",
    ]
    assert (found.path.parent / "build.log").read_text() == "nvcc says nothing\n"
    assert leftovers(store) == []


def test_the_manifest_has_the_builders_words_and_the_stores(store: Store) -> None:
    manifest = dict(publish(store, content=b"abc").manifest)
    assert manifest.pop("created_at").endswith("Z")
    assert manifest == {
        "archs": ["90-real"],
        "key": KEY,
        "file": "ggml-cuda.so",
        "sha256": hashlib.sha256(b"abc").hexdigest(),
        "size_bytes": 3,
    }


def test_another_process_reads_the_same(store: Store, root: Path) -> None:
    assert publish(store) == Store(root).lookup(KEY)


def test_a_second_publication_replaces_the_first(store: Store) -> None:
    publish(store, content=b"old")
    publish(store, content=b"new")
    found = store.lookup(KEY)
    assert found is not None
    assert found.path.read_bytes() == b"new"
    assert leftovers(store) == []


def test_an_entry_may_be_carried_to_another_cache(store: Store, tmp_path: Path) -> None:
    publish(store)
    elsewhere = Store(tmp_path / "elsewhere")
    shutil.copytree(store.base / KEY, elsewhere.base / KEY)
    found = elsewhere.lookup(KEY)
    assert found is not None
    assert found.path.is_relative_to(tmp_path / "elsewhere")


def test_a_hit_does_not_read_the_module(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(store)

    def fail(path: Path) -> str:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr("llamabuild.store.cache.sha256", fail)
    assert store.lookup(KEY) is not None


def test_a_copied_module_is_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    module = publish(store).path
    shutil.copy(module, module.with_name("copy"))  # another inode and another time
    module.with_name("copy").replace(module)
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return sha256(path)

    monkeypatch.setattr("llamabuild.store.cache.sha256", digest)
    assert store.lookup(KEY) is not None
    assert store.lookup(KEY) is not None
    assert read == [module]


def truncate(entry: Path) -> None:
    os.truncate(entry / "ggml-cuda.so", 3)


def flip_a_byte(entry: Path) -> None:
    content = bytearray((entry / "ggml-cuda.so").read_bytes())
    content[2] ^= 1
    (entry / "ggml-cuda.so").write_bytes(content)


def remove_module(entry: Path) -> None:
    (entry / "ggml-cuda.so").unlink()


def module_is_a_folder(entry: Path) -> None:
    (entry / "ggml-cuda.so").unlink()
    (entry / "ggml-cuda.so").mkdir()


def module_is_a_link(entry: Path) -> None:
    (entry / "ggml-cuda.so").rename(entry / "elsewhere.so")
    (entry / "ggml-cuda.so").symlink_to("elsewhere.so")


def remove_manifest(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def manifest_is(text: bytes):
    def damage(entry: Path) -> None:
        (entry / "manifest.json").write_bytes(text)

    return damage


def manifest_says(**words: object):
    def damage(entry: Path) -> None:
        manifest = json.loads((entry / "manifest.json").read_text())
        (entry / "manifest.json").write_text(json.dumps(manifest | words))

    return damage


DAMAGES = {
    "truncated": (truncate, "ggml-cuda.so has 3 bytes instead of 6"),
    "flipped byte": (flip_a_byte, "the contents of ggml-cuda.so have changed"),
    "no module": (remove_module, "ggml-cuda.so: No such file"),
    "a folder for a module": (module_is_a_folder, "ggml-cuda.so is not a plain file"),
    "a link for a module": (module_is_a_link, "ggml-cuda.so is not a plain file"),
    "no manifest": (remove_manifest, "manifest.json: No such file"),
    "an empty manifest": (manifest_is(b""), "manifest.json is not a manifest"),
    "a torn manifest": (manifest_is(b'{"key": "01'), "manifest.json is not a manifest"),
    "a binary manifest": (manifest_is(b"\xff\x00\xfe"), "manifest.json is not a manifest"),
    "a list for a manifest": (manifest_is(b"[1]"), "manifest.json is not a manifest"),
    "a number for a manifest": (manifest_is(b"7"), "manifest.json is not a manifest"),
    "a deep manifest": (manifest_is(b"[" * 100_000), "manifest.json is not a manifest"),
    "another entry's manifest": (manifest_says(key=OTHER), f"is that of {OTHER}"),
    "a module outside": (manifest_says(file="../../x.so"), "manifest.json is not a manifest"),
    "a module that is a number": (manifest_says(file=7), "manifest.json is not a manifest"),
    "the folder for a module": (manifest_says(file=".."), "manifest.json is not a manifest"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES.keys())
class TestDamage:
    def test_is_no_hit_and_is_reported(self, store: Store, notes: Notes, damage, reason) -> None:
        publish(store)
        damage(store.base / KEY)
        assert store.lookup(KEY, notes) is None
        assert KEY in notes
        assert reason in notes

    def test_is_set_aside_by_the_next_builder(
        self, store: Store, notes: Notes, damage, reason
    ) -> None:
        publish(store)
        damage(store.base / KEY)
        with store.claim(KEY, notes) as staging:
            assert not (store.base / KEY).exists()
            (staging.entry / "ggml-cuda.so").write_bytes(b"again")
            store.publish(staging, "ggml-cuda.so", {})
        found = store.lookup(KEY)
        assert found is not None
        assert found.path.read_bytes() == b"again"
        [aside] = (store.base / "damaged").iterdir()
        assert str(aside) in notes

    def test_is_found_by_verify(self, store: Store, notes: Notes, damage, reason) -> None:
        publish(store)
        publish(store, OTHER)
        damage(store.base / KEY)
        [found] = store.verify(notes)
        assert found.key == KEY
        assert reason in found.reason
        assert [entry.artifact.key for entry in store.entries(notes)] == [OTHER]
        assert store.verify() == ()

    def test_does_not_stop_list_or_prune(self, store: Store, notes: Notes, damage, reason) -> None:
        publish(store)
        publish(store, OTHER)
        damage(store.base / KEY)
        assert [entry.artifact.key for entry in store.entries(notes)] == [OTHER]
        assert reason in notes
        assert store.prune() == ()
        assert not (store.base / KEY).exists()
        assert leftovers(store) == []


def test_verify_finds_what_a_lookup_cannot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit that flips on the disk leaves the file's identity as it was."""
    monkeypatch.setattr("llamabuild.memo.identity", str)
    publish(store)
    flip_a_byte(store.base / KEY)
    assert store.lookup(KEY) is not None
    assert [damage.key for damage in store.verify()] == [KEY]
    assert store.lookup(KEY) is None


def test_verify_leaves_a_damaged_entry_to_its_builder(store: Store) -> None:
    publish(store)
    with store.claim(KEY):
        truncate(store.base / KEY)
        assert [damage.key for damage in store.verify()] == [KEY]
        assert (store.base / KEY).exists()


def test_foreign_files_do_no_harm(store: Store) -> None:
    (store.base / "README").write_text("mine")
    (store.base / "0123").mkdir()
    (store.base / KEY.upper()).mkdir()
    (store.base / OTHER).write_text("a file with the name of a key")
    publish(store)
    (store.base / KEY / "notes.txt").write_text("mine, too")
    (store.base / "staging" / "x").mkdir()
    (store.base / "staging" / "a file").write_text("")
    assert store.lookup(KEY) is not None
    assert store.lookup(OTHER) is None
    assert [entry.artifact.key for entry in store.entries()] == [KEY]
    assert store.verify() == ()
    assert [entry.artifact.key for entry in store.clear()] == [KEY]
    assert (store.base / "README").read_text() == "mine"


def test_a_file_with_the_name_of_a_key_does_not_stop_its_builder(store: Store) -> None:
    (store.base / KEY).write_text("in the way")
    publish(store)
    assert store.lookup(KEY) is not None


@pytest.mark.parametrize("key", ["", "..", "../x", "0123", "A" * 32, "g" * 32, "0" * 65])
def test_what_is_no_key_names_no_folder(store: Store, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        store.lookup(key)


class TestFind:
    def test_by_key_and_by_prefix(self, store: Store) -> None:
        artifact = publish(store)
        publish(store, OTHER)
        assert store.find(KEY) == artifact
        assert store.find("0") == artifact

    def test_unknown(self, store: Store) -> None:
        publish(store)
        with pytest.raises(StoreError, match="no cached module begins with 'ff'") as caught:
            store.find("ff")
        assert caught.value.hint == "llamabuild cache list"

    def test_ambiguous(self, store: Store) -> None:
        publish(store)
        publish(store, KEY[:-1] + "0")
        with pytest.raises(StoreError, match="2 cached modules begin with '0123'"):
            store.find("0123")

    def test_damaged(self, store: Store, notes: Notes) -> None:
        publish(store)
        truncate(store.base / KEY)
        with pytest.raises(StoreError):
            store.find(KEY, notes)
        assert "damaged" in notes


class TestTheFolder:
    def test_is_not_created_to_look_into_it(self, tmp_path: Path, notes: Notes) -> None:
        store = Store(tmp_path / "not" / "there")
        assert store.lookup(KEY, notes) is None
        assert not (*store.entries(notes), *store.verify(notes), *store.clear(notes))
        with pytest.raises(StoreError, match="no cached module begins with '0123'"):
            store.find("0123", notes)
        assert notes.texts == []
        assert list(tmp_path.iterdir()) == []

    def test_is_checked_again_when_it_is_created(self, root: Path) -> None:
        store = Store(root)
        root.mkdir()
        root.chmod(0o777)
        with pytest.raises(StoreError, match="other users can write"):
            publish(store)

    def test_is_created_for_its_owner_alone(self, store: Store, root: Path) -> None:
        publish(store)
        for folder in (root, store.base, store.base / "staging", store.base / KEY):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_tells_backup_programs_to_pass(self, store: Store) -> None:
        tag = (store.base / "CACHEDIR.TAG").read_text()
        assert tag.startswith("Signature: 8a477f597d28d172789f06886806bc55")

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
    @pytest.mark.parametrize("folder", ["the cache", "the cache/v1"])
    def test_is_refused_if_others_can_write_it(
        self, store: Store, root: Path, folder: str, mode: int
    ) -> None:
        path = root.parent / folder
        path.chmod(mode)
        with pytest.raises(StoreError, match="other users can write") as caught:
            Store(root)
        assert caught.value.hint == f"chmod go-w '{path}'"
        assert caught.value.exit_code == 8

    def test_may_be_readable_for_others(self, root: Path) -> None:
        root.mkdir(mode=0o755)
        publish(Store(root))

    def test_may_be_a_link_to_a_folder(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "big disk").mkdir()
        root.symlink_to(tmp_path / "big disk")
        publish(Store(root))
        assert (tmp_path / "big disk" / "v1" / KEY).is_dir()

    def test_that_is_a_file(self, root: Path) -> None:
        root.write_text("")
        with pytest.raises(StoreError, match="Not a directory") as caught:
            Store(root)
        assert "--cache-dir" in caught.value.hint

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="Not a directory"):
            Store(tmp_path / "file" / "cache")

    def test_with_an_endless_name(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="too long") as caught:
            Store(tmp_path / ("x" * 300))
        assert "shorter" in caught.value.hint

    def test_of_somebody_else_is_refused(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        root.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(root, 4711, 4711)
        monkeypatch.setattr(os, "geteuid", lambda: 4712)
        with pytest.raises(StoreError, match="belongs to user"):
            Store(root)

    def test_of_root_is_trusted(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can make a folder of root's")
        Store(root).create()
        monkeypatch.setattr(os, "geteuid", lambda: 4712)
        Store(root)

    def test_relative_is_absolute_from_then_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        artifact: Artifact = publish(Store(Path("cache")))
        assert artifact.path == tmp_path / "cache" / "v1" / KEY / "ggml-cuda.so"


class TestReadOnly:
    def test_a_hit_needs_no_writing(self, plain_user: Path, notes: Notes) -> None:
        store = Store(plain_user)
        publish(store)
        for folder in (store.base, plain_user):
            folder.chmod(0o500)
        frozen = Store(plain_user)
        assert frozen.lookup(KEY, notes) is not None
        assert len(frozen.entries()) == 1
        assert frozen.verify() == ()
        assert notes.texts == []

    def test_a_builder_is_told(self, plain_user: Path) -> None:
        store = Store(plain_user)
        store.create().chmod(0o500)
        with (
            pytest.raises(StoreError, match="Permission denied") as caught,
            store.claim(KEY),
        ):
            pass
        assert "--cache-dir" in caught.value.hint
