"""From a llamafile to its module in place: real compilers, real sources, real files.

Each classic source that ``LLAMABUILD_TEST_SOURCES`` names is packed as its llamafile carries it,
and started by the stand-in for that release's loader.
"""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.unit.deliver.standin import Start

from llamabuild import inspect, run, source
from llamabuild.deliver import Backups, identify, install, rollback
from llamabuild.deliver.places import canonical
from llamabuild.memo import Memo
from llamabuild.probe import detect_nvidia
from llamabuild.toolchain import find_cuda

CLASSIC = Path(__file__).parent / "data" / "classic"
SHIPPED, OURS = b"\x7fELF shipped", b"\x7fELF ours"


def packed(contents: Mapping[str, bytes], release: str | None) -> bytes:
    """A program that may tell its release, and a ZIP with sources, a module and a model."""
    file = io.BytesIO()
    text = f"\0llamafile v{release}\n\0".encode() if release else b""
    file.write(b"MZqFpD='\n" + bytes(60_000) + text + bytes(4000))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        for member in source.classic_names():
            if (name := Path(member).name) in contents:
                archive.writestr(member, contents[name])
        archive.writestr(zipfile.ZipInfo("ggml-cuda.so"), SHIPPED)
        archive.writestr(zipfile.ZipInfo("model.gguf"), b"GGUF" + bytes(100_000))
    return file.getvalue()


class User:
    """Somebody with a home, a llamafile and llamabuild."""

    def __init__(self, folder: Path, llamafile: bytes) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self.cwd = folder / "models"
        self.cwd.mkdir()
        self.llamafile = self.cwd / "llava.llamafile"
        self.llamafile.write_bytes(llamafile)
        self.llamafile.chmod(0o755)
        own = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
        self.environ = {**own, "HOME": str(self.home), "XDG_DATA_HOME": str(folder / "data")}

    def start(self, release: str, **options: Any) -> Start:
        return Start(self.llamafile, release, self.environ, self.cwd, **options)

    def says(self, *argv: str | Path) -> run.Completed:
        return run.capture(
            [sys.executable, "-m", "llamabuild", *argv],
            env=self.environ,
            timeout=1800,
            cwd=self.cwd,
        )


class TestNamedSources:
    """Every release that was named: its own sources, byte by byte."""

    def test_is_known_and_takes_what_is_installed(self, real_source: str, tmp_path: Path) -> None:
        tree = source.open_source(
            real_source,
            scratch=tmp_path / "sources",
            environ=os.environ,
            cwd=Path.cwd(),
            memo=Memo(None),
        )
        if tree.layout != "classic" or tree.version is None:
            return  # nothing that a llamafile carries
        contents = _whole(Path(real_source).absolute(), tree)
        user = User(tmp_path, packed(contents, None))
        found = identify(user.llamafile)
        assert tree.version.split("-")[0] in {_short(release) for release in found.candidates}
        module = tmp_path / "ggml-cuda.so"
        module.write_bytes(OURS)
        backups = Backups(tmp_path / "backups")
        for release in found.candidates:
            assert user.start(release).loaded == SHIPPED
            plan = install.plan(
                identify(user.llamafile, version=release),
                module,
                backend="cuda",
                system="linux",
                environ=user.environ,
                cwd=user.cwd,
            )
            install.apply(plan, backups)
            for _ in range(2):
                start = user.start(release, nvcc=True)
                assert (start.loaded, start.compiled) == (OURS, False)
            rollback.apply(rollback.choose(backups.records(plan.target)), backups)
            assert user.start(release).loaded == SHIPPED


def _short(release: str) -> str:
    return next(name for name in source.releases() if canonical(name) == release)


def _whole(given: Path, tree: source.SourceTree) -> dict[str, bytes]:
    """All that the loader unpacks: what is compiled, and what it only copies."""
    if given.is_file() and zipfile.is_zipfile(given):
        with zipfile.ZipFile(given) as archive:
            names = set(archive.namelist()) & set(source.classic_names())
            return {Path(name).name: archive.read(name) for name in names}
    found = {name: (tree.root / name).read_bytes() for name in tree.files}
    for member in source.classic_names():
        for path in (given / member, given / Path(member).name):
            if path.is_file():
                found.setdefault(path.name, path.read_bytes())
    return found


@pytest.mark.nvcc
@pytest.mark.parametrize("release", ["0.8.1", "0.9.3"])
def test_one_command_there_and_one_back(
    release: str, tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    """On a machine without the GPU: what inspection says will run there is installed."""
    toolkits = find_cuda(dict(os.environ), memo=Memo(None)).toolkits
    need(toolkits, "a CUDA toolkit")
    archs = sorted(arch.number for found in toolkits for arch in found.real)
    arch = 61 if 61 in archs else archs[0]
    contents = {path.name: path.read_bytes() for path in CLASSIC.iterdir()}
    user = User(tmp_path, packed(contents, release))
    assert user.start(release).loaded == SHIPPED

    told = user.says("install", user.llamafile, "--for", str(arch), "--no-verify")
    assert told.returncode == 0, told.stderr
    module = Path(told.stdout.strip())
    assert inspect.coverage(inspect.read_module(module), str(arch)).healthy
    start = user.start(release, nvcc=True)
    assert (start.loaded, start.compiled) == (module.read_bytes(), False)

    status = json.loads(user.says("status", user.llamafile, "--for", str(arch), "--json").stdout)
    (found,) = status["found"]
    assert found["version"] == release
    assert [(one["active"], one["whose"]) for one in found["modules"]] == [
        (True, "ours"),
        (False, "shipped"),
    ]
    assert list(found["modules"][0]["gpus"].values()) == ["would run"]

    told = user.says("rollback", user.llamafile)
    assert told.returncode == 0, told.stderr
    assert user.start(release).loaded == SHIPPED
    assert user.says("rollback", user.llamafile).returncode == 9


@pytest.mark.nvcc
def test_a_module_for_other_gpus_is_not_installed(
    tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    """What started it all: code for 6.0 on a card of 6.1, in which kernels give up."""
    toolkits = find_cuda(dict(os.environ), memo=Memo(None)).toolkits
    need(any(60 in [a.number for a in found.real] for found in toolkits), "a CUDA for 6.0")
    contents = {path.name: path.read_bytes() for path in CLASSIC.iterdir()}
    user = User(tmp_path, packed(contents, "0.8.1"))
    told = user.says("install", user.llamafile, "--arch", "60-real", "--for", "gtx 1080")
    assert told.returncode == 7, told.stderr
    assert "kernels give up in the code for 60" in told.stderr
    assert not (user.home / ".llamafile").exists()
    told = user.says("install", user.llamafile, "--arch", "60-real", "--for", "tesla p100")
    assert told.returncode == 0, told.stderr


@pytest.mark.nvcc
@pytest.mark.gpu
def test_with_a_gpu_what_is_installed_has_multiplied_there(
    real_source: str, tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    need(detect_nvidia(dict(os.environ)).gpus, "a GPU")
    tree = source.open_source(
        real_source,
        scratch=tmp_path / "sources",
        environ=os.environ,
        cwd=Path.cwd(),
        memo=Memo(None),
    )
    if tree.layout != "classic" or tree.version is None or tree.version.startswith("0.6"):
        return  # no host for these
    release = canonical(tree.version.split("-")[-1])
    user = User(tmp_path, packed(_whole(Path(real_source).absolute(), tree), release))
    user.start(release)
    told = user.says("install", user.llamafile, "--arch", "native", "--json")
    assert told.returncode == 0, told.stderr
    installed = json.loads(told.stdout)
    assert installed["verified"]
    module = Path(installed["place"]["path"])
    assert user.start(release, nvcc=True).loaded == module.read_bytes()
    assert user.says("rollback", user.llamafile).returncode == 0
    assert user.start(release).loaded == SHIPPED
