"""What a command would not heed, or would overwrite, is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from llamabuild import cli

LIBRARY = next(iter(Path("/usr/lib").rglob("libz.so.*")), None) or Path("/bin/true")


def said(capsys: pytest.CaptureFixture[str], code: int, *argv: str | Path) -> str:
    assert cli.main([*map(str, argv)]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize("action", ["list", "verify", "prune", "clear"])
def test_a_key_where_the_whole_cache_is_meant(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, action: str
) -> None:
    said_so = said(capsys, 2, "cache", action, "12ab", "--cache-dir", tmp_path / "c")
    assert f"cache {action} is about the whole cache, and takes no key" in said_so
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("action", ["list", "path", "verify", "clear"])
@pytest.mark.parametrize("bound", [["--older-than", "1h"], ["--max-size", "1G"]])
def test_a_bound_that_only_prune_heeds(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, action: str, bound: list[str]
) -> None:
    said_so = said(capsys, 2, "cache", action, *bound, "--cache-dir", tmp_path / "c")
    assert f"do not apply to cache {action}" in said_so


@pytest.fixture
def module(tmp_path: Path) -> Path:
    return Path(shutil.copy(LIBRARY, tmp_path / "module.so"))


@pytest.mark.parametrize("option", ["--gpu=6.1", "--kernels=x", "--html=page.html"])
def test_an_option_about_one_module_where_two_are_compared(
    capsys: pytest.CaptureFixture[str], module: Path, option: str
) -> None:
    said_so = said(capsys, 2, "inspect", module, module, option)
    assert f"{option.partition('=')[0]} is about one module" in said_so


def test_kernels_of_one_gpu(capsys: pytest.CaptureFixture[str], module: Path) -> None:
    assert "--gpu asks for one" in said(capsys, 2, "inspect", module, "--gpu=61", "--kernels=x")


def test_a_page_in_place_of_the_module(
    capsys: pytest.CaptureFixture[str], module: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(module)
    before = module.read_bytes()
    for page in (module, tmp_path / "link"):
        assert "would overwrite" in said(capsys, 2, "inspect", module, "--html", page)
    assert module.read_bytes() == before
    said(capsys, 0, "inspect", module, "--html", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().startswith("<!")
