"""clang is called once for each AMD target and once for the host, and all of it adds up."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.rocms import rocm

from llamabuild.arch import hip_target
from llamabuild.engine import Tools, clang, own
from llamabuild.engine.graph import Graph
from llamabuild.engine.site import Site
from llamabuild.events import silent
from llamabuild.planning import Plan, make_plan
from llamabuild.probe import HostLimits
from llamabuild.settings import resolve
from llamabuild.source import SourceTree
from llamabuild.toolchain import BuildTools, Machine, Rocm

ROCM = rocm("6.2.41134", "gfx906", "gfx90a", "gfx1030")
KERNELS = SourceTree(
    kind="bundled",
    version="0.1.0",
    root=Path("/nowhere"),
    files=("src/a.cu", "src/b.cu"),
    digest="ab" * 32,
    layout="kernels",
    flavors=("bundled",),
    origin="bundled",
    device=("src/a.cu", "src/b.cu"),
    includes=("include",),
    nvcc_flags=("-std=c++17", "-O3"),
    declared=("llamabuild_run",),
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    folder = tmp_path / "site"
    (folder / "src").mkdir(parents=True)
    tools = Tools(
        BuildTools(Path("cmake"), "4.0", Path("ninja"), "1.13"), HostLimits(8, 64 << 30), {}
    )
    return Site(planned("gfx906", "gfx90a:xnack-"), folder, tools, {}, io.StringIO(), silent)


def planned(*targets: str, source: SourceTree = KERNELS, rocm: Rocm = ROCM) -> Plan:
    return make_plan(
        resolve({"backend": "hip", "defines": ["ONE=1"]}, {}),
        archs=tuple(hip_target(target) for target in targets),
        toolkit=rocm,
        host_compiler=rocm.host_compiler,
        source=source,
        machine=Machine("linux", "x86_64"),
    )


def graph(site: Site) -> Graph:
    return clang.graph(site, ROCM)


def test_every_need_is_a_source_or_made_once(site: Site) -> None:
    found = graph(site)
    made = [name for stage in found.stages for name in stage.makes]
    assert len(made) == len(set(made)) == 2 * (2 + 1 + 1)
    for stage in found.stages:
        assert stage.needs
        assert set(stage.needs) <= {*made, *KERNELS.device}
        for name in (*stage.makes, *stage.needs):
            assert any(name in word for word in stage.argv), (stage.label, name)
    assert set(found.objects) <= set(made)
    assert len(found.objects) == len(KERNELS.device)
    assert len({stage.label for stage in found.stages}) == len(found.stages)


def test_each_target_is_compiled_by_itself_and_nothing_waits_for_another(site: Site) -> None:
    device = [stage for stage in graph(site).stages if "--cuda-device-only" in stage.argv]
    assert [stage.needs for stage in device] == [("src/a.cu",)] * 2 + [("src/b.cu",)] * 2
    for stage in device:
        (target,) = [word for word in stage.argv if word.startswith("--offload-arch")]
        assert target in {"--offload-arch=gfx906", "--offload-arch=gfx90a:xnack-"}


def test_the_bundle_names_each_code_by_its_target_in_the_same_order(site: Site) -> None:
    bundle = next(stage for stage in graph(site).stages if stage.tool == "bundler")
    assert (
        "-targets=host-x86_64-unknown-linux,hipv4-amdgcn-amd-amdhsa--gfx906,"
        "hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-"
    ) in bundle.argv
    inputs = [word.partition("=")[2] for word in bundle.argv if word.startswith("-input=")]
    assert inputs == ["/dev/null", *bundle.needs]


def test_host_and_device_agree_on_everything_but_their_half(site: Site) -> None:
    mine = {
        *("--cuda-device-only", "--no-gpu-bundle-output", "--cuda-host-only", "-Xclang"),
        "-fcuda-include-gpubinary",
    }
    shared = [
        [
            word
            for word in stage.argv
            if word not in {*mine, *stage.makes, *stage.needs} and "--offload-arch" not in word
        ]
        for stage in graph(site).stages
        if stage.tool in {"clang", "compiler"} and "src/a.cu" in stage.needs
    ]
    assert shared[0] == shared[1] == shared[2]
    for word in ("-DONE=1", "-Iinclude", "-std=c++17", "-fvisibility=hidden", "-fPIC", "hip"):
        assert word in shared[0]
    assert f"--rocm-path={ROCM.root}" in shared[0]
    assert f"--rocm-device-lib-path={ROCM.device_libraries}" in shared[0]


def test_names_of_what_is_local_depend_on_the_plan_and_the_file_but_on_no_folder(
    site: Site, tmp_path: Path
) -> None:
    def units(where: Site) -> list[str]:
        words = [word for stage in graph(where).stages for word in stage.argv]
        return sorted({word for word in words if word.startswith("-cuid=")})

    (tmp_path / "elsewhere/src").mkdir(parents=True)
    assert len(units(site)) == len(KERNELS.device)
    assert units(replace(site, folder=tmp_path / "elsewhere")) == units(site)
    assert not set(units(replace(site, plan=planned("gfx906")))) & set(units(site))
    assert str(tmp_path) not in str(graph(site).stages)


def test_libraries_are_linked_by_their_files(site: Site) -> None:
    assert clang.libraries(site, ROCM) == [str(ROCM.runtime), "dl", "rt", "pthread"]
    linked = replace(site, plan=replace(site.plan, libraries=("amdhip64", "hipblas")))
    assert clang.libraries(linked, ROCM) == [str(ROCM.runtime), f"{ROCM.root}/lib/libhipblas.so"]


def test_cmake_is_told_of_clang_and_not_of_nvcc(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, object] = {}

    class Silent:
        folder = site.folder / "build"

        def configure(self, values: dict[str, object]) -> None:
            told.update(values)

        def build(self, target: str, **_more: object) -> None:
            told["target"] = target

    monkeypatch.setattr(Site, "project", lambda _site, _name: Silent())
    assert own.build(site).name == "ggml-rocm.so"
    assert told["CMAKE_CXX_COMPILER"] == str(ROCM.clang)
    assert told["CMAKE_C_COMPILER"] == f"{ROCM.root}/llvm/bin/clang"
    assert not any("NVCC" in name for name in told)
    script = Path(str(told["LLAMABUILD_STAGES"])).read_text()
    assert script.count("add_custom_command") == 8
