"""A user's machine: a home, llamafiles of any release, a module to install, and its backups."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.unit.deliver.standin import Start
from tests.unit.source.conftest import CLASSIC, with_crc, zipped

from llamabuild.deliver import Backups, Llamafile, Record, identify, install, rollback
from llamabuild.deliver.install import Delivery

CRC = {
    "0.6.0": "b9b9da51",
    "0.7.0": "db2062f0",
    "0.8.0": "4e76288b",
    "0.8.1": "57723abe",
    "0.8.4": "61eb9187",
    "0.8.6": "e90a74c9",
    "0.8.12": "a6f02dc4",
    "0.8.13": "9d1598c4",
    "0.9.0": "39da2254",
    "0.9.3": "77be3013",
}
MODERN = ("0.10.0", "0.10.1", "0.10.2", "0.10.6")
CUDA = "llama.cpp/ggml-cuda.cu"
OURS, SHIPPED = b"\x7fELF ours", b"\x7fELF shipped"


def classic(release: str) -> dict[str, bytes]:
    """Sources that are taken for those of a release, and differ between releases."""
    contents = {name: data + release.encode() for name, data in CLASSIC.items()}
    return {**contents, CUDA: with_crc(CLASSIC[CUDA] + b"\n// ", CRC[release])}


def program(release: str | None) -> bytes:
    """The program part, which prints its release if it is told one."""
    text = f"usage\0llamafile v{release}\n\0".encode() if release else b""
    return b"MZqFpD='\n" + bytes(3000) + text + bytes(3000)


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.cwd = folder / "work"
        self.home.mkdir()
        self.cwd.mkdir()
        self.environ = {"HOME": str(self.home), "PATH": "", "CUDA_PATH": "", "HIP_PATH": "/none"}
        self.module = folder / "store" / "ggml-cuda.so"
        self.module.parent.mkdir()
        self.module.write_bytes(OURS)
        self.backups = Backups(folder / "backups")

    def llamafile(
        self,
        release: str,
        *,
        name: str = "llava.llamafile",
        text: bool = True,
        cuda: bytes | None = None,
        rocm: bytes | None = None,
        args: bytes | None = None,
    ) -> Path:
        """A llamafile of a release, with modules and ``.args`` inside."""
        contents = classic(release) if release in CRC else {}
        contents["model.gguf"] = b"GGUF" + bytes(1000)
        extra = {"ggml-cuda.so": cuda, "ggml-rocm.so": rocm, ".args": args}
        contents.update({name: data for name, data in extra.items() if data is not None})
        path = self.cwd / name
        path.write_bytes(zipped(contents, program(release if text else None)))
        path.chmod(0o755)
        return path

    def identify(self, path: Path, version: str | None = None) -> Llamafile:
        return identify(path, version=version)

    def plan(self, path: Path, version: str | None = None, **options: Any) -> Delivery:
        return install.plan(
            identify(path, version=version),
            self.module,
            backend="cuda",
            system="linux",
            environ=self.environ,
            cwd=self.cwd,
            **options,
        )

    def install(self, path: Path, **options: Any) -> Record | None:
        return install.apply(self.plan(path, **options), self.backups)

    def rollback(self, *targets: Path, to: str | None = None) -> Record:
        chosen = rollback.choose(rollback.history(self.backups, targets), to)
        return rollback.apply(chosen, self.backups)

    def start(self, path: Path, release: str, **options: Any) -> Start:
        return Start(path, release, self.environ, self.cwd, **options)

    def app(self, release: str) -> Path:
        old = tuple(map(int, release.split("."))) < (0, 8, 5)
        own = self.home / ".llamafile"
        return own if old else own / "v" / release

    def snapshot(self) -> dict[str, bytes]:
        """Every file on the machine that is not a backup, by name."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.is_relative_to(self.backups.root)
        }


def age(path: Path, seconds: int) -> None:
    """Make a file older (or, with a negative number, newer) by so many seconds."""
    changed = path.stat().st_mtime_ns - seconds * 10**9
    os.utime(path, ns=(changed, changed))
