"""No source named: the one that can be meant, or a question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llamabuild.errors import SourceError
from llamabuild.memo import identity
from llamabuild.source import Found, find_source

FLAT = {"ggml-cuda.cu": b"", "tinyblas.cu": b""}


def find(bench: Any) -> Found:
    return find_source(bench.environ, bench.cwd)


def test_our_own_kernels_are_always_there(bench: Any) -> None:
    found = find(bench)
    assert found.spec == "bundled"
    assert "no llamafile" in found.reason


def test_what_would_change_the_answer_changes_a_watched_folder(bench: Any, samples: Any) -> None:
    own = Path(bench.environ["HOME"]) / ".llamafile"
    unpacked = (own, own / "v/0.9.3")
    for folder in (*unpacked, bench.cwd):
        before = find(bench)
        seen = [identity(path) for path in before.watched]
        if folder == bench.cwd:
            bench.file("a.llamafile", b"")
        else:
            samples.write(folder, FLAT)
        assert find(bench) != before
        assert [identity(path) for path in before.watched] != seen


def test_the_variable_comes_first(bench: Any) -> None:
    bench.file("a.llamafile", b"")
    bench.environ["LLAMABUILD_SOURCE"] = "pypi:llama-cpp-python==0.3.36"
    found = find(bench)
    assert found.spec == "pypi:llama-cpp-python==0.3.36"
    assert "LLAMABUILD_SOURCE" in found.reason


def test_the_only_llamafile_here(bench: Any, samples: Any) -> None:
    samples.write(Path(bench.environ["HOME"]) / ".llamafile/v/0.9.3", FLAT)
    path = bench.file("llava.llamafile", b"")
    bench.file("notes.txt", b"")
    (bench.cwd / "folder.llamafile").mkdir()
    found = find(bench)
    assert found.spec == str(path)
    assert "working folder" in found.reason


def test_windows_names_it_exe(bench: Any) -> None:
    path = bench.file("llava.llamafile.exe", b"")
    assert find(bench) == Found(
        str(path), "it is the only llamafile in the working folder", (bench.cwd,)
    )


def test_several_are_a_question(bench: Any) -> None:
    paths = [bench.file(name, b"") for name in ("a.llamafile", "b.llamafile.exe")]
    with pytest.raises(SourceError) as caught:
        find(bench)
    assert all(str(path) in caught.value.message for path in paths)
    assert "--source" in caught.value.hint


def test_the_newest_release_that_left_its_sources(bench: Any, samples: Any) -> None:
    own = Path(bench.environ["HOME"]) / ".llamafile"
    for name in ("v/0.9.3", "v/0.8.17", "v/junk", "."):
        samples.write(own / name, FLAT)
    samples.write(own / "v/0.10.1", {"ggml-cuda.so": b""})
    found = find(bench)
    assert found.spec == str(own / "v/0.9.3")


def test_numbers_are_compared_as_numbers(bench: Any, samples: Any) -> None:
    own = Path(bench.environ["HOME"]) / ".llamafile/v"
    for name in ("0.8.9", "0.8.10"):
        samples.write(own / name, FLAT)
    found = find(bench)
    assert found.spec == str(own / "0.8.10")


def test_the_folder_that_old_releases_share(bench: Any, samples: Any) -> None:
    own = samples.write(Path(bench.environ["HOME"]) / ".llamafile", FLAT)
    found = find(bench)
    assert found.spec == str(own)
