"""Each check by itself: what it finds, and what it says to do about it."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import pytest
from tests.unit.deliver.world import World
from tests.unit.inspect.conftest import Forge
from tests.unit.toolchain.conftest import says

from llamabuild.deliver.staging import staged
from llamabuild.doctor import storage
from llamabuild.doctor.facts import facts, newer
from llamabuild.probe import Gpu
from llamabuild.store import Store

from .conftest import GIB, Patient, gpu

KEY = "0123456789abcdef0123456789abcdef"


class TestGpus:
    def test_one_that_works(self, patient: Patient) -> None:
        patient.gpus, patient.driver_cuda = (gpu(),), (12, 2)
        text = "GPU 0: GTX 1080, 6.1, 8 GiB, driver 535.261.03 (by NVML)"
        assert patient.line("GTX 1080").text == text

    def test_none_is_a_fact_of_life(self, patient: Patient) -> None:
        line = patient.line("there is no GPU here")
        assert line.status == "note"
        assert "--arch" in line.cure

    def test_a_card_without_a_driver_is_trouble(self, patient: Patient) -> None:
        patient.write("sys/bus/pci/devices/1/vendor", "0x10de\n")
        patient.write("sys/bus/pci/devices/1/class", "0x030000\n")
        assert patient.line("no NVIDIA driver").status == "trouble"

    def test_a_driver_without_its_libraries_is_trouble(self, patient: Patient) -> None:
        patient.write(
            "proc/driver/nvidia/version", "NVRM version: NVIDIA Kernel Module  535.54.03  Tue\n"
        )
        line = patient.line("version 535.54.03 runs in the kernel")
        assert line.status == "trouble"
        assert "--gpus all" in line.cure

    def test_nobody_misses_the_other_make(self, patient: Patient) -> None:
        patient.gpus, patient.driver_cuda = (gpu(),), (12, 2)
        assert not patient.says("AMD")

    def test_no_toolkit_compiles_for_it(self, patient: Patient) -> None:
        patient.healthy()
        patient.gpus, patient.driver_cuda = (gpu(),), (13, 0)
        line = patient.line("no installed toolkit compiles 6.1")
        assert line.status == "trouble"
        assert "older than 13.0" in line.cure

    def test_a_toolkit_that_does(self, patient: Patient) -> None:
        patient.healthy()
        patient.gpus, patient.driver_cuda = (gpu("90", "H200"),), (13, 0)
        assert patient.line("for 9.0: CUDA 13.0.88").status == "ok"


class TestDriver:
    def patient(self, patient: Patient, driver_cuda: tuple[int, int]) -> Patient:
        patient.healthy()
        patient.gpus, patient.driver_cuda = (gpu("90", "H200", "575.51.03"),), driver_cuda
        return patient

    def test_newer_than_the_toolkit(self, patient: Patient) -> None:
        self.patient(patient, (13, 1))
        assert patient.line("driver 575.51.03 runs code of CUDA up to 13.1").status == "ok"
        assert not patient.lines("gpus", "trouble")

    def test_of_an_older_major_version(self, patient: Patient) -> None:
        self.patient(patient, (12, 9))
        line = patient.line("runs nothing that CUDA 13.0.88")
        assert line.status == "trouble"
        assert line.cure == "update the driver to 580.65.06 or newer"

    def test_another_toolkit_would_do(self, patient: Patient) -> None:
        self.patient(patient, (12, 9))
        patient.sandbox.toolkit(patient.root / "opt/cuda", "12.4.131", ("61", "90"))
        assert patient.line("runs nothing that").cure.endswith("or build with --toolkit 12.4.131")

    def test_of_an_older_minor_version(self, patient: Patient) -> None:
        """Machine code runs; it is the PTX that the driver does not understand."""
        self.patient(patient, (13, 0))
        patient.sandbox.toolkit(patient.root / "opt/cuda", "13.1.80", ("75", "90"))
        line = patient.line("but not its PTX")
        assert line.status == "note"
        assert "unsupported toolchain" in line.text
        assert "--arch native" in line.cure

    def test_one_that_does_not_tell(self, patient: Patient) -> None:
        self.patient(patient, (13, 0)).driver_cuda = None
        assert not patient.says("runs code of")


class TestToolkits:
    def test_none(self, patient: Patient) -> None:
        line = patient.line("no usable CUDA toolkit")
        assert line.status == "trouble"
        assert "pip install 'llamabuild[cuda13]'" in line.cure

    def test_pieces_that_disagree(self, patient: Patient) -> None:
        patient.sandbox.toolkit(patient.root / "opt/cuda", pieces={"cicc": "13.5.37"})
        line = patient.line("pieces of different versions")
        assert line.status == "trouble"  # there is no other toolkit
        assert line.cure

    def test_one_that_is_not_used_where_another_is(self, patient: Patient) -> None:
        patient.healthy()
        patient.sandbox.toolkit(patient.root / "opt/cuda", pieces={"cicc": "13.5.37"})
        assert patient.line("pieces of different versions").status == "note"

    def test_what_a_variable_names_is_not_passed_over_quietly(self, patient: Patient) -> None:
        patient.healthy()
        patient.environ["CUDA_HOME"] = "/no/such"
        assert patient.line("/no/such (CUDA_HOME)").status == "trouble"

    def test_variables_that_differ(self, patient: Patient) -> None:
        patient.healthy()
        patient.environ["CUDA_HOME"] = str(patient.root / "usr/local/cuda")
        patient.sandbox.toolkit(patient.root / "opt/cuda")
        patient.environ["CUDA_PATH"] = str(patient.root / "opt/cuda")
        assert patient.line("CUDA_HOME goes first").status == "note"

    @pytest.mark.parametrize(("version", "bad"), [("13.2.51", True), ("13.3.10", False)])
    def test_a_compiler_that_is_known_to_be_bad(
        self, patient: Patient, version: str, bad: bool
    ) -> None:
        patient.sandbox.toolkit(patient.root / "opt/cuda", version)
        found = [line for line in patient.lines("toolkits", "trouble") if "miscompile" in line.text]
        assert bool(found) is bad
        for line in found:
            assert "IQ" in line.text
            assert "--no-iq" in line.cure

    def test_a_host_compiler_that_is_too_new(self, patient: Patient) -> None:
        patient.healthy()
        patient.sandbox.compiler(patient.root / "usr/bin/g++", "16.1.0")
        line = patient.line("too new for CUDA 13.0.88")
        assert line.status == "trouble"
        assert "g++-15" in line.cure

    def test_a_host_compiler_that_was_passed_over(self, patient: Patient) -> None:
        patient.healthy()
        patient.sandbox.compiler(patient.root / "usr/bin/g++", "16.1.0")
        patient.sandbox.compiler(patient.root / "usr/bin/g++-15", "15.1.0")
        assert patient.line("gcc 15.1.0").status == "ok"
        assert patient.line("passed over").status == "ok"

    def test_build_tools_that_are_too_old(self, patient: Patient) -> None:
        patient.healthy()
        patient.sandbox.program(patient.root / "usr/bin/cmake", says("cmake version 3.10.2"))
        assert patient.line("3.10.2").cure == "`pip install 'cmake>=3.26'`"

    def test_variables_for_nvcc(self, patient: Patient) -> None:
        patient.environ["NVCC_APPEND_FLAGS"] = "-G"
        assert "--nvcc-flag" in patient.line("NVCC_APPEND_FLAGS").cure

    @pytest.mark.parametrize(
        ("launcher", "version", "told"),
        [
            ("/usr/bin/sccache", "13.3.20", True),
            ("sccache", "13.2.90", False),
            ("ccache", "13.3.20", False),
        ],
    )
    def test_a_launcher_that_cannot_follow(
        self, patient: Patient, launcher: str, version: str, told: bool
    ) -> None:
        patient.sandbox.toolkit(patient.root / "opt/cuda", version)
        patient.environ["CMAKE_CUDA_COMPILER_LAUNCHER"] = launcher
        assert patient.says("sccache 0.16") is told

    def test_on_macos_there_are_none(self, patient: Patient) -> None:
        patient.system = "macos"
        assert patient.line("CUDA does not exist on macOS").status == "note"
        assert not [line for line in patient.lines("toolkits", "trouble") if "CUDA" in line.text]


class TestPlatforms:
    def wsl(self, patient: Patient, *, driver: bool = True) -> None:
        patient.write("proc/sys/kernel/osrelease", "5.15.153.1-microsoft-standard-WSL2\n")
        patient.write("etc/ld.so.conf.d/ld.wsl.conf", "/usr/lib/wsl/lib\n")
        if driver:
            patient.write("dev/dxg")
            patient.write("usr/lib/wsl/lib/libcuda.so.1")

    def test_wsl_1(self, patient: Patient) -> None:
        patient.write("proc/sys/kernel/osrelease", "4.4.0-19041-Microsoft\n")
        assert "wsl --set-version" in patient.line("WSL 1").cure

    def test_wsl_2(self, patient: Patient) -> None:
        self.wsl(patient)
        assert patient.line("WSL 2").status == "ok"
        assert not patient.lines("system", "trouble")

    def test_wsl_without_windows_driver(self, patient: Patient) -> None:
        self.wsl(patient, driver=False)
        line = patient.line("Windows hands on no GPU")
        assert line.status == "trouble"
        assert "wsl --update" in line.cure

    def test_a_linux_driver_inside_wsl(self, patient: Patient) -> None:
        self.wsl(patient)
        intruder = patient.write("usr/lib/x86_64-linux-gnu/libcuda.so.1")
        line = patient.line(str(intruder))
        assert line.status == "trouble"
        assert "apt remove" in line.cure

    def test_a_link_to_windows_driver_is_no_intruder(self, patient: Patient) -> None:
        self.wsl(patient)
        link = patient.root / "usr/lib/x86_64-linux-gnu/libcuda.so.1"
        link.parent.mkdir(parents=True)
        link.symlink_to(patient.root / "usr/lib/wsl/lib/libcuda.so.1")
        assert not patient.lines("system", "trouble")

    def test_wsl_off_the_search_path(self, patient: Patient) -> None:
        self.wsl(patient)
        (patient.root / "etc/ld.so.conf.d/ld.wsl.conf").unlink()
        assert "LD_LIBRARY_PATH" in patient.line("on no search path").cure
        patient.environ["LD_LIBRARY_PATH"] = "/x:/usr/lib/wsl/lib"
        assert not patient.says("on no search path")

    def test_windows_programs_in_wsl(self, patient: Patient) -> None:
        self.wsl(patient)
        patient.write("proc/sys/fs/binfmt_misc/WSLInterop", "enabled\n")
        assert "WSLInterop" in patient.line("as a Windows program").cure

    def jetson(self, patient: Patient, chip: str) -> None:
        patient.write("proc/device-tree/compatible", f"nvidia,p3737\0nvidia,{chip}\0")
        patient.write("etc/nv_tegra_release", "# R35 (release), REVISION: 4.1, GCID: 33958178\n")

    def test_a_jetson(self, patient: Patient) -> None:
        self.jetson(patient, "tegra234")
        assert "tegra234, L4T 35.4.1" in patient.line("a Jetson").text
        assert "GGML_CUDA_NO_VMM" in patient.line("large reservations").cure

    @pytest.mark.parametrize(("chip", "wrong"), [("tegra234", True), ("tegra264", False)])
    def test_a_toolkit_for_servers_on_a_jetson(
        self, patient: Patient, chip: str, wrong: bool
    ) -> None:
        self.jetson(patient, chip)
        patient.processor = "aarch64"
        patient.sandbox.toolkit(patient.root / "usr/local/cuda", target="sbsa-linux")
        found = [line for line in patient.lines("system") if "made for servers" in line.text]
        assert [line.status for line in found] == (["trouble"] if wrong else [])

    @pytest.mark.parametrize(
        ("file", "kind"), [(".dockerenv", "docker"), ("run/.containerenv", "podman")]
    )
    def test_a_container(self, patient: Patient, file: str, kind: str) -> None:
        patient.write(file)
        assert patient.line("in a container").text == f"in a container ({kind})"
        assert "--arch auto" in patient.line("no GPU is handed in").cure

    def test_a_container_with_a_gpu(self, patient: Patient) -> None:
        patient.write("proc/1/cgroup", "0::/kubepods/pod1\n")
        patient.gpus = (gpu(),)
        assert patient.says("in a container (kubepods)")
        assert not patient.says("no GPU is handed in")

    def test_a_container_without_the_driver_library(self, patient: Patient) -> None:
        patient.write(".dockerenv")
        patient.environ["NVIDIA_DRIVER_CAPABILITIES"] = "utility, graphics"
        line = patient.line("leaves CUDA's driver library out")
        assert line.status == "trouble"
        assert "compute" in line.cure
        patient.environ["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
        assert not patient.says("leaves CUDA's driver library out")

    def test_a_container_that_keeps_gpus_out(self, patient: Patient) -> None:
        patient.write(".dockerenv")
        patient.environ["NVIDIA_VISIBLE_DEVICES"] = "void"
        assert "--gpus all" in patient.line("NVIDIA_VISIBLE_DEVICES").cure

    def test_a_package_that_is_missing(
        self, patient: Patient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(facts()["packages"], "no_such_module", "no-such-wheel")
        assert patient.line("no-such-wheel").cure == "pip install no-such-wheel"


class TestSettings:
    def test_nothing_is_set(self, patient: Patient) -> None:
        assert patient.lines("settings") == []

    def test_where_a_value_comes_from(self, patient: Patient) -> None:
        patient.environ |= {"CUDAARCHS": "89", "LLAMABUILD_FORCE_MMQ": "1"}
        texts = [line.text for line in patient.lines("settings")]
        assert texts == [
            "--arch is '89', from CUDAARCHS",
            "--force-mmq is True, from LLAMABUILD_FORCE_MMQ",
        ]

    @pytest.mark.parametrize("variable", ["CUDAARCHS", "MAX_JOBS"])
    def test_a_value_that_cannot_be_used(self, patient: Patient, variable: str) -> None:
        patient.environ[variable] = "sm_999"
        (line,) = patient.lines("settings", "trouble")
        assert "sm_999" in line.text
        assert line.cure


class TestModules:
    def module(self, forge: Forge, path: Path, *archs: int, kind: int = 2) -> Path:
        ptx = b".version 7.1\n.target sm_61\n.address_size 64\n.visible .entry k1()\n{\nret;\n}\n"
        entries = []
        for arch in archs:
            code = forge.cubin(["k1"], arch=arch) if kind == 2 else ptx
            entry = bytearray(forge.entry(code, kind=kind, arch=arch))
            struct.pack_into("<HH", entry, 24, 1, 7)  # the version of PTX, the minor number first
            entries.append(bytes(entry))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(forge.library(forge.container(*entries)))
        return path

    def test_one_that_runs(self, patient: Patient, forge: Forge) -> None:
        path = self.module(forge, patient.home / ".llamafile/v/0.9.3/ggml-cuda.so", 61, 90)
        patient.gpus = (gpu(),)
        line = patient.line(str(path))
        assert (line.status, line.cure) == ("ok", "")
        assert "61-real 90-real" in line.text
        assert "GTX 1080 (6.1)" in line.text

    def test_one_that_does_not(self, patient: Patient, forge: Forge) -> None:
        path = self.module(forge, patient.home / ".llamafile/ggml-cuda.so", 75)
        patient.gpus = (gpu(),)
        line = patient.line(str(path))
        assert line.status == "trouble"
        assert "nothing of it runs" in line.text
        assert "llamabuild install" in line.cure

    def test_one_whose_kernels_give_up(
        self, patient: Patient, forge: Forge, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The failure that the project is about: code for 6.0 on a card of 6.1."""
        from llamabuild import inspect

        path = self.module(forge, patient.cwd / "ggml-cuda.so", 60)
        real = inspect.coverage  # of 6.0 it is native: there the source has no more to offer

        def trapped(module: inspect.Module, arch: str) -> inspect.Coverage:
            import dataclasses

            found = real(module, arch)
            return dataclasses.replace(found, kernels=343, trapped=("k",) * 140)

        monkeypatch.setattr(inspect, "coverage", trapped)
        patient.gpus = (gpu(),)
        line = patient.line(str(path))
        assert line.status == "trouble"
        assert "140 of 343 kernels give up" in line.text
        assert "the code for 60" in line.text
        patient.gpus = (gpu("60", "P100"),)
        assert patient.line(str(path)).status == "ok"

    def test_without_a_gpu_it_is_named(self, patient: Patient, forge: Forge) -> None:
        path = self.module(forge, patient.home / ".llamafile/ggml-cuda.so", 60)
        line = patient.line(str(path))
        assert (line.status, line.text) == ("ok", f"{path} (60-real)")

    @pytest.mark.parametrize(
        ("driver", "words"),
        [
            ("440.33", "needs driver 455.23 or newer"),
            ("", "the provided PTX was compiled with an unsupported toolchain"),
        ],
    )
    def test_ptx_that_the_driver_does_not_know(
        self, patient: Patient, forge: Forge, driver: str, words: str
    ) -> None:
        path = self.module(forge, patient.home / ".llamafile/ggml-cuda.so", 61, kind=1)
        patient.gpus, patient.driver_cuda = (gpu(driver=driver),), (10, 2)  # the PTX is of 11.1
        line = patient.line(str(path))
        assert line.status == "trouble"
        assert words in line.text
        assert "update the driver" in line.cure

    def test_ptx_that_the_driver_knows(self, patient: Patient, forge: Forge) -> None:
        path = self.module(forge, patient.home / ".llamafile/ggml-cuda.so", 61, kind=1)
        patient.gpus, patient.driver_cuda = (gpu(driver="580.65.06"),), (13, 0)
        line = patient.line(str(path))
        assert line.status == "note"
        assert "at the first start" in line.text

    def test_a_damaged_one(self, patient: Patient, forge: Forge) -> None:
        path = patient.home / ".llamafile/ggml-cuda.so"
        path.parent.mkdir()
        path.write_bytes(forge.library()[:80])
        assert patient.line(str(path)).status == "trouble"

    def test_two_makes_in_one_folder(self, patient: Patient, forge: Forge) -> None:
        for name in ("ggml-cuda.so", "ggml-rocm.so"):
            self.module(forge, patient.home / ".llamafile" / name, 61)
        line = patient.line("take ggml-rocm.so")
        assert line.status == "note"
        assert "rm " in line.cure

    def world(self, patient: Patient, tmp_path: Path) -> World:
        folder = tmp_path / "world"
        folder.mkdir()
        world = World(folder)
        patient.home, patient.cwd = world.home, world.cwd
        patient.environ |= {"HOME": str(world.home), "CUDA_PATH": ""}
        return world

    def test_the_one_shipped_in_a_llamafile(
        self, patient: Patient, forge: Forge, tmp_path: Path
    ) -> None:
        """The seed's case: what would be taken lies inside, and the GPU finds nothing in it."""
        inside = self.module(forge, tmp_path / "inside.so", 75).read_bytes()
        path = self.world(patient, tmp_path).llamafile("0.9.3", cuda=inside)
        patient.gpus = (gpu(),)
        line = patient.line("takes the ggml-cuda.so inside it")
        assert line.status == "trouble"
        assert line.text.startswith(f"{path} (llamafile 0.9.3) takes")
        assert "75-real): nothing of it runs on GTX 1080 (6.1)" in line.text
        assert line.cure == f"llamabuild install {path}"

    def test_one_that_cannot_be_taken_out(
        self, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none() -> str:
            raise FileNotFoundError(2, "No usable temporary directory found")

        self.world(patient, tmp_path).llamafile("0.9.3", cuda=b"\x7fELF")
        monkeypatch.setattr(tempfile, "gettempdir", none)
        line = patient.line("cannot be taken out for a look")
        assert line.status == "note"
        assert "TMPDIR" in line.cure

    def test_the_one_in_llamafiles_folder_goes_first(
        self, patient: Patient, forge: Forge, tmp_path: Path
    ) -> None:
        world = self.world(patient, tmp_path)
        inside = self.module(forge, tmp_path / "inside.so", 75).read_bytes()
        path = world.llamafile("0.9.3", cuda=inside)
        module = self.module(forge, world.app("0.9.3") / "ggml-cuda.so", 61)
        patient.gpus = (gpu(),)
        line = patient.line(f"{path} (llamafile 0.9.3)")
        assert (line.status, line.text.endswith(f"takes {module}")) == ("ok", True)
        assert patient.line(f"{module} (61-real)").status == "ok"

    def test_a_llamafile_without_a_module(self, patient: Patient, tmp_path: Path) -> None:
        path = self.world(patient, tmp_path).llamafile("0.10.2")
        line = patient.line("has no module for a GPU")
        assert (line.status, line.cure) == ("note", f"llamabuild install {path}")

    def test_a_llamafile_that_does_not_tell_its_release(
        self, patient: Patient, tmp_path: Path
    ) -> None:
        path = self.world(patient, tmp_path).llamafile("0.10.2", text=False)
        line = patient.line(f"{path}: ")
        assert line.status == "note"
        assert "--llamafile-version" in line.text

    @pytest.mark.parametrize("folder", ["cwd", "home/.llamafile/v/0.9.3"])
    def test_what_a_killed_command_left(self, patient: Patient, folder: str) -> None:
        place = patient.cwd if folder == "cwd" else patient.home.parent / folder
        place.mkdir(parents=True, exist_ok=True)
        target = place / "some model.llamafile"
        with staged(target) as stage:
            stage.file.write(b"a piece of it")
            stage.file.flush()
            assert not patient.says("was left by"), "it is being written"
            left = stage.path
            left.rename(left.with_name("aside"))
        left.with_name("aside").rename(left)
        line = patient.line("was left by a llamabuild that was killed")
        assert line.status == "note"
        assert line.text.startswith(f"{left} (0.0 MB)")
        assert line.cure.startswith(f"rm '{left}', or the same command again")
        assert left.read_bytes() == b"a piece of it"
        with staged(target):
            pass
        assert not patient.says("was left by")

    def test_what_is_taken_over_meanwhile(
        self, patient: Patient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gone = patient.cwd / ".a.llamabuild"
        monkeypatch.setattr("llamabuild.doctor.modules.abandoned", lambda _: (gone,))
        assert not patient.says(gone.name)

    def test_what_only_looks_like_it(self, patient: Patient) -> None:
        (patient.cwd / ".a.llamabuild").mkdir()
        (patient.cwd / ".b.llamabuild").symlink_to(patient.cwd / "nothing")
        (patient.cwd / ".c.llamabuild").symlink_to(__file__)
        (patient.cwd / "d.llamabuild").touch()
        assert not patient.says("was left by")

    def test_what_would_be_compiled(self, patient: Patient) -> None:
        assert patient.line("without --source").status == "ok"
        for name in ("a.llamafile", "b.llamafile"):
            (patient.cwd / name).touch()
        line = patient.line("there are 2 llamafiles")
        assert line.status == "note"
        assert "--source" in line.cure


class TestRoom:
    def cache(self, patient: Patient, tmp_path: Path) -> Store:
        patient.environ["LLAMABUILD_CACHE_DIR"] = str(tmp_path / "cache")
        store = Store(tmp_path / "cache")
        with store.claim(KEY) as staging:
            (staging.entry / "ggml-cuda.so").write_bytes(b"module")
            store.publish(staging, "ggml-cuda.so", {})
        return store

    def test_a_sound_cache(self, patient: Patient, tmp_path: Path) -> None:
        self.cache(patient, tmp_path)
        assert patient.line("1 sound modules").status == "ok"

    def test_a_damaged_entry(self, patient: Patient, tmp_path: Path) -> None:
        store = self.cache(patient, tmp_path)
        (store.base / KEY / "ggml-cuda.so").write_bytes(b"modulf")
        line = patient.line(f"the cached module {KEY} is damaged")
        assert line.status == "trouble"
        assert "llamabuild cache verify" in line.cure
        assert (store.base / KEY).is_dir()  # it was not set aside

    def test_a_cache_that_others_can_write(self, patient: Patient, tmp_path: Path) -> None:
        self.cache(patient, tmp_path)
        (tmp_path / "cache").chmod(0o777)
        line = patient.line("other users can write")
        assert (line.status, line.cure) == ("trouble", f"chmod go-w {tmp_path / 'cache'}")

    def test_what_unfinished_builds_left(
        self, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = self.cache(patient, tmp_path)
        (store.base / "staging" / "dead").mkdir(parents=True)
        (store.base / "staging" / "dead" / "o").write_bytes(bytes(20))
        monkeypatch.setattr(storage, "_GB", 10)
        assert "cache prune" in patient.line("unfinished builds").cure

    @pytest.mark.parametrize(
        ("free", "status"), [(10**8, "trouble"), (2 * 10**9, "note"), (10**11, "ok")]
    )
    def test_the_disk(
        self, patient: Patient, monkeypatch: pytest.MonkeyPatch, free: int, status: str
    ) -> None:
        import shutil

        class Usage:
            def __init__(self) -> None:
                self.free = free

        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage())
        line = patient.line("free for the cache")
        assert line.status == status
        assert bool(line.cure) is (status != "ok")

    @pytest.mark.parametrize(
        ("available", "status"), [(GIB, "trouble"), (2 * GIB, "note"), (8 * GIB, "ok")]
    )
    def test_memory(self, patient: Patient, available: int, status: str) -> None:
        patient.write("proc/meminfo", f"MemAvailable: {available // 1024} kB\n")
        line = patient.line("of memory for a build")
        assert line.status == status
        assert bool(line.cure) is (status != "ok")


@pytest.mark.parametrize(
    ("version", "other", "expected"),
    [
        ("580.65.06", "575.51.03", True),
        ("535.54.03", "535.261.03", False),
        ("", "535.54.03", False),
        ("535.54.03", "unknown", False),
    ],
)
def test_versions_are_compared_by_number(version: str, other: str, expected: bool) -> None:
    assert newer(version, other) is expected


class TestAmd:
    @pytest.fixture
    def radeon(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> Patient:
        from llamabuild import probe
        from llamabuild.probe import Detection

        found = Gpu("amd", 0, "Radeon RX 6800", "gfx1030", 16 * GIB, "", "KFD", "")
        monkeypatch.setattr(probe, "detect_amd", lambda *_a, **_k: Detection((found,), (), None))
        return patient

    def test_a_gpu_is_told_and_nvidias_are_not_missed(self, radeon: Patient) -> None:
        line = radeon.line("Radeon")
        assert line.text.startswith("GPU 0: Radeon RX 6800, gfx1030, 16 GiB")
        assert not radeon.says("NVIDIA")
        assert not radeon.says("there is no GPU")
        assert not radeon.says("CUDA toolkit")

    def test_without_rocm(self, radeon: Patient) -> None:
        line = radeon.line("no usable ROCm was found")
        assert line.status == "trouble"
        assert line.cure

    def test_with_one(self, radeon: Patient) -> None:
        radeon.sandbox.rocm(radeon.root / "opt/rocm")
        assert radeon.line("for gfx1030: HIP 6.2.41134").status == "ok"
        assert "no hipBLAS" in radeon.line("with clang 18.0.0").text

    def test_with_one_that_cannot_compile(self, radeon: Patient) -> None:
        radeon.sandbox.rocm(
            radeon.root / "opt/rocm", trouble="error: cannot find ROCm device library"
        )
        assert radeon.line("not used:").status == "trouble"

    def test_what_is_wrong_with_rocm_is_nobodys_trouble_without_such_a_gpu(
        self, patient: Patient
    ) -> None:
        patient.sandbox.rocm(patient.root / "opt/rocm", trouble="error: broken")
        assert not patient.says("not used:")
