"""Damaged and hostile archives, thousands of them: a clear error or a sound copy, nothing else."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamabuild.errors import SourceError
from llamabuild.memo import Memo
from llamabuild.source import archive, open_source
from llamabuild.source.bounded import Limits

#: Small bounds, so that breaking them shows.
LIMITS = Limits(members=200, unpacked=200_000, headers=50_000, dictionary=16 << 20)
SMALL = {"a.c": b"int a;" * 50, "sub/b.h": bytes(range(256)), "link": b"x", "empty.c": b""}


def mutants(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Variants of ``data``: bytes changed, cut out, doubled, moved; numbers made extreme."""
    chance = random.Random(seed)
    extremes = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"PK\1\2", b"77777777777\0")
    for _ in range(count):
        variant = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            place = chance.randrange(len(variant) or 1)
            length = chance.randint(1, 40)
            match chance.randrange(6):
                case 0:
                    variant[place : place + 1] = bytes([chance.randrange(256)])
                case 1:
                    del variant[place : place + length]
                case 2:
                    variant[place:place] = variant[place : place + length]
                case 3:
                    extreme = chance.choice(extremes)
                    variant[place : place + len(extreme)] = extreme
                case 4:
                    del variant[place:]
                case _:
                    other = chance.randrange(len(variant) or 1)
                    variant[place : place + length] = variant[other : other + length]
        yield bytes(variant)


def unpack(path: Path, into: Path) -> None:
    """Unpack, check the bounds, and empty the target again."""
    with suppress(SourceError):
        archive.unpack(path, into, wanted=lambda name: True, limits=LIMITS)
    sizes = []
    for entry in sorted(into.rglob("*"), reverse=True):
        assert not entry.is_symlink()
        if entry.is_dir():
            entry.rmdir()
        else:
            sizes.append(entry.stat().st_size)
            entry.unlink()
    assert len(sizes) <= LIMITS.members
    assert sum(sizes) <= LIMITS.unpacked + (1 << 20)


FORMS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


def packed(samples: Any, form: str) -> bytes:
    if form == "zip":
        return bytes(samples.zipped(SMALL, b"MZ program"))
    return bytes(samples.tarred(SMALL, "w" + form[3:].replace(".", ":")))


@pytest.mark.parametrize("form", FORMS)
def test_mutants_of_archives(tmp_path: Path, samples: Any, form: str) -> None:
    into, path = tmp_path / "into", tmp_path / "archive"
    into.mkdir()
    for data in mutants(packed(samples, form), 300, seed=len(form)):
        path.write_bytes(data)
        unpack(path, into)
        assert {entry.name for entry in tmp_path.iterdir()} == {"into", "archive"}


def test_mutants_of_a_tar_inside_sound_compression(tmp_path: Path, samples: Any) -> None:
    import gzip

    into, path = tmp_path / "into", tmp_path / "archive"
    into.mkdir()
    for data in mutants(packed(samples, "tar"), 200, seed=7):
        path.write_bytes(gzip.compress(data, 1))
        unpack(path, into)
        assert {entry.name for entry in tmp_path.iterdir()} == {"into", "archive"}


@given(st.binary(max_size=2000), st.sampled_from([b"", b"PK\3\4", b"\x1f\x8b\x08\0", b"BZh9"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(tmp_path: Path, data: bytes, start: bytes) -> None:
    path, into = tmp_path / "archive", tmp_path / "into"
    path.write_bytes(start + data)
    into.mkdir(exist_ok=True)
    unpack(path, into)


@pytest.mark.parametrize("form", ["llamafile", "tree"])
def test_mutants_of_sources(tmp_path: Path, samples: Any, form: str) -> None:
    scratch, path = tmp_path / "scratch", tmp_path / "source"
    whole = {
        "llamafile": lambda: samples.llamafile(samples.CLASSIC, weights=500),
        "tree": lambda: samples.tarred(samples.ONE_FILE, "w"),
    }[form]()
    opened = 0
    for data in mutants(whole, 150, seed=3):
        path.write_bytes(data)
        with suppress(SourceError):
            tree = open_source(
                str(path), scratch=scratch, environ={}, cwd=tmp_path, memo=Memo(None)
            )
            opened += 1
            assert {
                entry.relative_to(tree.root).as_posix()
                for entry in tree.root.rglob("*")
                if entry.is_file()
            } == set(tree.files)
        if scratch.exists():
            assert all(len(entry.name) == 64 for entry in scratch.iterdir())
        assert {entry.name for entry in tmp_path.iterdir()} <= {"scratch", "source"}
    assert opened, "every mutant was refused: they are too wild to test much"


def test_none_of_this_took_much_memory() -> None:
    # Of this whole process, in kibibytes; a hostile header asks for gigabytes.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20
