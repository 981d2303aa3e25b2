"""Large files, holes, and systems that know less."""

from __future__ import annotations

import errno
import io
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.deliver.llamafiles import (
    MODULE,
    NAME,
    SOURCES,
    WEIGHTS,
    Room,
)

from llamabuild.deliver import copying
from llamabuild.events import StepAdvanced, StepFinished, StepStarted


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def by_hand(*_: object) -> int:
    raise OSError(errno.ENOSYS, "no such call")


class TestCopying:
    """Large files, holes, and systems that know less."""

    @pytest.fixture(params=["the kernel", "an old kernel", "no holes", "shared blocks"])
    def way(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(copying, "CHUNK", 50_000)
        if request.param == "shared blocks":
            monkeypatch.setattr(copying, "share_blocks", _share_by_copying)
        else:
            monkeypatch.setattr(copying, "share_blocks", lambda *_: False)
        if request.param in {"an old kernel", "no holes"}:
            monkeypatch.setattr(os, "copy_file_range", by_hand, raising=False)
        if request.param == "no holes":
            monkeypatch.delattr(os, "SEEK_DATA", raising=False)
            monkeypatch.delattr(os, "SEEK_HOLE", raising=False)
        return str(request.param)

    def test_every_way_gives_the_same_file(self, room: Room, way: str) -> None:
        room.embed()
        assert room.contents() == {**SOURCES, "model.gguf": WEIGHTS, NAME: MODULE}

    @pytest.mark.skipif(not hasattr(os, "SEEK_DATA"), reason="no holes here")
    def test_holes_stay_holes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        with source.open("wb") as file:
            file.write(b"a" * 10_000)
            file.seek(40 << 20)
            file.write(b"b" * 10_000)
            file.truncate(80 << 20)
        if source.stat().st_blocks * 512 > 20 << 20:
            pytest.skip("this file system has no holes")
        steps: list[Any] = []
        length = 80 << 20
        with io.FileIO(source) as one, io.FileIO(target, "w+") as other:
            copying.copy(one, other, length, "copying", steps.append)
            assert copying.difference(one, other, length, "checking", steps.append) is None
            assert copying.data_bytes(one, length) < 1 << 20
            os.pwrite(other.fileno(), b"!", 60 << 20)  # where both had holes
            where = copying.difference(one, other, length, "checking", steps.append)
        assert where is not None
        assert where <= 60 << 20 < where + copying.CHUNK
        assert target.stat().st_blocks * 512 < 20 << 20

    @pytest.mark.parametrize(
        ("seconds_a_piece", "least", "most"),
        [(1.0, 45, 50), (0.01, 40, 60), (0.0005, 1, 3), (0.0, 0, 0)],
    )
    def test_it_says_how_far_it_is_but_not_too_often(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        seconds_a_piece: float,
        least: int,
        most: int,
    ) -> None:
        monkeypatch.setattr(copying, "CHUNK", 1000)
        clock = iter(itertools.count(0.0, seconds_a_piece))
        monkeypatch.setattr(time, "monotonic", lambda: next(clock))
        source = tmp_path / "source"
        source.write_bytes(os.urandom(3_000_000))
        steps: list[Any] = []
        with io.FileIO(source) as one, io.FileIO(tmp_path / "target", "w+") as other:
            copying.copy(one, other, 3_000_000, "copying", steps.append)
        shares = [event.share for event in steps if isinstance(event, StepAdvanced)]
        assert shares == sorted(shares)
        assert least <= len(shares) <= most
        assert [type(steps[0]), type(steps[-1])] == [StepStarted, StepFinished]

    def test_a_source_that_ends_early(self, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"short")
        with (
            io.FileIO(source) as one,
            io.FileIO(tmp_path / "target", "w+") as other,
            pytest.raises(EOFError),
        ):
            # (Without holes: with them, what is missing would be one.)
            _without_holes(lambda: copying.copy(one, other, 100, "copying", print))


def _without_holes(act: Callable[[], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(os, "SEEK_DATA", raising=False)
        patch.delattr(os, "SEEK_HOLE", raising=False)
        act()


def _share_by_copying(source: io.FileIO, target: io.FileIO) -> bool:
    """What a file system that shares blocks seems to do."""
    source.seek(0)
    target.seek(0)
    target.write(source.readall())
    return True
