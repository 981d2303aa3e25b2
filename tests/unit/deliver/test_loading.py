"""What a release would take next, foretold from its rules and then really done by a stand-in."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.deliver.standin import COMPILED
from tests.unit.deliver.world import CRC, MODERN, World, age, classic

from llamabuild import source
from llamabuild.deliver import identify, places
from llamabuild.deliver.loading import Attempt, attempts, look
from llamabuild.deliver.places import canonical, loader_of, search_order
from llamabuild.errors import UsageError

LINUX = {"HOME": "/home/me"}
EXE = Path("/models/llava.llamafile")
CWD = Path("/cwd")


def order(release: str, system: str = "linux", **environ: str) -> list[str]:
    """Where a release looks, in its order; ``zip:`` stands before what is unpacked."""
    found = search_order(release, system, environ or LINUX, EXE, CWD)
    return [
        f"zip:{place.path.name}" if place.where == "zip" else place.path.as_posix()
        for place in found
    ]


class TestOrder:
    def test_0_8_1(self) -> None:
        assert order("0.8.1") == [
            "/home/me/.llamafile/ggml-rocm.so",
            "zip:ggml-rocm.so",
            "/home/me/.llamafile/ggml-cuda.so",
            "zip:ggml-cuda.so",
        ]

    @pytest.mark.parametrize(
        ("release", "folder"),
        [
            ("0.6", "/tmp/me/.llamafile"),
            ("0.8.1", "/tmp/me/.llamafile"),
            ("0.8.2", "/home/me/.llamafile"),
            ("0.8.4", "/home/me/.llamafile"),
            ("0.8.5", "/home/me/.llamafile/v/0.8.5"),
            ("0.9", "/home/me/.llamafile/v/0.9.0"),
            ("0.9.3", "/home/me/.llamafile/v/0.9.3"),
        ],
    )
    def test_the_folder_for_temporary_files_counts_up_to_0_8_1(
        self, release: str, folder: str
    ) -> None:
        assert order(release, HOME="/home/me", TMPDIR="/tmp/me")[0] == f"{folder}/ggml-rocm.so"

    def test_0_10_0(self) -> None:
        assert order("0.10.0")[3:] == [
            "zip:ggml-cuda.so",
            "/home/me/.llamafile/v/0.10.0/ggml-cuda.so",
            "/home/me/ggml-cuda.so",
        ]

    @pytest.mark.parametrize("release", ["0.10.2", "0.10.7", "0.11.0"])
    def test_the_program_s_own_folder_from_0_10_2_on(self, release: str) -> None:
        assert order(release)[:4] == [
            "/models/ggml-cuda.so",
            "zip:ggml-cuda.so",
            f"/home/me/.llamafile/v/{release}/ggml-cuda.so",
            "/home/me/ggml-cuda.so",
        ]

    def test_other_systems(self) -> None:
        windows = order("0.8.13", "windows", USERPROFILE="C:/Users/me")
        assert windows[2].endswith("C:/Users/me/.llamafile/v/0.8.13/ggml-cuda.dll")
        assert order("0.8.13", "macos")[2].endswith("/ggml-cuda.dylib")

    def test_without_a_home(self) -> None:
        assert order("0.8.1", X="")[0] == "/cwd/.llamafile/ggml-rocm.so"
        assert order("0.8.1", HOME="", TMPDIR="")[0] == "/cwd/.llamafile/ggml-rocm.so"
        assert len(order("0.10.0", X="")) == 4

    def test_every_release_with_sources_has_a_loader_and_symbols(self) -> None:
        for release in source.releases():
            assert loader_of(release).rule in {"fresh", "present"}
            assert places.required_symbols(release) == source.loader_symbols(release) != ()
        assert "ggml_backend_cuda_reg" in places.required_symbols("0.10.3")

    def test_ranges_leave_no_gap_and_do_not_overlap(self) -> None:
        entries = places._loaders()
        for one, other in pairwise(entries):
            assert source.release_number(one.last) < source.release_number(other.first)
        assert entries[-1].last == ""

    @pytest.mark.parametrize("version", ["0.5", "0.1.0"])
    def test_older_releases_are_refused(self, version: str) -> None:
        with pytest.raises(UsageError, match="not supported"):
            loader_of(version)

    def test_a_release_in_three_parts(self) -> None:
        assert [canonical(text) for text in ("0.8", "v0.8.1", "0.10.06")] == [
            "0.8.0",
            "0.8.1",
            "0.10.6",
        ]


BYTES = st.sampled_from([None, b"one", b"two"])


@settings(max_examples=150, deadline=None)
@given(
    release=st.sampled_from([*CRC, *MODERN]),
    inside=st.tuples(BYTES, BYTES),
    files=st.dictionaries(
        st.tuples(st.sampled_from(["app", "cwd", "home"]), st.sampled_from(["cuda", "rocm"])),
        st.tuples(st.binary(min_size=1, max_size=3), st.integers(-5, 5)),
    ),
    unpacked=st.sampled_from(["all", "none", "other", "one differs", "one missing"]),
    nvcc=st.booleans(),
    amd=st.booleans(),
)
def test_what_is_foretold_comes_true(
    release: str,
    inside: tuple[bytes | None, bytes | None],
    files: dict[tuple[str, str], tuple[bytes, int]],
    unpacked: str,
    nvcc: bool,
    amd: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        named = {"cuda": inside[0], "rocm": inside[1]}
        path = world.llamafile(release, cuda=inside[0], rocm=inside[1])
        app = world.app(release)
        app.mkdir(parents=True)
        if release in CRC and unpacked != "none":
            _unpack(app, "0.8.0" if unpacked == "other" else release)
            if unpacked == "one differs":
                (app / "tinyblas.h").write_bytes(b"x")
            if unpacked == "one missing":
                (app / "ggml.h").unlink()
        for (where, kind), (data, older) in files.items():
            place = {"app": app, "cwd": world.cwd, "home": world.home}[where] / f"ggml-{kind}.so"
            place.write_bytes(data)
            age(place, older)
        if nvcc:
            world.environ["CUDA_PATH"] = str(world.folder / "cuda")
            (world.folder / "cuda/bin").mkdir(parents=True)
            (world.folder / "cuda/bin/nvcc").touch()

        llamafile = identify(path)
        loader, tried_in, state = look(llamafile, "linux", world.environ, world.cwd, release)
        foretold = attempts(loader, tried_in, state)
        with_bytes = {a: _bytes(a, {k: v for k, v in named.items() if v}) for a in foretold}

        def loads(module: Path) -> bool:
            return amd or "rocm" not in module.name

        start = world.start(path, release, nvcc=nvcc, loads=loads)
        taken = next((a for a in foretold if loads(a.place.path)), None)
        assert start.loaded == (with_bytes[taken] if taken else None)
        assert start.compiled == (taken is not None and taken.how == "compiles")


def _unpack(app: Path, release: str) -> None:
    for name, data in classic(release).items():
        (app / Path(name).name).write_bytes(data)


def _bytes(attempt: Attempt, inside: dict[str, bytes]) -> bytes:
    if attempt.how == "compiles":
        return COMPILED
    if attempt.how == "unpacks":
        return inside[attempt.place.backend]
    return attempt.place.path.read_bytes()


class TestCompilers:
    """They are looked for where each release looks for them."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        (tmp_path / "bin").mkdir()
        return World(tmp_path)

    def found(self, world: World, release: str, *names: str, **environ: str) -> set[str]:
        folder = world.folder / "bin"
        for tool in folder.iterdir():
            tool.unlink()
        for name in names:
            (folder / name).touch(mode=0o755)
        path = world.llamafile(release)
        return set(
            look(identify(path), "linux", {**world.environ, **environ}, world.cwd)[2].compilers
        )

    def test_on_the_path(self, world: World) -> None:
        path = str(world.folder / "bin")
        assert self.found(world, "0.8.1", "nvcc", PATH=path) == {"cuda"}
        assert self.found(world, "0.8.1", "nvcc", "clang++", PATH=path) == {"cuda", "rocm"}
        assert self.found(world, "0.8.1", PATH=path) == set()

    def test_in_the_folders_that_variables_name(self, world: World) -> None:
        here = str(world.folder)
        assert self.found(world, "0.9.3", "nvcc", "hipcc", CUDA_PATH=here) == {"cuda"}
        assert self.found(world, "0.9.3", "nvcc", "hipcc", HIP_PATH=here) == {"rocm"}

    def test_amd_s_is_hipcc_from_0_8_7_on(self, world: World) -> None:
        here = str(world.folder)
        assert self.found(world, "0.8.6", "hipcc", HIP_PATH=here) == set()
        assert self.found(world, "0.8.6", "amdclang++", HIP_PATH=here) == {"rocm"}
        assert self.found(world, "0.8.12", "hipcc", HIP_PATH=here) == {"rocm"}
        assert self.found(world, "0.8.12", "clang++", HIP_PATH=here) == set()

    def test_none_where_there_are_no_sources(self, world: World) -> None:
        path = str(world.folder / "bin")
        assert self.found(world, "0.10.0", "nvcc", "hipcc", PATH=path) == set()
