"""Models that are all head: their weights are holes in the file."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llamabuild.advise import Model, read_model

__all__ = ["LLAMA", "WEIGHTS", "Forge", "llama"]

KINDS = {bool: 7, int: 4, float: 6, str: 8, tuple: 9}


class Forge:
    """Writes GGUF files, byte by byte, as the format's own page says."""

    def __init__(self, folder: Path, *, version: int = 3, order: str = "<") -> None:
        self.folder = folder
        self.version = version
        self.order = order

    def pack(self, kind: str, *numbers: Any) -> bytes:
        return struct.pack(self.order + kind, *numbers)

    def wide(self, number: int) -> bytes:
        return self.pack("I" if self.version == 1 else "Q", number)

    def text(self, text: str | bytes) -> bytes:
        data = text.encode() if isinstance(text, str) else text
        return self.wide(len(data)) + data

    def value(self, value: Any) -> bytes:
        return self.pack("I", KINDS[type(value)]) + self.bare(value)

    def bare(self, value: Any) -> bytes:
        if isinstance(value, tuple):
            kind = KINDS[type(value[0])] if value else 4
            return self.pack("I", kind) + self.wide(len(value)) + b"".join(map(self.bare, value))
        if isinstance(value, str):
            return self.text(value)
        return self.pack({bool: "B", int: "I", float: "f"}[type(value)], value)

    def head(
        self,
        values: Mapping[str, Any],
        tensors: Sequence[tuple[str, tuple[int, ...], int, int]] = (),
        *,
        pairs: int | None = None,
        count: int | None = None,
    ) -> bytes:
        """``tensors``: name, dimensions, number of the type, offset. The counts may be lies."""
        head = b"GGUF" + self.pack("I", self.version)
        head += self.wide(len(tensors) if count is None else count)
        head += self.wide(len(values) if pairs is None else pairs)
        for key, value in values.items():
            head += self.text(key) + self.value(value)
        for name, dimensions, kind, offset in tensors:
            head += self.text(name) + self.pack("I", len(dimensions))
            head += b"".join(self.wide(one) for one in dimensions)
            head += self.pack("IQ", kind, offset)
        return head

    def file(self, head: bytes, size: int, name: str = "model.gguf") -> Path:
        """A file of ``size`` bytes that begins with ``head``; the rest is a hole."""
        path = self.folder / name
        with path.open("wb") as file:
            file.write(head)
            file.truncate(max(size, len(head)))
        return path


#: Llama 3.1 8B, but for most words of its vocabulary.
LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "llama.block_count": 32,
    "llama.context_length": 131072,
    "llama.embedding_length": 4096,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
    "general.file_type": 15,
    "general.alignment": 32,
    "tokenizer.ggml.tokens": tuple(f"word {number}" for number in range(1000)),
    "tokenizer.ggml.scores": tuple(float(number) for number in range(5000)),
}


#: How many weights it has (of the small vectors, one a layer).
WEIGHTS = 8_030_126_080


def tensors(kind: int = 12) -> list[tuple[str, tuple[int, ...], int, int]]:
    """Every weight of such a model in one type, Q4_K by default; all begin at the same place."""
    rows: list[tuple[str, tuple[int, ...], int, int]]
    rows = [("token_embd.weight", (4096, 128256), kind, 0)]
    for layer in range(32):
        for name, shape in (
            ("attn_q", (4096, 4096)),
            ("attn_k", (4096, 1024)),
            ("attn_v", (4096, 1024)),
            ("attn_output", (4096, 4096)),
            ("ffn_gate", (4096, 14336)),
            ("ffn_up", (4096, 14336)),
            ("ffn_down", (14336, 4096)),
        ):
            rows.append((f"blk.{layer}.{name}.weight", shape, kind, 0))
        rows.append((f"blk.{layer}.attn_norm.weight", (4096,), 0, 0))
    return [*rows, ("output.weight", (4096, 128256), 14, 0)]


def llama(folder: Path, *, kind: int = 12, **values: Any) -> Path:
    """A model of 8 billion weights; ``values`` change what it says of itself (None: nothing)."""
    said = {**LLAMA, **{key.replace("__", "."): value for key, value in values.items()}}
    head = Forge(folder).head(
        {key: value for key, value in said.items() if value is not None}, tensors(kind)
    )
    return Forge(folder).file(head, 5 * 10**9)


@pytest.fixture
def forge(tmp_path: Path) -> Forge:
    return Forge(tmp_path)


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Llama 3.1 8B, as read."""
    return read_model(llama(tmp_path_factory.mktemp("model")))
