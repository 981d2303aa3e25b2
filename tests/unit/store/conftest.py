"""A store in a fresh folder, and the people who work in it."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from llamabuild import events
from llamabuild.store import Artifact, Store

KEY = "0123456789abcdef0123456789abcdef"
OTHER = "fedcba9876543210fedcba9876543210"
NOBODY = 65534


@dataclass
class Notes:
    """A listener that keeps the sentences it hears."""

    texts: list[str] = field(default_factory=list)

    def __call__(self, event: events.Event) -> None:
        assert isinstance(event, events.Note)
        self.texts.append(event.text)

    def __contains__(self, words: str) -> bool:
        return any(words in text for text in self.texts)


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "the cache"


@pytest.fixture
def store(root: Path) -> Store:
    """One that is there."""
    store = Store(root)
    store.create()
    return store


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing reach the disk any more."""

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)


@pytest.fixture
def plain_user(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be a user without privileges for the length of a test; return a folder of that user."""
    folder = Path(tempfile.mkdtemp(prefix="llamabuild-test-"))
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield folder
    finally:
        if root:
            os.setresuid(0, 0, 0)
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)


def publish(store: Store, key: str = KEY, content: bytes = b"module") -> Artifact:
    """Build ``key`` the way the pipeline does."""
    with store.claim(key) as staging:
        (staging.work / "object.o").write_bytes(b"o")
        (staging.entry / "ggml-cuda.so").write_bytes(content)
        staging.log.write_text("nvcc says nothing\n")
        return store.publish(staging, "ggml-cuda.so", {"archs": ["90-real"]})


def leftovers(store: Store) -> list[str]:
    """What is in the store beside whole entries and its own empty rooms."""
    rooms = ("staging", "damaged", "logs")
    return sorted(
        str(path.relative_to(store.base))
        for room in rooms
        if (store.base / room).exists()
        for path in (store.base / room).iterdir()
    )


class Builders:
    """Builders that are processes of their own; see ``builder.py``."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self._running: list[subprocess.Popen[str]] = []

    def start(self, *words: str, key: str = KEY) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("builder.py")),
                str(self.root),
                key,
                str(self.folder),
                *words,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._running.append(process)
        return process

    def wait_for(self, name: str) -> None:
        """Wait until a builder has left its mark ``name``."""
        deadline = time.monotonic() + 60
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"no builder came to {name}"
            for process in self._running:
                if process.poll() not in {None, 0, -signal.SIGKILL}:
                    pytest.fail(f"a builder died: {process.communicate()[1]}")
            time.sleep(0.01)

    def let_go(self, name: str) -> None:
        (self.folder / name).touch()

    def compilations(self) -> int:
        return len(list(self.folder.glob("compiled.*")))

    def stop(self) -> None:
        for process in self._running:
            process.kill()
            process.communicate()


@pytest.fixture
def builders(tmp_path: Path, root: Path) -> Iterator[Builders]:
    folder = tmp_path / "marks"
    folder.mkdir()
    crew = Builders(folder, root)
    yield crew
    crew.stop()
