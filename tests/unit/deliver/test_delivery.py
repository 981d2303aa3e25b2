"""One command from a failing llamafile to a working one; only GPU and compiler are not real."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.deliver.world import CRC, CUDA, OURS, SHIPPED, World, classic, program
from tests.unit.source.conftest import zipped

from llamabuild import deliver, pipeline, source
from llamabuild.arch import CudaArch, hip_target
from llamabuild.cli.main import main
from llamabuild.errors import ModuleRejectedError, ToolchainError
from llamabuild.inspect import Entry, Kernel, Module
from llamabuild.pipeline import delivery, fitness
from llamabuild.probe import Detection, Gpu, Problem
from llamabuild.store import Store
from llamabuild.verify import Verdict

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are named as on Linux")

MODERN_EXPORTS = (
    "ggml_backend_cuda_init",
    "ggml_backend_cuda_reg",
    "ggml_backend_cuda_get_device_count",
    "ggml_init",
)


def gpu(arch: str) -> Gpu:
    vendor: Any = "amd" if arch.startswith("gfx") else "nvidia"
    return Gpu(vendor, 0, f"GPU {arch}", arch, 1 << 33, "580.1", "NVML", "GPU-0")


class Machine:
    """What is there, what the compilers make, and what a trial shows."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gpus: tuple[Gpu, ...] = (gpu("61"),)
        self.release = "0.8.1"
        self.exported: tuple[str, ...] | None = None
        self.archs: tuple[str, ...] = ("61",)
        self.trapped = 0
        self.format = "elf"
        self.built: list[Any] = []
        self.compiled = 0
        self.tried: list[Path] = []
        self.devices: list[int] = []
        self.failure: ModuleRejectedError | ToolchainError | None = None
        self.while_building: Callable[[], None] = lambda: None

    def detect(self, _environ: Any) -> Detection:
        return Detection(self.gpus, () if self.gpus else (Problem("no driver", ""),), None)

    def plan(self, job: Any) -> Any:
        self.built.append(job.request)
        made = type("Plan", (), {"module": "ggml-cuda.so", "key": "0" * 32, "backend": "cuda"})
        made.archs = tuple(  # type: ignore[attr-defined]
            hip_target(arch) if arch.startswith("gfx") else CudaArch(int(arch))
            for arch in self.archs
        )
        tree = type("Tree", (), {"kind": "llamafile"})
        return replace(job, plans=(made,), source=tree)

    def build(self, _job: Any) -> tuple[Any]:
        self.compiled += 1
        self.while_building()
        return (type("Built", (), {"module": self.read_module(self.world.module)}),)

    def read_module(self, path: Path) -> Module:
        data = path.read_bytes()
        exported = self.exported or self._functions()
        kernels = tuple(
            Kernel(f"k{n}", "trapped" if n < self.trapped else "none") for n in range(9)
        )
        return Module(
            path=path,
            format=self.format,  # type: ignore[arg-type]
            machine=fitness._MACHINES.get(sys.modules["platform"].machine(), "x86_64"),
            exported=exported,
            undefined=(),
            needed=(),
            soname="",
            stripped=False,
            entries=tuple(Entry("sass", arch, 0, 1, kernels) for arch in self.archs),
            sha256=deliver.keep.digest_of(path),
            size_bytes=len(data),
            notes=(),
        )

    def _functions(self) -> tuple[str, ...]:
        if self.release not in CRC:
            return MODERN_EXPORTS
        marks = {
            "ggml_backend_cuda_register_host_buffer": (0, 7, 0),
            "ggml_backend_cuda_log_set_callback": (0, 8, 5),
            "ggml_abort": (0, 8, 13),
        }
        release = tuple(int(part) for part in self.release.split("."))
        also = tuple(name for name, first in marks.items() if release >= first)
        return tuple(dict.fromkeys((*source.loader_symbols(self.release), *also)))

    def verify(self, path: Path, *, device: int, **_options: Any) -> Verdict:
        self.tried.append(path)
        self.devices.append(device)
        if isinstance(self.failure, ToolchainError):
            raise self.failure
        return Verdict(path, "classic", None, ("it multiplies",), (), (), self.failure, "", 1.0)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    found = World(tmp_path)
    monkeypatch.chdir(found.cwd)
    for name in ("TMPDIR", "LLAMABUILD_SOURCE", "LLAMABUILD_ARCH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LLAMABUILD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("LLAMABUILD_BACKUP_DIR", str(found.backups.root))
    return found


@pytest.fixture
def machine(world: World, monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine(world)
    monkeypatch.setattr(delivery, "detect", found.detect)
    monkeypatch.setattr(delivery, "plan", found.plan)
    monkeypatch.setattr(delivery, "build", found.build)
    monkeypatch.setattr(delivery, "open_source", lambda job: job)
    monkeypatch.setattr("llamabuild.inspect.read_module", found.read_module)
    monkeypatch.setattr("llamabuild.verify.verify", found.verify)
    return found


class Said:
    """The outcome of a command line."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *argv: str) -> None:
        capsys.readouterr()
        self.code = main(argv)
        self.out, self.err = capsys.readouterr()

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], machine: Machine) -> Callable[..., Said]:
    return lambda *argv: Said(capsys, *map(str, argv))


Say = Callable[..., Said]


class TestInstall:
    def test_builds_inspects_tries_and_installs(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        world.start(path, "0.8.1")
        said = say("install", path)
        assert said.code == 0, said.err
        (request,) = machine.built
        assert (request.source, request.arch) == (str(path), "native")
        assert machine.tried == [world.module]
        assert said.out == f"{world.app('0.8.1') / 'ggml-cuda.so'}\n"
        assert "llamabuild rollback brings it back" in said.err
        assert world.start(path, "0.8.1", nvcc=True).loaded == OURS
        assert say("rollback", path).code == 0
        assert world.start(path, "0.8.1", nvcc=True).loaded == SHIPPED

    def test_a_module_that_fails_on_the_gpu_is_not_installed(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        world.start(path, "0.8.1")
        before = world.snapshot()
        machine.failure = ModuleRejectedError("it trapped", hint="add 61 to --arch")
        said = say("install", path)
        assert said.code == 7
        assert "nothing was installed" in said.err
        assert {k: v for k, v in world.snapshot().items() if not k.startswith("cache")} == before
        assert say("install", path, "--no-verify").code == 0
        assert len(machine.tried) == 1

    def test_a_trial_that_cannot_be_made_names_the_way_round(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.failure = ToolchainError("numpy is missing", hint="pip install numpy")
        said = say("install", world.llamafile("0.8.1"))
        assert said.code == 4
        assert "--no-verify" in said.err

    def test_without_a_gpu_one_must_be_named(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.gpus = ()
        said = say("install", world.llamafile("0.8.1"))
        assert said.code == 3
        assert "--for 'gtx 1080'" in said.err
        assert machine.built == []

    def test_for_a_named_gpu_inspection_decides(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.gpus = ()
        path = world.llamafile("0.8.1")
        said = say("install", path, "--for", "gtx 1080")
        assert said.code == 0, said.err
        assert machine.built[0].arch == "61"
        assert machine.tried == []
        assert "inspected and not run" in said.err
        assert world.start(path, "0.8.1", nvcc=True).loaded == OURS

    def test_a_module_with_traps_for_the_named_gpu_is_refused(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.gpus, machine.archs, machine.trapped = (), ("60",), 4
        said = say("install", world.llamafile("0.8.1"), "--for", "gtx 1080")
        assert said.code == 7
        assert "4 of 9 kernels give up in the code for 60" in said.err
        assert not world.app("0.8.1").exists()

    def test_a_module_without_code_for_this_gpu_is_refused(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.archs = ("90",)
        said = say("install", world.llamafile("0.8.1"), "--module", world.module)
        assert said.code == 7
        assert "nothing runs" in said.err
        assert machine.tried == []

    @pytest.mark.parametrize(
        ("archs", "named"), [(("80", "90"), "gtx 1080"), (("gfx1030",), "gfx1100"), (("90",), "")]
    )
    def test_a_plan_without_code_for_the_gpu_is_refused_before_it_is_built(
        self, world: World, machine: Machine, say: Say, archs: tuple[str, ...], named: str
    ) -> None:
        machine.archs = archs
        path = world.llamafile("0.8.1")
        line = ("install", path, *(("--for", named) if named else ()))
        dry, wet = say(*line, "--dry-run"), say(*line)
        assert (dry.code, wet.code, machine.compiled) == (7, 7, 0)
        assert dry.err == wet.err
        assert "nothing runs: there is no code for it" in dry.err
        assert "would put" not in dry.err
        given = say(*line, "--module", world.module)
        assert given.err.splitlines()[-2:] == dry.err.splitlines()[-2:]

    def test_a_plan_with_older_code_for_the_gpu_is_for_inspection_to_judge(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.archs = ("60",)
        path = world.llamafile("0.8.1")
        assert say("install", path, "--for", "gtx 1080", "--dry-run").code == 0
        assert say("install", path, "--for", "gtx 1080").code == 0

    def test_another_makers_gpu_in_the_machine_does_not_matter(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.gpus = (gpu("gfx1036"), gpu("61"), gpu("61"))
        assert say("install", world.llamafile("0.8.1")).code == 0
        assert machine.devices == [0, 1]
        machine.gpus = (gpu("gfx1036"),)
        said = say("install", world.llamafile("0.8.1"), "--module", world.module)
        assert said.code == 3
        assert "NVIDIA's GPUs, and there is none" in said.err

    def test_a_name_that_is_no_gpu(self, world: World, say: Say) -> None:
        assert say("install", world.llamafile("0.8.1"), "--for", "banana").code == 3

    def test_a_module_of_the_llamafile_s_own_patched_sources_is_not_doubted(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        path = world.cwd / "patched.llamafile"
        path.write_bytes(zipped({**classic("0.8.1"), CUDA: b"patched"}, program("0.8.1")))
        machine.exported = (*source.loader_symbols("0.9.3"), "ggml_abort")
        said = say("install", path)
        assert said.code == 0, said.err
        assert "only one of them" not in said.err

    def test_a_release_without_sources_takes_its_tag_or_what_is_named(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        machine.release = "0.10.4"
        path = world.llamafile("0.10.4")
        said = say("install", path)
        assert said.code == 0, said.err
        assert "carries no CUDA sources" in said.err
        assert say("install", path, "--source", "checkout").code == 0
        assert [built.source for built in machine.built] == ["llamafile:0.10.4", "checkout"]
        assert [built.flavor for built in machine.built] == ["self-contained"] * 2
        assert world.start(path, "0.10.4").loaded == OURS

    def test_the_variable_for_the_source_does_not_replace_the_llamafile_s_own(
        self, world: World, machine: Machine, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LLAMABUILD_SOURCE", "elsewhere")
        path = world.llamafile("0.8.1")
        assert say("install", path).code == 0
        assert machine.built[0].source == str(path)

    def test_a_given_module(self, world: World, machine: Machine, say: Say) -> None:
        path = world.llamafile("0.8.1")
        said = say("install", path, "--module", world.module)
        assert said.code == 0, said.err
        assert machine.built == []
        assert machine.tried == [world.module]
        assert say("install", path, "--module", "missing.so").code == 2

    def test_a_place_that_is_refused_is_told_before_anything_is_built(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        (world.home / ".llamafile").write_bytes(b"")
        said = say("install", world.llamafile("0.8.1"))
        assert said.code == 9
        assert machine.built == []

    def test_a_llamafile_that_changes_meanwhile_is_left_alone(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        path = world.llamafile("0.8.1")

        def changed() -> None:
            with path.open("ab") as file:
                file.write(b"more")

        machine.while_building = changed
        said = say("install", path)
        assert said.code == 9
        assert "changed meanwhile" in said.err
        assert not world.app("0.8.1").exists()

    @pytest.mark.parametrize("release", ["0.8.1", "0.9.3"])
    def test_a_dry_run_changes_nothing(
        self, world: World, machine: Machine, say: Say, release: str
    ) -> None:
        machine.release = release
        path = world.llamafile(release, cuda=SHIPPED)
        world.start(path, release)
        before = world.snapshot()
        said = say("install", path, "--dry-run")
        assert said.code == 0, said.err
        assert said.out == ""
        assert "would put ggml-cuda.so" in said.err
        assert "would be kept" in said.err
        assert machine.tried == []
        assert {k: v for k, v in world.snapshot().items() if not k.startswith("cache")} == before
        assert say("install", path).code == 0
        before = world.snapshot()
        assert say("rollback", path, "--dry-run").code == 0
        assert world.snapshot() == before

    def test_as_json(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.1", cuda=SHIPPED)
        found = say("install", path, "--json").document
        assert found["version"] == "0.8.1"
        assert found["place"] == {
            "where": "app",
            "path": str(world.app("0.8.1") / "ggml-cuda.so"),
        }
        assert found["changed"] is True
        assert found["replaced"] is None
        assert found["verified"] == [["it multiplies"]]
        assert found["gpus"] == [{"name": "GPU 61", "arch": "61", "device": 0}]
        again = say("install", path, "--json").document
        assert (again["changed"], again["unpacked"]) == (False, [])

    def test_a_module_that_will_not_be_taken_is_a_warning_even_when_quiet(
        self, world: World, say: Say
    ) -> None:
        path = world.llamafile("0.8.1")
        world.install(path)
        for more in (["--dry-run"], []):
            said = say("install", path, "--embed", "-q", *more)
            assert said.code == 0
            assert said.err.count("warning: still before it comes") == 1

    def test_a_question_is_one_in_json_too(self, world: World, say: Say) -> None:
        said = say("install", world.llamafile("0.8.6", text=False), "--json")
        assert said.document["error"]["code"] == said.code == 5
        assert "--llamafile-version" in said.document["error"]["hint"]


class TestWithoutAHome:
    def test_backups_are_in_a_cache_that_is_ours_alone(
        self, world: World, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HOME", "XDG_DATA_HOME", "LLAMABUILD_BACKUP_DIR"):
            monkeypatch.delenv(name, raising=False)
        before = os.umask(0)
        try:
            said = say("install", world.llamafile("0.8.1"), "--module", world.module)
        finally:
            os.umask(before)
        assert said.code == 0, said.err
        cache = world.folder / "cache"
        assert (cache / "backups/records").is_dir()
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700


class TestWrongModules:
    def refused(self, world: World, say: Say, release: str, words: str) -> None:
        said = say("install", world.llamafile(release), "--module", world.module)
        assert said.code == 9, said.err
        assert words in said.err
        assert not world.app(release).exists()
        assert not list(world.cwd.glob("ggml-*"))

    def test_of_another_flavor(self, world: World, machine: Machine, say: Say) -> None:
        machine.exported = MODERN_EXPORTS
        self.refused(world, say, "0.8.1", "self-contained module, and a classic one is needed")
        machine.exported = source.loader_symbols("0.8.1")
        self.refused(world, say, "0.10.4", "classic module, and a self-contained one is needed")
        machine.exported = ("ggml_backend_init", "ggml_backend_score")
        self.refused(world, say, "0.10.4", "backend-dl")

    def test_that_is_no_ggml_module(self, world: World, machine: Machine, say: Say) -> None:
        machine.exported = ("printf",)
        self.refused(world, say, "0.8.1", "no ggml module")

    def test_that_lacks_a_function(self, world: World, machine: Machine, say: Say) -> None:
        machine.exported = source.loader_symbols("0.8")
        self.refused(world, say, "0.8.1", "register_host_buffer, which llamafile looks up")

    def test_of_another_version(self, world: World, machine: Machine, say: Say) -> None:
        machine.exported = (
            *source.loader_symbols("0.9.3"),
            "ggml_backend_cuda_log_set_callback",
            "ggml_abort",
        )
        self.refused(world, say, "0.8.1", "of the sources of llamafile 0.8.13 to 0.9.3, whose data")

    @pytest.mark.parametrize(
        ("made_of", "code"), [("0.8.1", 0), ("0.8", 0), ("0.8.2-0.8.4", 9), ("0.7.1-0.7.4", 9)]
    )
    def test_whose_sources_are_known_from_the_cache(
        self, world: World, say: Say, made_of: str, code: int
    ) -> None:
        key = "ab" * 16
        cache = Store(world.folder / "cache")
        with cache.claim(key) as staging:
            (staging.entry / "ggml-cuda.so").write_bytes(OURS)
            manifest = {"source": {"kind": "llamafile", "version": made_of}}
            cache.publish(staging, "ggml-cuda.so", manifest)
        said = say("install", world.llamafile("0.8.1"), "--module", "abab")
        assert said.code == code, said.err
        assert (f"of the sources of llamafile {made_of}, whose data" in said.err) == (code == 9)

    def test_whose_sources_nobody_knows_for_certain(self, world: World, say: Say) -> None:
        said = say("install", world.llamafile("0.8.1"), "--module", world.module)
        assert said.code == 0
        assert "only one of them is right" in said.err

    def test_for_another_system(self, world: World, machine: Machine, say: Say) -> None:
        machine.format = "pe"
        self.refused(world, say, "0.8.1", "PE file")


class TestRollback:
    def test_with_nothing_to_go_back_to(self, world: World, say: Say) -> None:
        said = say("rollback", world.llamafile("0.8.1"))
        assert said.code == 9
        assert "nothing to go back to" in said.err

    def test_lists_what_was_there(self, world: World, say: Say) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        (change,) = say("rollback", path, "--list", "--json").document["changes"]
        assert (change["number"], change["action"]) == (1, "install")
        assert change["target"] == str(world.app("0.9.3"))
        assert change["before"][:12] in say("rollback", path, "--list").out
        assert say("rollback", path, "--to", change["before"]).code == 0
        assert world.start(path, "0.9.3").loaded == SHIPPED

    def test_does_not_ask_which_release_it_is(self, world: World, say: Say) -> None:
        path = world.llamafile("0.8.6", text=False)
        world.install(path, version="0.8.6")
        assert say("rollback", path).code == 0
        assert not (world.app("0.8.6") / "ggml-cuda.so").exists()

    def test_of_what_was_embedded(self, world: World, say: Say) -> None:
        path = world.llamafile("0.10.0", cuda=SHIPPED)
        world.install(path, embed=True)
        found = say("rollback", path, "--json").document
        assert found["target"] == str(path)
        assert world.start(path, "0.10.0").loaded == SHIPPED


class TestStatus:
    def test_of_a_llamafile(self, world: World, machine: Machine, say: Say) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)
        world.start(path, "0.9.3")
        world.install(path)
        machine.archs, machine.trapped = ("60",), 4
        said = say("status", path)
        assert said.code == 0, said.err
        assert f"taken: {world.app('0.9.3') / 'ggml-cuda.so'}" in said.out
        assert "put there by llamabuild" in said.out
        assert "not taken: ggml-cuda.so inside" in said.out
        assert "on GPU 61: 4 of 9 kernels give up" in said.out
        (found,) = say("status", path, "--json").document["found"]
        assert [module["active"] for module in found["modules"]] == [True, False]
        assert [module["whose"] for module in found["modules"]] == ["ours", "shipped"]

    def test_which_is_taken_depends_on_the_makers_of_the_gpus(
        self, world: World, machine: Machine, say: Say
    ) -> None:
        path = world.llamafile("0.9.3", rocm=SHIPPED)
        world.install(path)

        def active() -> dict[str, bool]:
            (found,) = say("status", path, "--json").document["found"]
            return {module["backend"]: module["active"] for module in found["modules"]}

        assert active() == {"rocm": False, "cuda": True}
        machine.gpus = (gpu("61"), gpu("gfx1030"))
        assert active() == {"rocm": True, "cuda": False}
        world.llamafile("0.9.3")
        assert active() == {"cuda": True}
        path = world.llamafile("0.9.3", rocm=SHIPPED)
        machine.gpus = ()
        assert active() == {"rocm": True, "cuda": True}

    def test_without_a_gpu_or_for_another(self, world: World, machine: Machine, say: Say) -> None:
        machine.gpus = ()
        world.install(world.llamafile("0.9.3"))
        (found, _) = say("status", "--json").document["found"]
        assert found["modules"][0]["gpus"] == {}
        assert "on gtx 1080: would run" in say("status", "--for", "gtx 1080").out

    def test_of_what_cannot_be_read(
        self, world: World, say: Say, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = world.llamafile("0.9.3", cuda=SHIPPED)

        def damaged(_path: Path) -> Module:
            raise ModuleRejectedError("it is damaged")

        monkeypatch.setattr("llamabuild.inspect.read_module", damaged)
        assert "cannot be read: it is damaged" in say("status", path).out

    def test_of_what_is_not_there(self, world: World, say: Say) -> None:
        assert say("status", world.folder / "nosuch").code == 2
        assert say("status", "--llamafile-version", "new").code == 2

    def test_of_an_empty_machine(self, say: Say) -> None:
        said = say("status")
        assert (said.code, said.out) == (0, "")
        assert "no llamafile here" in said.err


def test_a_gpu_s_architecture_is_told_as_for_inspect() -> None:
    assert pipeline.gpu_architecture("gtx 1080") == "61"
    assert pipeline.gpu_architecture("90a") == "90"  # a chip runs code with its letter and without
    assert pipeline.gpu_architecture("gfx90a:xnack-") == "gfx90a:xnack-"
