from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.inspect.image import Damaged
from llamabuild.inspect.lz4 import decompress


@pytest.mark.parametrize(
    ("block", "data"),
    [
        (b"\x00", b""),
        (b"\x30abc", b"abc"),
        # Three literals, then four bytes from three back: the copy overlaps its own result.
        (b"\x30abc\x03\x00", b"abcabca"),
        (b"\x10a\x01\x00", b"aaaaa"),
        (b"\x1fa\x01\x00\xff\x02\x20bc", b"a" * (1 + 4 + 15 + 255 + 2) + b"bc"),
        (b"\xf0\x01" + b"x" * 16, b"x" * 16),
    ],
)
def test_blocks_by_hand(block, data):
    assert decompress(memoryview(block), len(data)) == data


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (b"\x30ab", 3),
        (b"\x30abc", 2),
        (b"\x30abc", 4),
        (b"\x10a\x00\x00", 5),
        (b"\x10a\x02\x00", 5),
        (b"\x1fa\x01\x00\xff", 300),
        (b"\x1fa\x01", 5),
        (b"\xf0\xff\xff\xff", 10),
    ],
)
def test_damaged_blocks(block, size):
    with pytest.raises(Damaged):
        decompress(memoryview(block), size)


@given(st.binary(max_size=300), st.integers(0, 2000))
def test_any_bytes_are_refused_or_give_what_was_promised(block, size):
    try:
        data = decompress(memoryview(block), size)
    except Damaged:
        return
    assert len(data) == size


@given(st.binary(max_size=600))
def test_what_a_plain_compressor_writes_is_read(data):
    assert decompress(memoryview(compress(data)), len(data)) == data


def compress(data: bytes) -> bytes:
    """A slow, plain LZ4: takes any earlier match of four bytes or more."""
    out, at, start = b"", 0, 0
    while at < len(data):
        found = data[:at].rfind(data[at : at + 4]) if at + 4 <= len(data) else -1
        if found < 0:
            at += 1
            continue
        length = 4
        while at + length < len(data) and data[found + length] == data[at + length]:
            length += 1
        out += sequence(data[start:at], length) + (at - found).to_bytes(2, "little")
        out += rest(length - 4)
        at = start = at + length
    return out + sequence(data[start:], 4)


def sequence(literals: bytes, match: int) -> bytes:
    token = min(len(literals), 15) << 4 | min(match - 4, 15)
    return bytes([token]) + rest(len(literals)) + literals


def rest(length: int) -> bytes:
    if length < 15:
        return b""
    return b"\xff" * ((length - 15) // 255) + bytes([(length - 15) % 255])
