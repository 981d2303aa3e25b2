"""What is removed, and what stays."""

from __future__ import annotations

import os
import time

from llamabuild.store import Store

from .conftest import Notes, leftovers, publish

DAY = 86400.0


def key(number: int) -> str:
    return f"{number:032x}"


def fill(store: Store, ages: list[float], size: int = 1000) -> None:
    """Publish one module per age (days since its last use)."""
    for number, days in enumerate(ages):
        artifact = publish(store, key(number), b"x" * size)
        used = time.time() - days * DAY
        os.utime(artifact.path.with_name("manifest.json"), (used, used))


def kept(store: Store) -> list[int]:
    return sorted(int(entry.artifact.key, 16) for entry in store.entries())


def test_without_a_limit_no_module_is_removed(store: Store) -> None:
    fill(store, [0, 400])
    assert store.prune() == ()
    assert kept(store) == [0, 1]


def test_by_age(store: Store) -> None:
    fill(store, [0, 10, 40])
    removed = store.prune(older_than=30 * DAY)
    assert [entry.artifact.key for entry in removed] == [key(2)]
    assert kept(store) == [0, 1]


def test_a_use_makes_young(store: Store) -> None:
    fill(store, [40, 40])
    store.lookup(key(0))
    store.prune(older_than=30 * DAY)
    assert kept(store) == [0]


def test_by_size_the_longest_unused_go(store: Store) -> None:
    fill(store, [3, 1, 2], size=10_000)
    size = store.entries()[0].size_bytes
    assert size > 10_000
    store.prune(max_bytes=2 * size)
    assert kept(store) == [1, 2]


def test_by_size_a_smaller_one_may_fit_where_a_larger_one_does_not(store: Store) -> None:
    fill(store, [1])
    size = store.entries()[0].size_bytes
    publish(store, key(5), b"x" * 10_000)
    fill(store, [1, 3, 2])
    os.utime(store.base / key(5) / "manifest.json", (0, 0))
    publish(store, key(6), b"x" * 10_000)
    store.prune(max_bytes=3 * size)
    assert kept(store) == [0, 1, 2]


def test_some_are_kept_in_any_case(store: Store) -> None:
    fill(store, [3, 1, 2])
    store.prune(older_than=0, max_bytes=0, keep=2)
    assert kept(store) == [1, 2]


def test_listed_by_last_use(store: Store) -> None:
    fill(store, [3, 1, 2])
    assert [int(entry.artifact.key, 16) for entry in store.entries()] == [1, 2, 0]


def test_clear(store: Store) -> None:
    fill(store, [0, 1])
    assert len(store.clear()) == 2
    assert kept(store) == []
    assert leftovers(store) == []
    publish(store)


def test_what_is_being_built_stays(store: Store, notes: Notes) -> None:
    fill(store, [5, 5])
    with store.claim(key(0)) as staging:
        assert [entry.artifact.key for entry in store.clear(notes)] == [key(1)]
        assert staging.entry.is_dir()
    assert kept(store) == [0]
    assert f"{key(0)} is being built" in notes


def test_logs_of_failed_builds_go(store: Store) -> None:
    log = store.base / "logs" / f"{key(0)}.log"
    with store.claim(key(1)) as busy:
        log.write_text("failed")
        busy.log.write_text("under way")
        store.prune()
        assert not log.exists()
        assert busy.log.exists()
