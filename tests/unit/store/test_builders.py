"""Several builders at once, and builders that come to a bad end."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from llamabuild.errors import StoreError
from llamabuild.events import Event
from llamabuild.store import Store

from .conftest import KEY, OTHER, Builders, Notes, leftovers, publish


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out.strip(), err


class Failure(Exception):
    """What a build raises."""


def fail(store: Store, key: str = KEY) -> Path:
    """Let a build fail; return the path of its log."""
    with suppress(Failure), store.claim(key) as staging:
        (staging.entry / "ggml-cuda.so").write_bytes(b"half")
        staging.log.write_text("error: no such thing")
        raise Failure
    return staging.log


def test_two_builders_one_compilation_two_results(builders: Builders) -> None:
    first = builders.start("hang")
    builders.wait_for("halfway")
    second = builders.start("hang")
    assert second.stderr is not None
    told = second.stderr.readline()
    assert f"waiting for process {first.pid} on {os.uname().nodename}" in told
    assert "since 20" in told
    builders.let_go("go")
    path, silence = finish(first)
    assert silence == ""
    assert finish(second)[0] == path
    assert Path(path).stat().st_size == 100_000
    assert builders.compilations() == 1


def test_who_is_waited_for_is_told_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store.claim(KEY)
    first.__enter__()
    polls = []

    def poll(seconds: float) -> None:
        polls.append(seconds)
        if len(polls) == 3:
            first.__exit__(None, None, None)

    monkeypatch.setattr("llamabuild.store.lock.time.sleep", poll)
    notes = Notes()
    with store.claim(KEY, notes):
        pass
    [told] = notes.texts
    assert f"waiting for process {os.getpid()} on " in told


def test_builders_of_two_keys_do_not_wait(builders: Builders) -> None:
    builders.start("hang")
    builders.wait_for("halfway")
    finish(builders.start(key=OTHER))
    builders.let_go("go")


@pytest.mark.parametrize("times", [1, 3])
def test_after_sigkill_the_same_command_works(builders: Builders, store: Store, times: int) -> None:
    for _ in range(times):
        victim = builders.start("hang")
        builders.wait_for("halfway")
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        (builders.folder / "halfway").unlink()
        assert store.lookup(KEY) is None
    path, words = finish(builders.start())
    assert words == ""  # nobody is waited for
    assert Path(path).stat().st_size == 100_000
    assert builders.compilations() == times + 1
    assert leftovers(store) == []


def test_a_waiting_builder_takes_over_from_a_killed_one(builders: Builders) -> None:
    victim = builders.start("hang")
    builders.wait_for("halfway")
    heir = builders.start()
    assert heir.stderr is not None
    heir.stderr.readline()
    victim.kill()
    assert Path(finish(heir)[0]).stat().st_size == 100_000
    assert builders.compilations() == 2


def test_a_killed_rebuild_leaves_the_old_module(builders: Builders, store: Store) -> None:
    publish(store, OTHER)
    victim = builders.start("hang")
    builders.wait_for("halfway")
    victim.kill()
    victim.wait()
    assert store.lookup(OTHER) is not None


def test_what_one_killed_builder_left_the_builder_of_another_key_removes(
    builders: Builders, store: Store
) -> None:
    victim = builders.start("hang")
    builders.wait_for("halfway")
    victim.kill()
    victim.wait()
    assert any(name.startswith(f"staging/{KEY}") for name in leftovers(store))
    publish(store, OTHER)
    assert not any(name.startswith("staging") for name in leftovers(store))


def test_what_a_living_builder_works_on_stays(builders: Builders, store: Store) -> None:
    busy = builders.start("hang")
    builders.wait_for("halfway")
    publish(store, OTHER)
    notes = Notes()
    assert [entry.artifact.key for entry in store.clear(notes)] == [OTHER]
    store.prune(older_than=0)
    builders.let_go("go")
    assert Path(finish(busy)[0]).stat().st_size == 100_000


def test_interrupt_while_waiting(builders: Builders) -> None:
    builders.start("hang")
    builders.wait_for("halfway")
    waiting = builders.start()
    assert waiting.stderr is not None
    waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in waiting.communicate(timeout=60)[1]


def test_readers_see_a_whole_entry_or_none(builders: Builders, store: Store) -> None:
    """While one module replaces another again and again, nobody ever sees a damaged one."""
    stop = threading.Event()
    notes = Notes()
    hits = []

    def read() -> None:
        own = Store(builders.root)
        while not stop.is_set():
            artifact = own.lookup(KEY, notes)
            if artifact is not None:
                hits.append(artifact.manifest["sha256"])

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    published = {
        publish(store, content=bytes([number]) * (50_000 + number)).manifest["sha256"]
        for number in range(40)
    }
    stop.set()
    for reader in readers:
        reader.join()
    assert notes.texts == []
    assert hits
    assert set(hits) <= published


def test_threads_exclude_each_other(store: Store) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        with Store(store.base.parent).claim(KEY):
            inside.append(1)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_a_failed_build_leaves_only_its_log(store: Store) -> None:
    log = fail(store)
    assert store.lookup(KEY) is None
    assert leftovers(store) == [f"logs/{KEY}.log"]
    assert log.read_text() == "error: no such thing"
    publish(store)
    assert leftovers(store) == []


def test_a_log_of_an_earlier_failure_is_not_published(store: Store) -> None:
    fail(store)
    with store.claim(KEY) as staging:
        (staging.entry / "x.so").write_bytes(b"x")
        artifact = store.publish(staging, "x.so", {})
    assert not artifact.path.with_name("build.log").exists()


def test_a_claim_that_finds_the_module_leaves_nothing(store: Store) -> None:
    publish(store)
    with store.claim(KEY):
        assert store.lookup(KEY) is not None
    assert leftovers(store) == []


class TestFullDisk:
    def test_while_publishing(self, store: Store, full_disk: None) -> None:
        with pytest.raises(StoreError, match="No space left on device") as caught:
            publish(store)
        assert "prune" in caught.value.hint
        assert store.lookup(KEY) is None
        assert not any(name.startswith("staging") for name in leftovers(store))

    def test_does_not_touch_the_old_module(
        self, store: Store, request: pytest.FixtureRequest
    ) -> None:
        publish(store, content=b"old")
        request.getfixturevalue("full_disk")
        with pytest.raises(StoreError):
            publish(store, content=b"new")
        found = store.lookup(KEY)
        assert found is not None
        assert found.path.read_bytes() == b"old"

    def test_that_is_really_full(self, small_disk: Path) -> None:
        store = Store(small_disk / "cache")
        with pytest.raises(OSError, match="No space left"):
            publish(store, content=b"x" * 2_000_000)
        assert not any(name.startswith("staging") for name in leftovers(store))
        fillers = fill(small_disk)
        with pytest.raises(StoreError, match="No space left"), store.claim(OTHER):
            pass
        for filler in fillers:
            filler.unlink()
        publish(store)


def fill(folder: Path) -> list[Path]:
    """Create files until there is no room for another one."""
    files: list[Path] = []
    with suppress(OSError):
        while True:
            files.append(folder / f"filler {len(files)}")
            files[-1].touch()
    return files[:-1]


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 512 KB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,nr_inodes=40", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(
    store: Store, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StoreError, match="cannot lock") as caught, store.claim(KEY):
        pass
    assert "local disk" in caught.value.hint


def test_nothing_is_told_when_nobody_is_waited_for(store: Store) -> None:
    told: list[Event] = []
    with store.claim(KEY, told.append):
        pass
    assert told == []
