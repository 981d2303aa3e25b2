"""Opening a source: what is asked for badly, what is remembered, what survives trouble."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from llamabuild.errors import SourceError, StoreError
from llamabuild.memo import Memo
from llamabuild.source import archive, digest, open_source, trees


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "no name"),
        ("  ", "no name"),
        ("missing", "does not exist"),
        ("mis\0sing", "does not exist"),
        ("https://example.org/llama.tar.gz", "is an address"),
        ("a-text", "no archive and no llamafile"),
        ("empty", "is empty"),
        ("model.gguf", "a model's weights"),
        ("program", "no ZIP directory"),
    ],
)
def test_what_is_no_source(bench: Any, spec: str, words: str) -> None:
    bench.file("a-text", b"hello, hello, hello")
    bench.file("empty", b"")
    bench.file("model.gguf", b"GGUF\3\0\0\0" + bytes(600))
    bench.file("program", b"\x7fELF" + bytes(600))
    with pytest.raises(SourceError, match=words) as caught:
        bench.open(spec)
    assert caught.value.hint
    assert caught.value.exit_code == 5
    assert not bench.scratch.exists()


def test_a_spelling_mistake_gets_a_suggestion(bench: Any) -> None:
    bench.file("llava-v1.5-7b.llamafile", b"")
    with pytest.raises(SourceError) as caught:
        bench.open("llava-1.5-7b.llamafile")
    assert caught.value.hint == f"did you mean {bench.cwd / 'llava-v1.5-7b.llamafile'}?"


def test_a_pipe_is_not_waited_for(bench: Any) -> None:
    os.mkfifo(bench.cwd / "pipe")
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        bench.open("pipe")


def test_a_home_may_be_meant(bench: Any, samples: Any) -> None:
    samples.write(Path(bench.environ["HOME"]) / "src", samples.ONE_FILE)
    assert bench.open("~/src").root == Path(bench.environ["HOME"]) / "src"
    assert bench.open("~/src").origin == "~/src"


def test_a_relative_path_starts_in_the_working_folder(bench: Any, samples: Any) -> None:
    samples.write(bench.cwd / "src", samples.ONE_FILE)
    assert bench.open("./src").root == bench.cwd / "src"


class Reads:
    """Counts how often contents are read, whichever way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for owner, name in (
            (trees, "read_file"),
            (archive, "open_zip"),
            (archive, "unpack"),
            (digest, "of_folder"),
        ):
            monkeypatch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            return function(*arguments, **options)

        return counted


@pytest.mark.parametrize("form", ["checkout", "classic folder", "llamafile", "archive"])
def test_the_second_time_nothing_is_read(
    bench: Any, samples: Any, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    spec = {
        "checkout": lambda: samples.write(bench.cwd / "t", samples.MODERN),
        "classic folder": lambda: samples.write(bench.cwd / "t", samples.CLASSIC),
        "llamafile": lambda: bench.file("a.llamafile", samples.llamafile(samples.CLASSIC)),
        "archive": lambda: bench.file("a.tgz", samples.tarred(samples.MODERN)),
    }[form]()
    first = bench.open(spec)
    reads = Reads(monkeypatch)
    # Only ggml's CMake file, which says what else belongs to a tree.
    assert (bench.open(spec), reads.count) == (first, 1 if form == "checkout" else 0)
    bench.memo = Memo(None)
    assert (bench.open(spec), reads.count > 1) == (first, True)


def test_a_change_is_noticed(bench: Any, samples: Any) -> None:
    path = bench.file("a.llamafile", samples.llamafile(samples.CLASSIC))
    before = bench.open(path)
    changed = {**samples.CLASSIC, "llama.cpp/ggml.h": b"// changed\n"}
    path.write_bytes(samples.llamafile(changed))
    after = bench.open(path)
    assert after.digest != before.digest
    assert (after.root / "ggml.h").read_bytes() == b"// changed\n"
    assert (before.root / "ggml.h").read_bytes() != b"// changed\n"


def damage_contents(root: Path) -> None:
    (root / "ggml.h").write_bytes(b"#error\n")


def damage_by_removing(root: Path) -> None:
    (root / "tinyblas.h").unlink()


def damage_by_adding(root: Path) -> None:
    (root / "cuda.h").write_bytes(b"#error\n")


def damage_by_linking(root: Path) -> None:
    (root / "ggml.h").unlink()
    (root / "ggml.h").symlink_to("/etc/passwd")


@pytest.mark.parametrize(
    "damage",
    [damage_contents, damage_by_removing, damage_by_adding, damage_by_linking, shutil.rmtree],
)
def test_a_damaged_copy_is_made_again(bench: Any, samples: Any, damage: Any) -> None:
    path = bench.file("a.llamafile", samples.llamafile(samples.CLASSIC))
    first = bench.open(path)
    damage(first.root)
    again = bench.open(path)
    assert again == first
    assert {entry.name for entry in again.root.iterdir()} == samples.READ
    assert (again.root / "ggml.h").read_bytes() == samples.CLASSIC["llama.cpp/ggml.h"]
    assert bench.left_over() == []


def test_a_sound_copy_stays_as_it_is(bench: Any, samples: Any) -> None:
    first = bench.open(bench.file("a.llamafile", samples.llamafile(samples.CLASSIC)))
    before = first.root.stat()
    again = bench.open(bench.file("b.zip", samples.zipped(samples.CLASSIC)))
    assert again.root == first.root
    assert again.root.stat().st_ino == before.st_ino


def test_a_damaged_copy_of_an_archive_is_made_again(bench: Any, samples: Any) -> None:
    path = bench.file("a.tgz", samples.tarred(samples.MODERN))
    first = bench.open(path)
    (first.root / "ggml/src/ggml-cuda/extra.cuh").write_bytes(b"")
    assert bench.open(path) == first
    assert not (first.root / "ggml/src/ggml-cuda/extra.cuh").exists()


def _open_at_once(path: Path, scratch: Path, start: Any, results: Any) -> None:
    start.wait()
    tree = open_source(str(path), scratch=scratch, environ={}, cwd=Path("/"), memo=Memo(None))
    results.put(tree.digest)


def test_many_at_once_make_one_copy(bench: Any, samples: Any) -> None:
    path = bench.file("a.tgz", samples.tarred(samples.MODERN))
    context = multiprocessing.get_context("fork")
    start, results = context.Event(), context.Queue()
    workers = [
        context.Process(target=_open_at_once, args=(path, bench.scratch, start, results))
        for _ in range(8)
    ]
    for worker in workers:
        worker.start()
    start.set()
    digests = {results.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(digests) == 1
    assert [entry.name for entry in bench.scratch.iterdir()] == list(digests)


def test_a_cache_that_is_a_file_is_the_caches_trouble(bench: Any, samples: Any) -> None:
    bench.scratch.parent.mkdir()
    bench.scratch.write_bytes(b"")
    with pytest.raises(StoreError) as caught:
        bench.open(bench.file("a.llamafile", samples.llamafile(samples.CLASSIC)))
    assert "--cache-dir" in caught.value.hint


def test_a_full_disk_is_the_caches_trouble_and_leaves_nothing(
    bench: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    path = bench.file("a.tgz", samples.tarred(samples.MODERN))
    monkeypatch.setattr("llamabuild.source.archive._write", full)
    with pytest.raises(StoreError, match="No space left"):
        bench.open(path)
    assert list(bench.scratch.iterdir()) == []


def test_what_a_killed_start_left_is_swept_and_does_not_hinder(bench: Any, samples: Any) -> None:
    bench.scratch.mkdir(parents=True)
    old, recent = bench.scratch / ".staging-old", bench.scratch / ".staging-recent"
    samples.write(old, {"half/a.c": b""})
    recent.mkdir()
    os.utime(old, (1, 1))
    bench.open(bench.file("a.llamafile", samples.llamafile(samples.CLASSIC)))
    assert not old.exists()
    assert recent.exists()


def test_an_interrupt_leaves_nothing(
    bench: Any, samples: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path = bench.file("a.tgz", samples.tarred(samples.MODERN))
    monkeypatch.setattr(trees, "locate", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.open(path)
    assert list(bench.scratch.iterdir()) == []


def test_what_depends_on_the_user_is_watched(bench: Any, samples: Any) -> None:
    path = bench.file("a.llamafile", samples.llamafile(samples.CLASSIC))
    assert bench.open(path).watched == (path,)
    folder = samples.write(bench.cwd / "co", samples.CLASSIC)
    assert folder / "llama.cpp/ggml-cuda.cu" in bench.open(folder).watched


def test_an_archive_without_sources_leaves_nothing(bench: Any, samples: Any) -> None:
    with pytest.raises(SourceError, match="no CUDA sources"):
        bench.open(bench.file("a.tgz", samples.tarred({"README.md": b"", "src/main.c": b""})))
    assert list(bench.scratch.iterdir()) == []
