"""Every llamafile and module that is found, which is taken, and whose it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from tests.unit.deliver.world import OURS, SHIPPED, World

from llamabuild.deliver.survey import Found, Seen, survey


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def look(world: World, *paths: Path) -> tuple[Seen, ...]:
    return survey(
        paths,
        ours={hashlib.sha256(OURS).hexdigest(): len(OURS), **world.backups.made_here()},
        system="linux",
        environ=world.environ,
        cwd=world.cwd,
    )


def short(found: Found) -> tuple[str, str, int | None]:
    return (found.inside or found.path.parent.name, found.whose, found.turn)


def test_after_an_installation(world: World) -> None:
    path = world.llamafile("0.9.3", cuda=SHIPPED)
    (seen,) = look(world)
    assert [short(found) for found in seen.modules] == [("ggml-cuda.so", "shipped", 1)]
    world.start(path, "0.9.3")
    world.install(path)
    seen, folder = look(world)
    assert (seen.path, folder.path) == (path, world.app("0.9.3"))
    assert [short(found) for found in seen.modules] == [
        ("0.9.3", "ours", 1),
        ("ggml-cuda.so", "shipped", None),
    ]
    world.rollback(world.app("0.9.3"))
    (seen, _) = look(world)
    assert short(seen.modules[0]) == ("0.9.3", "shipped", 1)


def test_a_module_that_llamafile_compiled_is_of_unknown_origin(world: World) -> None:
    path = world.llamafile("0.8.1")
    world.start(path, "0.8.1", nvcc=True)
    (seen,) = look(world, path)
    assert [short(found) for found in seen.modules] == [(".llamafile", "unknown", 1)]


def test_a_module_that_would_not_be_taken(world: World) -> None:
    world.start(world.llamafile("0.8.0", name="other.llamafile", cuda=SHIPPED), "0.8.0")
    (seen,) = look(world, world.llamafile("0.8.1"))
    assert [short(found) for found in seen.modules] == [(".llamafile", "unknown", None)]


def test_one_that_would_be_compiled(world: World) -> None:
    (world.folder / "cuda/bin").mkdir(parents=True)
    (world.folder / "cuda/bin/nvcc").touch()
    world.environ["CUDA_PATH"] = str(world.folder / "cuda")
    (seen,) = look(world, world.llamafile("0.8.1", cuda=SHIPPED))
    assert seen.compiles == ("cuda",)
    assert short(seen.modules[0]) == ("ggml-cuda.so", "shipped", None)


def test_what_was_embedded_is_ours(world: World) -> None:
    path = world.llamafile("0.10.0", cuda=SHIPPED)
    world.install(path, embed=True)
    (seen,) = look(world, path)
    assert [short(found) for found in seen.modules] == [("ggml-cuda.so", "ours", 1)]


def test_the_order_of_several(world: World) -> None:
    path = world.llamafile("0.10.6", cuda=SHIPPED)
    (world.home / "ggml-cuda.so").write_bytes(b"home")
    (world.home / "ggml-rocm.so").write_bytes(b"rocm")
    world.install(path)
    (seen,) = look(world, path)
    assert [(found.backend, *short(found)) for found in seen.modules] == [
        ("cuda", "work", "ours", 1),
        ("cuda", "ggml-cuda.so", "shipped", 2),
        ("cuda", "home", "unknown", 3),
        ("rocm", "home", "unknown", 1),
    ]


def test_what_cannot_be_read_is_told_and_does_not_stop_the_rest(world: World) -> None:
    broken = world.cwd / "broken.llamafile"
    broken.write_bytes(b"MZ" + bytes(5000))
    first, second = look(world, broken, world.llamafile("0.9.3"))
    assert "no ZIP directory" in first.problem
    assert second.problem == ""


def test_a_question_is_told(world: World) -> None:
    (seen,) = look(world, world.llamafile("0.8.6", text=False))
    assert "0.8.5 or 0.8.6" in seen.problem


def test_an_empty_machine(world: World) -> None:
    assert look(world) == ()
    del world.environ["HOME"]
    assert look(world) == ()


def test_a_file_that_the_module_inside_will_replace_is_not_tried(world: World) -> None:
    path = world.llamafile("0.10.0", cuda=SHIPPED)
    world.app("0.10.0").mkdir(parents=True)
    (world.app("0.10.0") / "ggml-cuda.so").write_bytes(b"doomed")
    (seen,) = look(world, path)
    assert [short(found) for found in seen.modules] == [
        ("ggml-cuda.so", "shipped", 1),
        ("0.10.0", "unknown", None),
    ]
