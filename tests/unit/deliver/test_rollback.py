"""What was there before comes back, with its sources and times, as often as one likes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.deliver.world import OURS, SHIPPED, World

from llamabuild.deliver import exchange, rollback
from llamabuild.deliver.keep import Backups, backups_folder
from llamabuild.errors import DeliveryError, UsageError


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestBack:
    @pytest.mark.parametrize("release", ["0.8.1", "0.8.6", "0.9.3"])
    def test_to_the_module_that_it_shipped_with(self, world: World, release: str) -> None:
        path = world.llamafile(release, cuda=SHIPPED)
        world.start(path, release)
        before = world.snapshot()
        times = {p: p.stat().st_mtime_ns for p in world.app(release).iterdir()}
        world.install(path)
        assert world.snapshot() != before
        world.rollback(world.app(release))
        assert world.snapshot() == before
        assert {p: p.stat().st_mtime_ns for p in world.app(release).iterdir()} == times
        assert world.start(path, release, nvcc=True).loaded == SHIPPED

    def test_to_another_release_s_sources_and_module(self, world: World) -> None:
        other = world.llamafile("0.8.0", name="other.llamafile", cuda=SHIPPED)
        world.start(other, "0.8.0")
        before = world.snapshot()
        path = world.llamafile("0.8.1")
        world.install(path)
        path.unlink()
        world.rollback(world.app("0.8.1"))
        assert world.snapshot() == before
        assert world.start(other, "0.8.0", nvcc=True).loaded == SHIPPED

    def test_to_nothing(self, world: World) -> None:
        path = world.llamafile("0.8.1")
        before = world.snapshot()
        world.install(path)
        world.rollback(world.app("0.8.1"))
        assert world.snapshot() == before

    @pytest.mark.parametrize("shipped", [None, SHIPPED])
    def test_inside_a_llamafile(self, world: World, shipped: bytes | None) -> None:
        path = world.llamafile("0.10.0", cuda=shipped)
        world.install(path, embed=True)
        assert world.start(path, "0.10.0").loaded == OURS
        world.rollback(path)
        assert world.start(path, "0.10.0").loaded == (shipped or OURS)  # it lies unpacked
        (world.app("0.10.0") / "ggml-cuda.so").unlink()
        assert world.start(path, "0.10.0").loaded == shipped

    def test_step_by_step(self, world: World) -> None:
        path = world.llamafile("0.9.3")
        module = world.app("0.9.3") / "ggml-cuda.so"
        for data in (b"first", b"second", b"third"):
            world.module.write_bytes(data)
            world.install(path)
        for data in (b"second", b"first"):
            world.rollback(module.parent)
            assert module.read_bytes() == data
        world.rollback(module.parent)
        assert not module.exists()
        with pytest.raises(DeliveryError, match="nothing more to go back to"):
            world.rollback(module.parent)

    def test_after_a_rollback_one_can_install_and_go_back_again(self, world: World) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        for _ in range(3):
            world.install(path)
            world.rollback(world.app("0.9.3"))
            assert world.start(path, "0.9.3").loaded == SHIPPED

    def test_what_somebody_else_put_there_meanwhile_is_kept(self, world: World) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        module = world.app("0.9.3") / "ggml-cuda.so"
        module.write_bytes(b"precious")
        world.rollback(module.parent)
        assert module.read_bytes() == SHIPPED
        world.rollback(module.parent, to=digest(b"precious")[:12])
        assert module.read_bytes() == b"precious"

    def test_an_install_that_was_killed_before_it_changed_anything_is_passed_over(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        world.module.write_bytes(b"second")
        with monkeypatch.context() as patch:
            patch.setattr(exchange, "_publish", _killed)
            patch.setattr(Backups, "forget", lambda *_: None)
            with pytest.raises(KeyboardInterrupt):
                world.install(path)
        world.rollback(world.app("0.9.3"))
        assert world.start(path, "0.9.3").loaded == SHIPPED


def _killed(*_: Any) -> None:
    raise KeyboardInterrupt


class TestTo:
    @pytest.fixture
    def module(self, world: World) -> Path:
        path = world.llamafile("0.8.1")
        for data in (b"first", b"second", b"third"):
            world.module.write_bytes(data)
            world.install(path)
        return world.app("0.8.1") / "ggml-cuda.so"

    def test_a_number(self, world: World, module: Path) -> None:
        world.rollback(module.parent, to="2")
        assert module.read_bytes() == b"first"
        world.rollback(module.parent)  # before that one, then
        assert not module.exists()

    def test_a_digest(self, world: World, module: Path) -> None:
        world.rollback(module.parent, to=digest(b"first"))
        assert module.read_bytes() == b"first"
        world.rollback(module.parent, to=digest(b"third")[:6])
        assert module.read_bytes() == b"third"

    def test_a_module_that_came_back_is_taken_without_compiling(
        self, world: World, module: Path
    ) -> None:
        world.rollback(module.parent, to="1")
        world.rollback(module.parent, to=digest(b"third")[:8])
        path = world.cwd / "llava.llamafile"
        assert world.start(path, "0.8.1", nvcc=True).loaded == b"third"

    @pytest.mark.parametrize("to", ["0", "4", "99"])
    def test_a_number_that_is_none(self, world: World, module: Path, to: str) -> None:
        with pytest.raises(DeliveryError, match="there are 3"):
            world.rollback(module.parent, to=to)

    @pytest.mark.parametrize("to", ["", "abc", "-1", "first", "12345g"])
    def test_words_that_are_neither(self, world: World, module: Path, to: str) -> None:
        with pytest.raises(UsageError, match="neither"):
            world.rollback(module.parent, to=to)

    def test_a_digest_that_was_not_there(self, world: World, module: Path) -> None:
        with pytest.raises(DeliveryError, match="was there"):
            world.rollback(module.parent, to="abcdef123456")


class TestTrouble:
    def test_nothing_to_go_back_to(self, world: World) -> None:
        world.llamafile("0.9.3")
        with pytest.raises(DeliveryError, match="nothing to go back to") as caught:
            world.rollback(world.app("0.9.3"))
        assert caught.value.exit_code == 9

    @pytest.mark.parametrize("harm", ["gone", "changed"])
    def test_a_kept_copy_that_is_lost_stops_it_before_anything_changes(
        self, world: World, harm: str
    ) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        kept = world.backups.root / "files" / digest(SHIPPED)
        kept.unlink() if harm == "gone" else kept.write_bytes(b"other")
        before = world.snapshot()
        with pytest.raises(DeliveryError, match="gone or damaged"):
            world.rollback(world.app("0.9.3"))
        assert world.snapshot() == before

    def test_a_damaged_record_is_passed_over(self, world: World) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        (records,) = (world.backups.root / "records").iterdir()
        for name, text in {"9": "", "8": "[]", "7": "{}", "6": '{"schema": 1}'}.items():
            (records / f"{name}.json").write_text(text)
        world.rollback(world.app("0.9.3"))
        assert world.start(path, "0.9.3").loaded == SHIPPED

    def test_what_is_kept_is_the_user_s_alone(self, world: World) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        found = [world.backups.root, *world.backups.root.rglob("*")]
        assert all(entry.stat().st_mode & 0o077 == 0 for entry in found)

    def test_a_place_that_became_somebody_else_s(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.llamafile("0.9.3")
        world.install(path)
        victim = world.folder / "victim"
        victim.write_bytes(b"precious")
        module = world.app("0.9.3") / "ggml-cuda.so"
        module.unlink()
        module.symlink_to(victim)
        with pytest.raises(DeliveryError, match="link out of its folder"):
            world.rollback(module.parent)
        assert victim.read_bytes() == b"precious"


def test_a_folder_that_became_a_file(world: World) -> None:
    world.install(world.llamafile("0.9.3"))
    (world.home / ".llamafile").rename(world.home / "away")
    (world.home / ".llamafile").write_bytes(b"")
    with pytest.raises(DeliveryError, match="is not a folder"):
        world.rollback(world.app("0.9.3"), to="1")


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.sampled_from([b"A", b"B", b"C", None]), max_size=8))
def test_any_history_ends_where_it_began(
    tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | None]
) -> None:
    """Installs and rollbacks (None) in any order, then rollbacks until there is no more."""
    world = World(tmp_path_factory.mktemp("history"))
    path = world.llamafile("0.8.1", cuda=SHIPPED)
    world.start(path, "0.8.1")
    before = world.snapshot()
    stack: list[bytes] = [SHIPPED]
    module = world.app("0.8.1") / "ggml-cuda.so"
    world.module.write_bytes(OURS)
    for step in steps:
        if step is None:
            if len(stack) > 1:
                world.rollback(module.parent)
                stack.pop()
        else:
            world.module.write_bytes(step)
            if world.install(path) is not None:
                stack.append(step)
        assert module.read_bytes() == stack[-1]
    while len(stack) > 1:
        world.rollback(module.parent)
        stack.pop()
        assert module.read_bytes() == stack[-1]
    world.module.write_bytes(OURS)
    after = world.snapshot()
    after.pop("store/ggml-cuda.so")
    before.pop("store/ggml-cuda.so")
    assert after == before


class TestFolder:
    def test_is_the_user_s_data(self, tmp_path: Path) -> None:
        home = {"HOME": str(tmp_path)}
        assert backups_folder(home) == tmp_path / ".local/share/llamabuild/backups"
        named = {**home, "XDG_DATA_HOME": str(tmp_path / "data")}
        assert backups_folder(named) == tmp_path / "data/llamabuild/backups"

    @pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "rel"}, {"HOME": "/none"}])
    def test_without_a_home_it_is_elsewhere(self, environ: dict[str, str]) -> None:
        assert backups_folder(environ) is None


def test_the_listing_is_in_the_order_of_time(world: World) -> None:
    path = world.llamafile("0.10.6", cuda=SHIPPED)
    world.install(path)
    world.module.write_bytes(b"second")
    world.install(path, embed=True)
    records = rollback.history(world.backups, [path, world.cwd, path])
    assert [record.action for record in records] == ["install", "embed"]
