"""Whose GPUs a module is for, from a request to a published module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.rocms import rocm

import llamabuild
from llamabuild import engine, inspect, pipeline, probe, toolchain
from llamabuild.arch import CudaArch
from llamabuild.errors import ArchitectureError, ModuleRejectedError, ToolchainError
from llamabuild.events import Event, Note
from llamabuild.inspect import Entry, Kernel, Module
from llamabuild.planning import Plan
from llamabuild.probe import Detection, Gpu, HostLimits, Problem
from llamabuild.toolchain import BuildTools, HostCompiler, RocmSearch, Toolkit, ToolkitSearch

CLASSIC = Path(__file__).parents[1] / "real/data/classic"
KFD = Problem("/dev/kfd cannot be opened: permission denied", "join the group render")
NO_NVIDIA = Detection((), (Problem("there is no NVIDIA driver", "install it"),), None, absent=True)
NO_AMD = Detection((), (Problem("there is no AMD GPU", "name one"),), None, absent=True)


def amd(*archs: str) -> Detection:
    gpus = [
        Gpu("amd", place, f"Radeon {arch}", arch, 1 << 34, "", "KFD", "")
        for place, arch in enumerate(archs)
    ]
    return Detection(tuple(gpus), (), None)


class Bench:
    """Stands for the machine."""

    def __init__(self) -> None:
        self.nvidia = NO_NVIDIA
        self.amd = NO_AMD
        self.heard: list[Event] = []
        self.compiled: list[Plan] = []
        self.inside: tuple[str, ...] = ()

    def plan(self, arch: str, **options: Any) -> tuple[Plan, ...]:
        return llamabuild.plan(arch, str(CLASSIC), notify=self.heard.append, **options)

    def build(self, arch: str, **options: Any) -> tuple[pipeline.Built, ...]:
        return llamabuild.build(arch, str(CLASSIC), notify=self.heard.append, **options)

    @property
    def told(self) -> str:
        return "\n".join(event.text for event in self.heard if isinstance(event, Note))

    def compile_plan(self, plan: Plan, folder: Path, *_more: Any) -> Path:
        self.compiled.append(plan)
        self.inside = self.inside or tuple(map(str, plan.archs))
        path = folder / plan.module
        path.write_text(plan.key)
        return path

    def read_module(self, path: Path) -> Module:
        return Module(
            path=path,
            format="elf",
            machine="x86_64",
            entries=tuple(
                Entry("gcn", target, 0, 1, (Kernel("kernel", "none"),)) for target in self.inside
            ),
            exported=self.compiled[-1].exports,
            undefined=(),
            needed=("libamdhip64.so.6", "libc.so.6"),
            soname="",
            stripped=False,
            sha256="",
            size_bytes=1,
            notes=(),
        )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench()
    old = rocm("5.2.21153", "gfx906", "gfx1030")
    new = rocm("6.2.41134", "gfx906", "gfx1030", "gfx1100")
    cuda = Toolkit(
        version="13.0.88",
        root=Path("/opt/cuda"),
        nvcc=Path("/opt/cuda/bin/nvcc"),
        found_via="PATH",
        named=False,
        real=(CudaArch(75), CudaArch(90)),
        virtual=(CudaArch(90, virtual=True),),
        pieces=(),
        path_dirs=(),
        include_dir=Path("/opt/include"),
        library_dirs=(),
        cublas=None,
        driver_stub=None,
        gcc_max=15,
        clang_max=None,
        msvc=None,
        glibc_below="",
        split_compile=True,
        compress_mode=True,
        threads=True,
    )
    gxx = HostCompiler(Path("/usr/bin/g++"), Path("/usr/bin/gcc"), "gcc", "12.2.0", "PATH")
    tools = BuildTools(Path("cmake"), "4.0", Path("ninja"), "1.13")
    monkeypatch.setattr(toolchain, "find_rocm", lambda *_a, **_k: RocmSearch((new, old)))
    monkeypatch.setattr(toolchain, "find_cuda", lambda *_a, **_k: ToolkitSearch((cuda,)))
    monkeypatch.setattr(toolchain, "find_host_compiler", lambda *_a, **_k: gxx)
    monkeypatch.setattr(toolchain, "find_build_tools", lambda *_a, **_k: tools)
    monkeypatch.setattr(probe, "detect_nvidia", lambda _environ: found.nvidia)
    monkeypatch.setattr(probe, "detect_amd", lambda _environ: found.amd)
    monkeypatch.setattr(probe, "detect_gpus", lambda _environ: found.amd)
    monkeypatch.setattr(probe, "host_limits", lambda: HostLimits(2, 8 << 30))
    monkeypatch.setattr(engine, "compile_plan", found.compile_plan)
    monkeypatch.setattr(inspect, "read_module", found.read_module)
    return found


def archs(plans: tuple[Plan, ...]) -> list[str]:
    return [" ".join(map(str, plan.archs)) for plan in plans]


def test_amd_targets_mean_amds_backend(bench: Bench) -> None:
    (plan,) = bench.plan("gfx1030,gfx906")
    assert (plan.backend, plan.module) == ("hip", "ggml-rocm.so")
    assert archs((plan,)) == ["gfx906 gfx1030"]
    assert plan.host_compiler.kind == "clang"
    assert "gfx906: AMD GPUs, so --backend hip" in bench.told


@pytest.mark.parametrize("arch", ["90", "all-major", "auto", "75 90"])
def test_everything_else_means_nvidias(bench: Bench, arch: str) -> None:
    (plan,) = bench.plan(arch)
    assert plan.backend == "cuda"


@pytest.mark.parametrize("arch", ["native", "auto"])
def test_what_is_here_decides_and_nvidias_gpus_go_first(bench: Bench, arch: str) -> None:
    bench.amd = amd("gfx1100", "gfx906")
    (plan,) = bench.plan(arch)
    assert (plan.backend, archs((plan,))) == ("hip", ["gfx906 gfx1100"])
    assert "GPU 0: Radeon gfx1100, gfx1100" in bench.told
    bench.nvidia = Detection((Gpu("nvidia", 0, "H200", "90", 1, "1", "NVML", ""),), (), None)
    (plan,) = bench.plan(arch)
    assert (plan.backend, archs((plan,))) == ("cuda", ["90-real"])
    (plan,) = bench.plan(arch, backend="hip")
    assert plan.backend == "hip"


@pytest.mark.parametrize(
    ("arch", "backend", "expected"),
    [
        ("all", "hip", ["gfx906 gfx1030 gfx1100"]),
        ("all-major", "hip", ["gfx906 gfx1030 gfx1100"]),
        ("auto", "hip", ["gfx906 gfx1030 gfx1100"]),
    ],
)
def test_keywords_with_hip(bench: Bench, arch: str, backend: str, expected: list[str]) -> None:
    assert archs(bench.plan(arch, backend=backend)) == expected


def test_each_target_by_itself(bench: Bench) -> None:
    plans = bench.plan("all", backend="hip", per_arch=True)
    assert archs(plans) == ["gfx906", "gfx1030", "gfx1100"]
    assert len({plan.key for plan in plans}) == 3


@pytest.mark.parametrize(
    ("arch", "options", "words"),
    [
        ("sm_90", {"backend": "hip"}, "sm_90 is an NVIDIA GPU"),
        ("gfx1030", {"backend": "cuda"}, "gfx1030 is an AMD GPU"),
        ("gfx1030,90", {}, "90 are NVIDIA's and gfx1030 AMD's"),
        ("native", {"backend": "hip"}, "no AMD GPU is visible: there is no AMD GPU"),
        ("native", {}, "none is visible: there is no NVIDIA driver"),
    ],
)
def test_what_cannot_be_meant(bench: Bench, arch: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ArchitectureError) as caught:
        bench.plan(arch, **options)
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("options", [{}, {"backend": "hip"}])
def test_a_card_that_may_not_be_opened_is_told_with_its_remedy(
    bench: Bench, options: dict[str, Any]
) -> None:
    bench.amd = Detection((), (KFD,), None)
    with pytest.raises(ArchitectureError) as caught:
        bench.plan("native", **options)
    assert KFD.message in caught.value.message
    assert caught.value.hint == KFD.hint


def test_a_target_that_no_rocm_knows(bench: Bench) -> None:
    with pytest.raises(ToolchainError, match="does not compile gfx1036") as caught:
        bench.plan("gfx1036")
    assert "HSA_OVERRIDE_GFX_VERSION=10.3.0: --arch gfx1030" in caught.value.hint


def test_a_module_for_amd_is_published_and_found_again(bench: Bench) -> None:
    (built,) = bench.build("gfx906,gfx1030")
    assert built.path.name == "ggml-rocm.so"
    assert built.to_json()["backend"] == "hip"
    assert built.to_json()["archs"] == ["gfx906", "gfx1030"]
    manifest = json.loads(built.path.with_name("manifest.json").read_text())
    assert (manifest["backend"], manifest["toolkit"]["version"]) == ("hip", "6.2.41134")
    (again,) = bench.build("gfx1030 gfx906")
    assert again.cached
    assert len(bench.compiled) == 1


def test_a_module_with_other_targets_is_not_published(bench: Bench) -> None:
    bench.inside = ("gfx906",)
    with pytest.raises(ModuleRejectedError, match="code for gfx1030 was asked for"):
        bench.build("gfx906,gfx1030")
    bench.inside = ("gfx906", "gfx1030", "gfx1031")
    with pytest.raises(ModuleRejectedError, match="gfx1031 is inside and was not asked for"):
        bench.build("gfx906,gfx1030")
