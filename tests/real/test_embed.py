"""Modules in and out of llamafiles of real size, looked at by other people's ZIP readers.

The weights are mostly holes, so that 5 GB cost little where the file system knows holes.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llamabuild.deliver.embed import embed, extract, modules, remove

#: More than ZIP's old fields can say, whatever the unit.
GGUF_BYTES = 5 << 30
NAME = "ggml-cuda.so"
PROGRAM = b"MZqFpD='\n" + b"llamafile v0.9.3\0" + os.urandom(300_000)
SOURCES = {f"llama.cpp/{name}": os.urandom(20_000) for name in ("ggml.h", "ggml-cuda.cu")}


class Holey(io.FileIO):
    """A file in which zeros become holes."""

    def write(self, data: Any, /) -> int:
        view = memoryview(data)
        if view.nbytes >= 4096 and not view.obj.strip(b"\0"):  # type: ignore[attr-defined]
            self.seek(view.nbytes, os.SEEK_CUR)
            return view.nbytes
        return super().write(data)


@pytest.fixture(scope="module")
def llamafile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program, sources, and weights of 5 GB with something to say every 512 MB."""
    folder = tmp_path_factory.mktemp("large")
    if shutil.disk_usage(folder).free < 1 << 30:
        pytest.skip("needs a disk with 1 GB free")
    path = folder / "large.llamafile"
    zeros = bytes(1 << 20)
    with Holey(path, "w+") as file:
        file.write(PROGRAM)
        with zipfile.ZipFile(file, "a") as archive:
            for name, data in SOURCES.items():
                archive.writestr(name, data, zipfile.ZIP_DEFLATED)
            with archive.open("model.gguf", "w", force_zip64=True) as weights:
                for number in range(GGUF_BYTES >> 20):
                    weights.write(zeros if number % 512 else b"GGUF" + os.urandom(1 << 19))
    if path.stat().st_blocks * 512 > 1 << 30:
        path.unlink()
        pytest.skip("needs a file system that knows holes")
    return path


def samples(path: Path) -> list[bytes]:
    """The program, and a look into the weights at every 64 MB and at their end."""
    with path.open("rb") as file, zipfile.ZipFile(path) as archive:
        info = archive.getinfo("model.gguf")
        places = range(0, info.header_offset + info.file_size, 64 << 20)
        found = [file.read(len(PROGRAM))]
        for place in (*places, info.header_offset + info.file_size - 5000):
            file.seek(place)
            found.append(file.read(5_000))
    return found


def test_a_module_goes_in_and_out_of_a_llamafile_of_5_gb(llamafile: Path, tmp_path: Path) -> None:
    module = tmp_path / NAME
    module.write_bytes(b"\x7fELF" + os.urandom(40 << 20))
    before, inside = samples(llamafile), listing(llamafile)
    embed(llamafile, module, name=NAME)
    assert llamafile.stat().st_blocks * 512 < 1 << 30, "holes were filled"
    assert samples(llamafile) == before
    assert listing(llamafile)[:-1] == inside
    with zipfile.ZipFile(llamafile) as archive:
        assert archive.getinfo(NAME).compress_type == zipfile.ZIP_STORED
        assert archive.testzip() is None  # reads all of it
        assert archive.read(NAME) == module.read_bytes()
    assert modules(llamafile)[0].start % 65536 == 0
    copy = io.BytesIO()
    extract(llamafile, NAME, copy)
    assert copy.getvalue() == module.read_bytes()
    remove(llamafile, name=NAME)
    assert samples(llamafile) == before
    assert listing(llamafile) == inside


def listing(path: Path) -> list[tuple[str, int, int, int]]:
    with zipfile.ZipFile(path) as archive:
        return [
            (info.filename, info.CRC, info.file_size, info.header_offset)
            for info in archive.infolist()
        ]


def test_info_zip_agrees(
    llamafile: Path, tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    need(shutil.which("unzip"), "unzip")
    module = tmp_path / NAME
    module.write_bytes(b"\x7fELF" + os.urandom(1 << 20))
    embed(llamafile, module, name=NAME)
    done = subprocess.run(
        ["unzip", "-t", llamafile, NAME, *SOURCES], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No errors detected" in done.stdout
    assert "warning" not in (done.stdout + done.stderr).lower()
    taken_out = subprocess.run(
        ["unzip", "-p", llamafile, NAME], capture_output=True, check=True
    ).stdout
    assert taken_out == module.read_bytes()


def test_memory_stays_small(
    llamafile: Path, tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    """The peak of a whole process, with Python itself and a module of 200 MB."""
    need(Path("/proc/self/status").exists(), "Linux's figures about a process")
    module = tmp_path / NAME
    with module.open("wb") as file:
        file.write(b"\x7fELF")
        file.truncate(200 << 20)
    program = (
        "import sys; from pathlib import Path\n"
        "from llamabuild.deliver.embed import embed\n"
        "embed(Path(sys.argv[1]), Path(sys.argv[2]), name=sys.argv[3])\n"
        "print(Path('/proc/self/status').read_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, llamafile, module, NAME],
        capture_output=True,
        check=True,
        text=True,
    )
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert peak is not None
    assert int(peak[1]) < 60 << 10
    assert modules(llamafile)[0].size_bytes == 200 << 20
