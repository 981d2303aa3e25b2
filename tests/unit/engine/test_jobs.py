"""Cores are shared out by one rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.engine.jobs import GIB, Share, share


@pytest.mark.parametrize(
    ("pieces", "cores", "gib", "expected"),
    [
        (1, 2, 24, Share(2, 2)),  # one architecture: the work inside it is divided
        (6, 2, 24, Share(2, 1)),  # more pieces than cores: processes are enough
        (1, 16, 128, Share(16, 16)),
        (6, 16, 128, Share(16, 3)),
        (120, 16, 128, Share(16, 1)),
        (120, 16, 8, Share(7, 1)),  # memory for seven, one GiB each, besides the reserve
        (1, 16, 1, Share(1, 1)),  # however little memory there is, one runs
    ],
)
def test_examples(pieces: int, cores: int, gib: int, expected: Share) -> None:
    assert (
        share(pieces=pieces, cores=cores, memory_bytes=gib * GIB, bytes_per_piece=GIB) == expected
    )


def test_the_users_number_is_obeyed() -> None:
    limits = {"cores": 2, "memory_bytes": 4 * GIB, "bytes_per_piece": 3 * GIB}
    assert share(pieces=6, jobs=8, **limits) == Share(8, 2)
    assert share(pieces=6, jobs=1, **limits) == Share(1, 1)


@given(st.integers(1, 500), st.integers(1, 256), st.integers(0, 1 << 45))
def test_no_core_idles_and_memory_holds(pieces: int, cores: int, memory: int) -> None:
    found = share(pieces=pieces, cores=cores, memory_bytes=memory, bytes_per_piece=3 * GIB)
    running = min(found.jobs, pieces)
    assert running * found.split >= found.jobs
    assert found.jobs <= cores
    assert found.jobs == 1 or found.jobs * 3 * GIB <= memory
