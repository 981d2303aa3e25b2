"""A llamafile in small, and a module to put into it."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llamabuild.deliver.embed import Change, embed
from llamabuild.errors import DeliveryError

PROGRAM = b"MZqFpD='\n" + bytes(range(256)) * 20
NAME = "ggml-cuda.so"
MODULE = b"\x7fELF" + os.urandom(70_000)
SOURCES = {"llama.cpp/ggml-cuda.cu": b"// " * 2000, "llamafile/llamafile.h": b"#pragma once\n"}
WEIGHTS = b"GGUF" + os.urandom(150_000)


def packed(stored: Mapping[str, bytes], *, prefix: bytes = PROGRAM, comment: bytes = b"") -> bytes:
    """A program, deflated sources and stored members behind it, offsets from the file's start."""
    file = io.BytesIO()
    file.write(prefix)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in SOURCES.items():
            archive.writestr(name, data)
        for name, data in stored.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        archive.comment = comment
    return file.getvalue()


def add_twice(llamafile: Path) -> None:
    """Add two modules of one name."""
    with zipfile.ZipFile(llamafile, "a") as archive:
        archive.writestr(NAME, b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr(NAME, b"second")


class Room:
    """A folder with a llamafile and a module, and a look at what is in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.llamafile = folder / "llava.llamafile"
        self.llamafile.write_bytes(packed({"model.gguf": WEIGHTS}))
        self.llamafile.chmod(0o755)
        self.module = folder / NAME
        self.module.write_bytes(MODULE)
        self.events: list[Any] = []

    def embed(self, name: str = NAME, **options: Any) -> Change:
        return embed(self.llamafile, self.module, name=name, notify=self.events.append, **options)

    def contents(self, path: Path | None = None) -> dict[str, bytes]:
        """Every member, as Python's own reader sees it; checksums verified."""
        with zipfile.ZipFile(path or self.llamafile) as archive:
            assert archive.testzip() is None
            return {info.filename: archive.read(info) for info in archive.infolist()}

    def listing(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}

    def refused(self, words: str, **options: Any) -> DeliveryError:
        """Embedding is refused with these words, and leaves everything as it was."""
        before, listing = self.llamafile.read_bytes(), self.listing()
        with pytest.raises(DeliveryError) as caught:
            self.embed(**options)
        assert words in caught.value.message
        assert self.llamafile.read_bytes() == before
        assert self.listing() == listing
        return caught.value
