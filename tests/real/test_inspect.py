"""Inspection of what real compilers made, here and elsewhere; other tools as second opinion."""

from __future__ import annotations

import os
import re
import shutil
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild import inspect, run
from llamabuild.arch import CudaArch
from llamabuild.events import Event, Note
from llamabuild.inspect import Module, cubin, fatbin, ptx, report
from llamabuild.inspect.demangle import demangle
from llamabuild.inspect.hosts import hosts
from llamabuild.inspect.image import Budget
from llamabuild.memo import Memo
from llamabuild.source import open_source
from llamabuild.toolchain import Toolkit, compiler_environment, find_cuda, find_host_compiler

from .conftest import SOURCES

DATA = Path(__file__).parent / "data" / "inspect"
ENVIRON = dict(os.environ)

VERDICTS = {
    "works": "none",
    "works_too<7>": "none",
    "gives_up_in_a_loop": "trapped",
    "gives_up_at_once": "trapped",
    "asserts": "none",
    "checks": "suspect",
    "checks_and_says_so": "suspect",
}


@pytest.fixture(scope="session")
def toolkits(need: Any) -> tuple[Toolkit, ...]:
    found = find_cuda(ENVIRON, memo=Memo(None)).toolkits
    need(found, "a CUDA toolkit")
    return found


def nvcc(toolkit: Toolkit, *words: str | Path, code: Path = DATA / "traps.cu") -> None:
    compiler = find_host_compiler(toolkit, ENVIRON, memo=Memo(None))
    done = run.capture(
        [toolkit.nvcc, "-ccbin", compiler.path, "-w", *words, code],
        env=compiler_environment(toolkit, compiler, ENVIRON),
        timeout=300,
    )
    assert done.returncode == 0, done.text


def library(toolkit: Toolkit, output: Path, archs: Sequence[CudaArch], *words: str) -> Module:
    codes = [word for arch in archs for word in ("-gencode", arch.gencode())]
    nvcc(toolkit, "-shared", "-Xcompiler", "-fPIC", *codes, *words, "-o", output)
    return inspect.read_module(output)


def verdicts(kernels: Any) -> dict[str, str]:
    return {demangle(kernel.name): kernel.trap for kernel in kernels}


def fat_binaries(toolkit: Toolkit, folder: Path) -> dict[str, memoryview]:
    """Machine code for every architecture; of those with a suffix, for the newest "a" and "f"."""
    groups = [[arch for arch in toolkit.real if arch.suffix == suffix] for suffix in ("", "a", "f")]
    found = {}
    for archs in (groups[0], groups[1][-1:], groups[2][-1:]):
        if archs:  # nvcc takes no two of one number at once.
            codes = [word for arch in archs for word in ("-gencode", arch.gencode())]
            output = folder / "traps.fatbin"
            nvcc(toolkit, "-fatbin", "--threads", "2", *codes, "-o", output)
            content = output.read_bytes()
            for payload in fatbin.containers(memoryview(content)):
                found[payload.arch] = payload.unpack(Budget(len(content)))
    return found


@pytest.mark.nvcc
def test_every_architecture_of_every_toolkit(toolkits: tuple[Toolkit, ...], tmp_path: Path) -> None:
    """The traps are found in machine code from 5.0 to the newest, and nothing else is."""
    for toolkit in toolkits:
        binaries = fat_binaries(toolkit, tmp_path)
        assert {arch.name for arch in toolkit.real if not arch.suffix} <= binaries.keys()
        for arch, code in binaries.items():
            number = int(arch.rstrip("af"))
            kernels, cuda = cubin.kernels(code, number)
            assert cuda == tuple(int(part) for part in toolkit.version.split(".")[:2])
            expected = dict(VERDICTS)
            if number < 50:  # only the message is known there, not the instructions
                expected |= {name: "unknown" for name in VERDICTS if name != "gives_up_in_a_loop"}
            if number == 87:  # every kernel begins with a branch
                expected["gives_up_at_once"] = "suspect"
            assert verdicts(kernels) == expected, f"{toolkit.version}, {arch}"


@pytest.mark.nvcc
def test_ptx_of_every_toolkit(toolkits: tuple[Toolkit, ...], tmp_path: Path) -> None:
    for toolkit in toolkits:
        for arch in (toolkit.virtual[0], toolkit.virtual[-1]):
            output = tmp_path / "traps.ptx"
            nvcc(toolkit, "-ptx", f"-arch={arch.compute}", "-o", output)
            assert verdicts(ptx.kernels(memoryview(output.read_bytes()))) == VERDICTS


@pytest.mark.nvcc
def test_modules_are_what_was_asked_for_however_they_are_packed(
    toolkits: tuple[Toolkit, ...], tmp_path: Path
) -> None:
    for toolkit in toolkits:
        plain = [arch for arch in toolkit.real if not arch.suffix]
        special = [arch for arch in toolkit.real if arch.suffix][:1]
        archs = [plain[-1], *special, CudaArch(plain[-1].number, virtual=True)]
        packings: list[list[str]] = [[], ["-Xfatbin", "-compress-all"]]
        if toolkit.version >= "13":
            packings += [["--compress-mode", "none"], ["--compress-mode", "size"]]
        for packing in packings:
            module = library(toolkit, tmp_path / "packed.so", archs, *packing)
            wanted = [str(arch) for arch in archs]
            assert not inspect.check(
                module, archs=wanted, exports=("launch_them",), allowed_needed=("*",)
            )
            assert inspect.check(module, archs=wanted[1:], exports=(), allowed_needed=("*",))
            for entry in module.entries:
                assert verdicts(entry.kernels or ()).keys() == VERDICTS.keys(), packing


@pytest.mark.nvcc
def test_ptx_alone_leaves_no_trace_of_what_the_device_linker_brings(
    toolkits: tuple[Toolkit, ...], tmp_path: Path
) -> None:
    for toolkit in toolkits:
        module = library(toolkit, tmp_path / "ptx.so", [toolkit.virtual[0]])
        assert module.labels == (str(toolkit.virtual[0]),)


@pytest.mark.nvcc
def test_cuobjdump_says_the_same(toolkits: tuple[Toolkit, ...], tmp_path: Path, need: Any) -> None:
    tools = {
        toolkit: found
        for toolkit in toolkits
        if (found := shutil.which("cuobjdump", path=os.pathsep.join(map(str, toolkit.path_dirs))))
    }
    need(tools, "a toolkit with cuobjdump")
    for toolkit, tool in tools.items():
        plain = [arch for arch in toolkit.real if arch.number in (50, 61, 75)]
        archs = [*plain, CudaArch(plain[-1].number, virtual=True)]
        path = tmp_path / "all.so"
        module = library(toolkit, path, archs)

        def ask(option: str, tool: str = tool, path: Path = path) -> str:
            done = run.capture([tool, option, path], env=ENVIRON, timeout=600)
            assert done.returncode == 0, done.text
            return done.stdout

        # It also lists the device linker's stand-ins, which hold no kernel.
        listed = set(re.findall(r"\.sm_(\d+[af]?)\.cubin", ask("--list-elf")))
        assert listed == {entry.arch for entry in module.entries if entry.kind == "sass"}
        listed = set(re.findall(r"\.sm_(\d+[af]?)\.ptx", ask("--list-ptx")))
        assert listed == {entry.arch for entry in module.entries if entry.kind == "ptx"}

        holding: dict[tuple[str, str], bool] = {}
        arch = name = ""
        for line in ask("-sass").splitlines():
            if match := re.search(r"code for sm_(\w+)", line):
                arch = match[1]
            elif match := re.search(r"Function : (\S+)", line):
                name = match[1]
                holding[arch, name] = False
            elif "BPT.TRAP" in line:
                holding[arch, name] = True
        assert holding == {
            (entry.arch, kernel.name): kernel.trap != "none"
            for entry in module.entries
            if entry.kind == "sass"
            for kernel in entry.kernels or ()
        }


@pytest.mark.hipcc
def test_amd(tmp_path: Path, need: Any) -> None:
    need(shutil.which("hipcc"), "hipcc")
    output = tmp_path / "traps.so"
    targets = ("gfx906", "gfx90a:xnack-", "gfx1030")
    options = [f"--offload-arch={target}" for target in targets]
    done = run.capture(
        ["hipcc", "-fPIC", "-shared", *options, DATA / "traps.hip", "-o", output],
        env=ENVIRON | {"HIP_PLATFORM": "amd"},
        timeout=300,
    )
    assert done.returncode == 0, done.text
    module = inspect.read_module(output)
    assert module.backend == "hip"
    assert sorted(module.labels) == sorted(targets)
    for entry in module.entries:
        assert verdicts(entry.kernels) == {
            "works": "none",
            "gives_up_in_a_loop": "trapped",
            "gives_up_at_once": "trapped",
            "checks": "suspect",
            "empty": "suspect",
        }


@pytest.mark.skipif(sys.platform != "linux", reason="needs shared objects of Linux")
def test_pyelftools_says_the_same_of_the_systems_own_libraries() -> None:
    paths = [Path(line.split()[-1]) for line in Path("/proc/self/maps").read_text().splitlines()]
    libraries = sorted({path for path in paths if ".so" in path.name and path.is_file()})
    assert len(libraries) > 3
    for path in libraries:
        module = inspect.read_module(path)
        other = second_opinion(path)
        assert set(module.exported) == other["exported"]
        assert set(module.undefined) == other["undefined"]
        assert list(module.needed) == other["needed"]
        assert module.soname == "".join(other["soname"])
        assert module.glibc == ".".join(map(str, max(other["glibc"], default=())))


def second_opinion(path: Path) -> dict[str, Any]:
    from elftools.elf.elffile import ELFFile

    with path.open("rb") as file:
        elf: Any = ELFFile(file)
        symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
        tags = list(elf.get_section_by_name(".dynamic").iter_tags())
        versions = elf.get_section_by_name(".gnu.version_r")
        libraries = versions.iter_versions() if versions else ()
        asked = [version.name for _, of_one in libraries for version in of_one]
    named = [symbol for symbol in symbols if symbol.name]
    return {
        "exported": {
            symbol.name
            for symbol in named
            if symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_LOCAL"
        },
        "undefined": {
            symbol.name
            for symbol in named
            if symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] == "STB_GLOBAL"
        },
        "needed": [tag.needed for tag in tags if tag["d_tag"] == "DT_NEEDED"],
        "soname": [tag.soname for tag in tags if tag["d_tag"] == "DT_SONAME"],
        "glibc": [
            tuple(int(part) for part in name.removeprefix("GLIBC_").split("."))
            for name in asked
            if re.fullmatch(r"GLIBC_[\d.]+", name)
        ],
    }


@pytest.mark.skipif(sys.platform != "linux", reason="needs shared objects of Linux")
@pytest.mark.parametrize("options", [["-O0"], ["-O2"], ["-O2", "-s"]])
def test_the_version_of_ggml_is_read_from_compiled_code(tmp_path: Path, options: list[str]) -> None:
    """As ggml.c has it; and a C++ runtime is where the compiler was told to put it."""
    code = tmp_path / "version.cpp"
    code.write_text(
        "#include <stdexcept>\n"
        'extern "C" const char *ggml_version() { return "0.21.0"; }\n'
        'extern "C" const char *ggml_commit() { return "abc123-dirty"; }\n'
        'void fail(int how) { if (how) throw std::runtime_error("no"); }\n'
    )
    output = tmp_path / "version.so"
    for runtime in ("static", "shared"):
        linked = ["-static-libstdc++", "-static-libgcc"] if runtime == "static" else []
        done = run.capture(
            ["g++", "-fPIC", "-shared", *options, *linked, code, "-o", output],
            env=ENVIRON,
            timeout=60,
        )
        assert done.returncode == 0, done.text
        module = inspect.read_module(output)
        assert (module.ggml_version, module.ggml_commit) == ("0.21.0", "abc123-dirty")
        assert module.cxx_runtime == runtime
        assert module.stripped == ("-s" in options)
        assert re.fullmatch(r"[0-9a-f]{40}", module.build_id)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Modules that nobody here built: for Linux and for Windows, by seven CUDAs and by ROCm."""
    folder = tmp_path_factory.mktemp("wheels")
    for platform in ("manylinux_2_24_x86_64", "win_amd64"):
        done = run.capture(
            [
                *(sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder),
                *("--only-binary=:all:", "--platform", platform, "bitsandbytes==0.50.2"),
            ],
            env=ENVIRON,
            timeout=600,
        )
        assert done.returncode == 0, done.text
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder / "bitsandbytes"


@pytest.mark.network
@pytest.mark.parametrize(
    ("cuda", "archs"),
    [
        ("118", "60 70 75 80 86 89 90"),
        ("121", "60 70 75 80 86 89 90"),
        ("124", "60 70 75 80 86 89 90"),
        ("126", "60 70 75 80 86 89 90"),
        ("128", "70 75 80 86 89 90 100 120"),
        ("130", "75 80 86 89 90 100 120"),
        ("132", "75 80 86 89 90 100 120"),
    ],
)
def test_modules_of_seven_cudas_for_two_systems(wheels: Path, cuda: str, archs: str) -> None:
    linux = inspect.read_module(wheels / f"libbitsandbytes_cuda{cuda}.so")
    windows = inspect.read_module(wheels / f"libbitsandbytes_cuda{cuda}.dll")
    for module in (linux, windows):
        assert module.labels == tuple(f"{arch}-real" for arch in archs.split())
        for entry in module.entries:
            assert entry.cuda == (int(cuda[:2]), int(cuda[2:]))
            trapped = {demangle(k.name) for k in entry.kernels or () if k.trap == "trapped"}
            # Its authors left one tile size of one kernel out for each of these, on purpose.
            count = {"86": 2, "89": 2, "90": 12, "100": 12, "120": 2}.get(entry.arch, 0)
            assert len(trapped) == count
            assert all(name.startswith("gemm_4bit_sm80_m16n8k16<") for name in trapped)
    names = [
        {kernel.name for kernel in module.entries[0].kernels or ()} for module in (linux, windows)
    ]
    assert names[0] == names[1]
    assert any(name.startswith("libcudart.so") for name in linux.needed)
    assert "KERNEL32.dll" in windows.needed
    assert {"cgemm_4bit_inference_naive_fp16"} <= set(linux.exported)


@pytest.mark.network
def test_modules_of_several_rocms(wheels: Path) -> None:
    paths = sorted(wheels.glob("libbitsandbytes_rocm*"))
    assert len(paths) >= 6
    for path in paths:
        module = inspect.read_module(path)
        assert module.backend == "hip"
        assert {"gfx1100", "gfx1201"} <= set(module.labels)
        for entry in module.entries:
            assert entry.kernels
            assert {kernel.trap for kernel in entry.kernels} == {"none"}


@pytest.mark.nvcc
@pytest.mark.network
def test_the_failure_is_seen_before_it_happens(toolkits: tuple[Toolkit, ...], need: Any) -> None:
    """Code of 6.0 gives up on a card of 6.1, whose host counts on DP4A; code of 6.1 does not."""
    able = [toolkit for toolkit in toolkits if CudaArch(60) in toolkit.real and toolkit.cublas]
    need(able, "a CUDA toolkit that compiles 6.0, with cuBLAS")
    found = {}
    for arch in ("60", "61"):
        (built,) = llamabuild.build(arch, "pypi:llama-cpp-python==0.2.56")
        found[arch] = inspect.coverage(inspect.read_module(built.path), "61")
    bad, good = found["60"], found["61"]
    assert (bad.runs, good.runs) == ("older", "native")
    assert good.trapped == ()
    assert good.kernels == bad.kernels
    assert bad.trapped
    trapped = [demangle(name) for name in bad.trapped]
    assert any("mul_mat_vec_q" in name and "q8_0" in name for name in trapped)
    assert not any(name.startswith("dequantize_mul_mat_vec") for name in trapped)
    assert not bad.healthy


@pytest.fixture(scope="session")
def named(tmp_path_factory: pytest.TempPathFactory, need: Any) -> str:
    """llamafile 0.8.1, where it is one of the sources at hand."""
    folder = tmp_path_factory.mktemp("sources")

    def version(spec: str) -> str | None:
        return open_source(
            spec, scratch=folder, environ=ENVIRON, cwd=Path.cwd(), memo=Memo(None)
        ).version

    found = [spec for spec in SOURCES if version(spec) == "0.8.1"]
    need(found, "llamafile 0.8.1 in LLAMABUILD_TEST_SOURCES")
    return found[0]


@pytest.mark.nvcc
@pytest.mark.slow
def test_the_list_that_llamafile_0_8_1_shipped_and_the_one_that_cures_it(
    named: str, toolkits: tuple[Toolkit, ...], need: Any
) -> None:
    shipped, cured = "50,60,70,75,80,90", "50,60,61,70,75,80,90"
    wanted = {CudaArch(int(number)) for number in cured.split(",")}
    able = [found for found in toolkits if wanted <= {*found.real}]
    need(able, f"a CUDA toolkit that compiles {cured}")
    heard: list[Event] = []
    modules = []
    for archs in (shipped, cured):
        (built,) = llamabuild.build(archs, named, notify=heard.append)
        modules.append(inspect.read_module(built.path))
        assert modules[-1].labels == tuple(f"{number}-real" for number in archs.split(","))
    notes = [note for note in heard if isinstance(note, Note) and note.level == "warning"]
    (advice,) = {note.text for note in notes if "--arch" in note.text}
    assert "add 61 to --arch" in advice

    bad, good = (inspect.coverage(module, "61") for module in modules)
    assert (bad.runs, bad.entries, bad.kernels, bad.healthy) == ("older", ("60",), 343, False)
    assert len(bad.trapped or ()) == 140
    assert (good.runs, good.trapped, good.healthy) == ("native", (), True)
    text = "\n".join(report.explain(modules[0], "61", ["GeForce GTX 1080"]))
    for words in ("140 of 343 kernels give up", "mul_mat_vec_q", "DP4A", "llamabuild --arch 61"):
        assert words in text
    for card in ("52", "60", "70", "75", "86", "89", "90"):
        before, after = (inspect.coverage(module, card) for module in modules)
        assert (before.runs, before.entries) == (after.runs, after.entries)
        assert len(before.trapped or ()) == len(after.trapped or ())
        assert before.healthy == after.healthy == (card != "52")
    changed = inspect.compare(*modules).document
    assert changed["archs"] == {"added": ["61-real"], "removed": []}
    assert changed["kernels"] == changed["trapped"] == {}
    assert ("0.8", "0.8.1") in {(host.first, host.last) for host in hosts(modules[0])}


@pytest.mark.nvcc
@pytest.mark.network
def test_a_modern_module_for_two_gpus(
    toolkits: tuple[Toolkit, ...], tmp_path: Path, need: Any
) -> None:
    """One of a hundred files of a modern ggml: what it leaves out differs from GPU to GPU.

    Tiles of 64 rows are for AMD's GPUs alone, and before 8.0 matrix cores know only half precision.
    """
    able = [found for found in toolkits if {CudaArch(75), CudaArch(90)} <= {*found.real}]
    need(able, "a CUDA toolkit that compiles 7.5 and 9.0")
    tree = open_source(
        "pypi:llama-cpp-python==0.3.36",
        scratch=tmp_path,
        environ=ENVIRON,
        cwd=tmp_path,
        memo=Memo(None),
    )
    (name,) = [name for name in tree.device if name.endswith("mmf-instance-ncols_1.cu")]
    output = tmp_path / "mmf.so"
    nvcc(
        able[0],
        *("-shared", "-Xcompiler", "-fPIC", "-std=c++17", "--extended-lambda", "-DNDEBUG"),
        *(f"-I{tree.root / folder}" for folder in tree.includes),
        *(word for number in (75, 90) for word in ("-gencode", CudaArch(number).gencode())),
        *("-o", output),
        code=tree.root / name,
    )
    module = inspect.read_module(output)
    assert module.labels == ("75-real", "90-real")
    for entry in module.entries:
        found = verdicts(entry.kernels or ())
        assert len(found) == 144
        for kernel, trap in found.items():
            number_type, rows = re.findall(r"<(\w+), (\d+),", kernel)[0]
            works = rows == "32" and (entry.arch == "90" or number_type == "__half2")
            assert trap == ("none" if works else "trapped"), (entry.arch, kernel)
    assert [inspect.coverage(module, card).runs for card in ("75", "80", "90", "120")] == [
        *("native", "no", "native", "no"),
    ]
