"""Whatever happens to a store, in whatever order, it answers rightly or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llamabuild.store import Store

from .conftest import publish

KEYS = st.sampled_from([f"{number:032x}" for number in range(3)])


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="llamabuild-test-"))
        self.store = Store(self.folder / "cache")
        self.published: dict[str, bytes] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(key=KEYS, content=st.binary(min_size=1, max_size=8))
    def build(self, key: str, content: bytes) -> None:
        publish(self.store, key, content)
        self.published[key] = content

    @rule(key=KEYS)
    def die(self, key: str) -> None:
        """Leave everything lying, as SIGKILL does; the lock is free again."""
        with self.store.claim(key) as staging:
            (staging.entry / "ggml-cuda.so").write_bytes(b"half")
            shutil.copytree(staging.entry.parent, self.folder / "corpse", dirs_exist_ok=True)
            name = staging.entry.parent.name
        (self.folder / "corpse").rename(self.store.base / "staging" / name)

    @rule(key=KEYS, size=st.integers(0, 10))
    def truncate(self, key: str, size: int) -> None:
        with suppress(FileNotFoundError):
            os.truncate(self.store.base / key / "ggml-cuda.so", size)
            if len(self.published.get(key, b"")) != size:
                self.published.pop(key, None)

    @rule(key=KEYS, name=st.sampled_from(["ggml-cuda.so", "manifest.json"]))
    def lose(self, key: str, name: str) -> None:
        with suppress(FileNotFoundError):
            (self.store.base / key / name).unlink()
            self.published.pop(key, None)

    @rule(key=KEYS)
    def lose_all(self, key: str) -> None:
        shutil.rmtree(self.store.base / key, ignore_errors=True)
        self.published.pop(key, None)

    @rule()
    def verify(self) -> None:
        self.store.verify()

    @rule(keep=st.integers(0, 3))
    def prune(self, keep: int) -> None:
        for entry in self.store.prune(max_bytes=0, keep=keep):
            del self.published[entry.artifact.key]

    @rule()
    def start_again(self) -> None:
        self.store = Store(self.folder / "cache")

    @invariant()
    def answers_are_right(self) -> None:
        for key in (f"{number:032x}" for number in range(3)):
            artifact = self.store.lookup(key)
            found = None if artifact is None else artifact.path.read_bytes()
            assert found == self.published.get(key)
        assert {entry.artifact.key for entry in self.store.entries()} == set(self.published)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=25, stateful_step_count=15)
