"""From request to module with everything real but the compilers and their result."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import llamabuild
from llamabuild import engine, inspect, pipeline, probe, replay, run, source, toolchain
from llamabuild.arch import CudaArch
from llamabuild.cli import main
from llamabuild.errors import (
    ArchitectureError,
    CompilationError,
    ModuleRejectedError,
    ToolchainError,
)
from llamabuild.events import Event, Note
from llamabuild.inspect import Entry, Kernel, Module
from llamabuild.planning import Plan
from llamabuild.probe import Detection, Gpu, HostLimits, Problem
from llamabuild.settings import resolve
from llamabuild.source import Found
from llamabuild.toolchain import BuildTools, HostCompiler, Toolkit, ToolkitSearch

CLASSIC = Path(__file__).parents[1] / "real" / "data" / "classic"
GIB = 1024**3


def toolkit(version: str, *numbers: int) -> Toolkit:
    return Toolkit(
        version=version,
        root=Path(f"/opt/cuda-{version}"),
        nvcc=Path(f"/opt/cuda-{version}/bin/nvcc"),
        found_via="/usr/local/cuda*",
        named=False,
        real=tuple(CudaArch(number) for number in numbers),
        virtual=tuple(CudaArch(number, virtual=True) for number in numbers),
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


NEW, OLD = toolkit("13.0.88", 75, 80, 90, 120), toolkit("11.8.89", 50, 60, 61, 75, 90)


class Bench:
    """Stands for the machine: what it has, and what was compiled on it."""

    def __init__(self) -> None:
        self.compiled: list[Plan] = []
        self.detection = Detection((), (Problem("there is no NVIDIA driver", "name one"),), None)
        self.missing: set[str] = set()
        self.traps: dict[str, int] = {}
        self.failure: BaseException | None = None
        self.looks = 0  # how often somebody looked for GPUs
        self.reads = 0  # how often a module was read

    def detect_gpus(self, _environ: Any) -> Detection:
        self.looks += 1
        return self.detection

    def compile_plan(self, plan: Plan, folder: Path, _tools: Any, log: Any, _notify: Any) -> Path:
        self.compiled.append(plan)
        log.write("compiling\n")
        if self.failure is not None:
            raise self.failure
        path = folder / plan.module
        path.write_text(f"module {plan.key}")
        return path

    def read_module(self, path: Path) -> Module:
        self.reads += 1
        plan = next(plan for plan in self.compiled if plan.key in path.read_text())
        return Module(
            path=path,
            format="elf",
            machine="x86_64",
            entries=tuple(self._entry(arch) for arch in plan.archs if isinstance(arch, CudaArch)),
            exported=tuple(name for name in plan.exports if name not in self.missing),
            undefined=(),
            needed=("libc.so.6", "libcuda.so.1"),
            soname="",
            runpath=(),
            glibc="2.34",
            glibcxx="",
            build_id="",
            stripped=False,
            sha256="",
            size_bytes=1,
            notes=(),
        )

    def _entry(self, arch: CudaArch) -> Entry:
        traps = self.traps.get(arch.name, 0)
        kernels = tuple(
            Kernel(f"kernel{number}", "trapped" if number < traps else "none")
            for number in range(3)
        )
        return Entry(
            kind="ptx" if arch.virtual else "sass",
            arch=arch.name,
            container=0,
            size_bytes=1,
            kernels=kernels,
        )


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench()
    compiler = HostCompiler(Path("/usr/bin/g++"), Path("/usr/bin/gcc"), "gcc", "12.2.0", "PATH")
    tools = BuildTools(Path("cmake"), "4.0", Path("ninja"), "1.13")
    search = ToolkitSearch((NEW, OLD))
    monkeypatch.setattr(toolchain, "find_cuda", lambda *_a, **_k: search)
    monkeypatch.setattr(toolchain, "find_host_compiler", lambda *_a, **_k: compiler)
    monkeypatch.setattr(toolchain, "find_build_tools", lambda *_a, **_k: tools)
    monkeypatch.setattr(probe, "detect_nvidia", lambda _environ: found.detection)
    monkeypatch.setattr(probe, "detect_amd", lambda _environ: Detection((), (), None, absent=True))
    monkeypatch.setattr(probe, "detect_gpus", found.detect_gpus)
    monkeypatch.setattr(probe, "host_limits", lambda: HostLimits(2, 8 * GIB))
    monkeypatch.setattr(engine, "compile_plan", found.compile_plan)
    monkeypatch.setattr(inspect, "read_module", found.read_module)
    return found


def gpu(arch: str, index: int = 0) -> Gpu:
    return Gpu("nvidia", index, f"GPU {arch}", arch, 8 * GIB, "580.1", "nvml", f"GPU-{index}")


def build(arch: str, **options: Any) -> tuple[pipeline.Built, ...]:
    return llamabuild.build(arch, str(CLASSIC), **options)


def test_a_second_request_compiles_nothing(bench: Bench) -> None:
    (first,) = build("75,90")
    (second,) = build("9.0 sm_75")
    assert (first.cached, second.cached) == (False, True)
    assert first.path == second.path
    assert len(bench.compiled) == 1
    manifest = json.loads(first.path.with_name("manifest.json").read_text())
    assert manifest["archs"] == ["75-real", "90-real"]
    assert manifest["needed"] == ["libc.so.6", "libcuda.so.1"]
    assert manifest["host_compiler"]["version"] == "12.2.0"
    assert first.path.with_name("build.log").read_text() == "compiling\n"


def test_a_fresh_module_is_read_once(bench: Bench) -> None:
    (fresh,) = build("75", require_gpus=["rtx 2080"])
    assert fresh.module.path == fresh.path
    assert fresh.module.labels == ("75-real",)
    assert bench.reads == 1
    (cached,) = build("75")
    assert cached.inspected is None
    assert bench.reads == 1
    assert cached.module == fresh.module


def test_rebuild_compiles_again(bench: Bench) -> None:
    build("75")
    (again,) = build("75", rebuild=True)
    assert not again.cached
    assert len(bench.compiled) == 2


def test_native_is_the_union_of_the_gpus(bench: Bench) -> None:
    bench.detection = Detection((gpu("90"), gpu("75", 1), gpu("90", 2)), (), (13, 0))
    (built,) = build("native")
    assert [str(arch) for arch in built.plan.archs] == ["75-real", "90-real"]


def test_native_without_a_gpu_says_why_and_what_to_type(bench: Bench) -> None:
    with pytest.raises(ArchitectureError, match="no NVIDIA driver") as caught:
        build("native")
    assert "--arch" in caught.value.hint
    assert not bench.compiled


def test_variables_that_compilers_would_heed_are_ignored_aloud(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-lineinfo")
    build("75", notify=heard.append)
    (warning,) = [event.text for event in heard if isinstance(event, Note) and "NVCC" in event.text]
    assert "--nvcc-flag" in warning
    assert bench.compiled


def test_auto_without_a_gpu_is_every_generation(bench: Bench) -> None:
    (built,) = build("auto")
    labels = [str(arch) for arch in built.plan.archs]
    assert labels == ["75-real", "80-real", "90-real", "120-real", "120-virtual"]
    assert bench.compiled


def test_a_gpu_that_cannot_be_read_is_a_warning_beside_another(bench: Bench) -> None:
    heard: list[Event] = []
    bench.detection = Detection((gpu("90"),), (Problem("GPU 1 is lost", ""),), (13, 0))
    build("native", notify=heard.append)
    assert Note("warning", "GPU 1 is lost") in heard


def test_the_toolkit_that_can_is_taken(bench: Bench) -> None:
    (built,) = build("61,90")
    assert built.plan.toolkit == OLD
    with pytest.raises(ToolchainError, match="no installed toolkit"):
        build("61,120")
    assert len(bench.compiled) == 1


def test_per_arch_gives_each_its_own_module_and_toolkit(bench: Bench, tmp_path: Path) -> None:
    built = build("61,120", per_arch=True, output=str(tmp_path / "out"))
    assert [result.plan.toolkit for result in built] == [OLD, NEW]
    assert len({result.artifact.key for result in built}) == 2
    copies = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.so"))
    assert copies == ["out/120-real/ggml-cuda.so", "out/61-real/ggml-cuda.so"]
    again = build("61", per_arch=True)
    assert [result.cached for result in again] == [True]
    assert len(bench.compiled) == 2


def test_a_module_that_is_not_what_was_asked_for_is_not_published(bench: Bench) -> None:
    bench.missing = {"ggml_cuda_link"}
    with pytest.raises(ModuleRejectedError, match="ggml_cuda_link") as caught:
        build("75")
    assert "log: " in caught.value.message
    bench.missing = set()
    (built,) = build("75")
    assert not built.cached


def test_a_failed_compilation_keeps_the_log_and_nothing_else(bench: Bench) -> None:
    bench.failure = CompilationError("compile failed: x.cu(1): error")
    with pytest.raises(CompilationError) as caught:
        build("75")
    log = Path(caught.value.message.rpartition("log: ")[2])
    assert log.read_text() == "compiling\n"
    assert not any(log.parents[1].joinpath("staging").iterdir())


def test_an_interrupt_leaves_no_lock(bench: Bench) -> None:
    bench.failure = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        build("75")
    bench.failure = None
    assert not build("75")[0].cached


def test_required_gpus(bench: Bench) -> None:
    build("75", require_gpus=["rtx 2080"])
    bench.traps = {"60": 2}
    with pytest.raises(ModuleRejectedError, match="2 of 3 kernels give up") as caught:
        build("60", require_gpus=["gtx 1080"])
    assert caught.value.hint == "add 61 to --arch"
    build("60,61", require_gpus=["gtx 1080", "6.1"])
    with pytest.raises(ModuleRejectedError, match=r"on 6\.1 \(61\), nothing runs") as caught:
        build("75", require_gpus=["6.1"])
    assert caught.value.hint == "add 61 to --arch"
    with pytest.raises(ArchitectureError):
        build("75", require_gpus=["all"])


def test_required_gpus_that_a_plan_leaves_out_need_no_compiler(bench: Bench, command: Run) -> None:
    line = ("--source", str(CLASSIC), "--arch", "75,90", "--require-gpu", "gtx 1080")
    for words in ((), ("--dry-run",), ("--per-arch",)):
        code, _, err = command(*line, *words)
        assert code == 7
        assert "on gtx 1080 (61), nothing runs" in err
    assert bench.compiled == []
    assert command(*line[:3], "75,61", *line[4:], "--dry-run")[0] == 0
    assert command(*line[:3], "60", *line[4:], "--dry-run")[0] == 0  # which kernels give up?
    assert command(*line[:3], "60-virtual", *line[4:], "--dry-run")[0] == 0
    assert command(*line[:3], "75", "--require-gpu", "banana")[0] == 3
    assert bench.compiled == []


def test_a_gpu_that_is_here_and_would_run_other_code_is_a_warning(bench: Bench) -> None:
    heard: list[Event] = []

    def told(arch: str, **options: Any) -> list[tuple[str, str]]:
        heard.clear()
        build(arch, notify=heard.append, **options)
        notes = [event for event in heard if isinstance(event, Note)]
        return [(note.level, note.text) for note in notes if "the GPU here" in note.text]

    assert told("75") == []  # no GPU
    bench.detection = Detection((gpu("61"), gpu("61", 1)), (), (13, 0))
    looks = bench.looks
    assert told("75") == []  # nothing was built, so nobody looked
    assert bench.looks == looks
    bench.traps = {"60": 2}
    ((level, text),) = told("60")
    assert level == "warning"
    assert "GPU 61 (6.1), would run the code for 60: 2 of 3 kernels give up; add 61 to" in text
    assert told("60") == []
    bench.traps = {}
    ((level, text),) = told("60", rebuild=True)
    assert (level, "the source has other code from 6.1 on" in text) == ("warning", True)
    ((level, text),) = told("60-virtual")
    assert (level, "would compile the PTX of 60" in text) == ("warning", True)
    assert told("61") == []
    assert told("60,61") == []
    assert told("60,61", per_arch=True, rebuild=True) == []
    ((level, text),) = told("90")
    assert (level, "would run nothing of this; add 61 to --arch" in text) == ("info", True)
    bench.detection = Detection((gpu("90"),), (), (13, 0))
    assert told("native", rebuild=True) == []


def test_a_gpu_of_another_vendor_is_not_told_of(bench: Bench) -> None:
    heard: list[Event] = []
    other = replace(gpu("61"), vendor="amd", arch="gfx1030")
    bench.detection = Detection((other,), (), None)
    build("75", notify=heard.append)
    assert not any(isinstance(event, Note) and "GPU here" in event.text for event in heard)


def test_without_any_source_our_own_kernels_are_built(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (planned,) = llamabuild.plan("75")
    assert planned.flavor == "bundled"
    assert planned.source.files


# --- the command line -----------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(bench: Bench, capsys: pytest.CaptureFixture[str]) -> Run:
    del bench  # the machine behind it

    def run(*words: str) -> tuple[int, str, str]:
        code = main(words)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_stdout_has_the_path_and_nothing_else(command: Run) -> None:
    code, out, err = command("--source", str(CLASSIC), "--arch", "75")
    assert code == 0
    assert Path(out.strip()).is_file()
    assert "built in" in err
    code, again, err = command("-q", "--source", str(CLASSIC), "--arch", "75")
    assert (code, again, err) == (0, out, "")


def test_a_warning_of_a_gpu_is_not_repeated_from_the_record(
    command: Run, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[str] = []
    monkeypatch.setattr(replay, "record", lambda *_words, **given: recorded.append(given["stderr"]))
    bench.detection = Detection((gpu("61"),), (), (13, 0))
    _, _, err = command("--source", str(CLASSIC), "--arch", "60")
    assert "the GPU here" in err
    assert "add 61 to --arch" in recorded[0]  # the plan's own warning
    assert "the GPU here" not in recorded[0]


def test_json_is_one_document_as_documented(command: Run) -> None:
    _, out, _ = command("build", "--json", "--source", str(CLASSIC), "--arch", "75")
    (artifact,) = json.loads(out)["artifacts"]
    assert set(artifact) == {
        *("path", "key", "cached", "archs", "flavor", "backend", "source", "toolkit", "defines"),
        *("flags", "sha256", "size_bytes", "seconds"),
    }
    assert set(artifact["source"]) == {"kind", "version", "digest"}
    assert set(artifact["toolkit"]) == {"version", "path", "found_via"}
    assert json.loads(out)["schema"] == 1


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (["--arch", "sm_999"], 3, "ArchitectureError"),
        (["--arch", " , "], 3, "ArchitectureError"),
        (["--arch", "gfx1100", "--backend", "cuda"], 3, "ArchitectureError"),
        (["--arch", "sm_90", "--backend", "hip"], 3, "ArchitectureError"),
        (["--arch", "native"], 3, "ArchitectureError"),
        (["--arch", "61,120"], 4, "ToolchainError"),
        (["--arch", "75", "--source", "/nowhere"], 5, "SourceError"),
        (["--arch", "75", "--flavor", "backend-dl"], 5, "SourceError"),
        (["--arch", "75", "--blas", "mkl"], 2, "UsageError"),
        (["--no-such-option"], 2, "UsageError"),
    ],
)
def test_errors_have_codes_types_messages_and_hints(
    command: Run, words: list[str], code: int, kind: str
) -> None:
    found, out, err = command("--source", str(CLASSIC), *words, "--json")
    error = json.loads(out)["error"]
    assert (found, error["code"], error["type"]) == (code, code, kind)
    assert error["message"]
    assert error["hint"]
    assert f"error: {error['message']}" in err


def test_dry_run_and_plan_say_the_same_and_compile_nothing(command: Run, bench: Bench) -> None:
    words = ["--source", str(CLASSIC), "--arch", "61", "--force-mmq"]
    _, planned, _ = command("plan", *words)
    _, dry, _ = command("build", "--dry-run", *words)
    assert planned == dry
    assert "GGML_CUDA_FORCE_MMQ" in planned
    assert not bench.compiled


def test_a_cache_that_is_not_there_is_empty_and_stays_away(command: Run, tmp_path: Path) -> None:
    typo = tmp_path / "typo"
    for line in ("list", "path", "path abc", "verify", "prune --older-than 1d", "clear"):
        code, _, err = command("cache", *line.split(), "--cache-dir", str(typo))
        assert code == (8 if line == "path abc" else 0)
        assert f"there is no cache yet in {typo}\n" in err
        assert not typo.exists()
    assert command("cache", "list", "-q", "--cache-dir", str(typo)) == (0, "", "")


def test_the_cache_is_listed_found_checked_and_cleared(command: Run) -> None:
    _, out, _ = command("-q", "--source", str(CLASSIC), "--arch", "75")
    path = Path(out.strip())
    key = path.parent.name
    _, listed, _ = command("cache", "list", "--json")
    (entry,) = json.loads(listed)["entries"]
    assert (entry["key"], entry["path"]) == (key, str(path))
    assert key[:12] in command("cache", "list")[1]
    assert command("cache", "path", key[:6])[1] == out
    assert command("cache", "verify")[0] == 0
    path.write_text("damaged")
    assert command("cache", "verify")[0] == 8
    command("-q", "--source", str(CLASSIC), "--arch", "75")
    assert command("cache", "prune", "--older-than", "1d")[1].startswith("0 modules removed")
    assert command("cache", "prune")[0] == 2
    assert command("cache", "prune", "--max-size", "lots")[0] == 2
    assert command("cache", "prune", "--max-size", "0")[1].startswith("1 module removed")
    assert command("cache", "clear")[1].startswith("0 modules removed")
    assert command("cache", "path", "abc")[0] == 8


def test_detect(command: Run, bench: Bench) -> None:
    _, out, err = command("detect")
    assert (out, err) == ("", "there is no NVIDIA driver\n  try: name one\n")
    bench.detection = Detection((gpu("90"),), (), (13, 0))
    assert command("detect")[1] == "0: GPU 90, 90, 8 GiB, driver 580.1\n"
    document = json.loads(command("detect", "--json")[1])
    assert document["gpus"][0] == {
        "vendor": "nvidia",
        "index": 0,
        "name": "GPU 90",
        "arch": "90",
        "memory_bytes": 8 * GIB,
        "driver": "580.1",
        "found_via": "nvml",
    }


def test_inspect(
    command: Run, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.traps = {"60": 2}
    path = command("-q", "--source", str(CLASSIC), "--arch", "60")[1].strip()
    assert "60-real" in command("inspect", path)[1]
    explained = command("inspect", path, "--gpu", "gtx 1080")[1]
    assert "2 of 3 kernels give up" in explained
    assert "--arch 61" in explained
    assert "6.1 (GTX 1080" in explained
    asked = json.loads(command("inspect", path, "--gpu", "gtx 1080", "--json")[1])["coverage"]
    assert [(row["gpu"], row["trapped"]) for row in asked] == [("gtx 1080", 2)]
    assert "kernel2" in command("inspect", path, "--kernels", "kernel2")[1]
    kernels = json.loads(command("inspect", path, "--kernels", "kernel2", "--json")[1])["kernels"]
    assert kernels == [{"name": "kernel2", "traps": {"60-real": "none"}}]
    _, out, err = command("inspect", path, "--kernels", "nothing")
    assert (out, err) == ("", "no kernel's name holds 'nothing'\n")
    document = json.loads(command("inspect", path, "--json")[1])
    (card,) = [row for row in document["coverage"] if row["gpu"].endswith("GTX 1080")]
    assert (card["runs"], card["trapped"]) == ("older", 2)
    page = tmp_path / "page.html"
    assert command("inspect", path, "--html", str(page))[0] == 0
    assert "kernel" in page.read_text()
    assert command("inspect", path, "--html", str(tmp_path / "no" / "page.html"))[0] == 8
    other = command("-q", "--source", str(CLASSIC), "--arch", "61")[1].strip()
    real = bench.read_module
    monkeypatch.setattr(
        inspect, "read_module", lambda path: replace(real(path), sha256=path.read_text())
    )
    compared = command("inspect", path, other)[1]
    assert "architecture added: 61-real" in compared
    assert json.loads(command("inspect", path, other, "--json")[1])["archs"]["added"] == ["61-real"]


@pytest.mark.parametrize(
    ("request_", "recorded"),
    [
        ({"arch": "75", "source": str(CLASSIC)}, True),
        ({"arch": "75"}, True),  # which llamafiles lie about may change, with their folders
        ({"arch": "native", "source": str(CLASSIC)}, False),  # GPUs may change without a file
    ],
)
def test_an_answer_is_recorded_only_if_files_decide_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, request_: dict[str, str], recorded: bool
) -> None:
    bench.detection = Detection((gpu("75"),), (), (13, 0))
    monkeypatch.setenv("LLAMABUILD_SOURCE", "")
    monkeypatch.chdir(CLASSIC)
    if "source" not in request_:
        found = Found(str(CLASSIC), "it lies here", (CLASSIC.parent,))
        monkeypatch.setattr(source, "find_source", lambda *_a: found)
    job = pipeline.plan(
        pipeline.start(resolve(request_, os.environ), os.environ, CLASSIC, lambda _event: None)
    )
    assert bool(pipeline.depends_on(job)) == recorded
    if "source" not in request_:
        assert CLASSIC.parent in pipeline.depends_on(job)


def test_paths_that_are_not_utf_8_are_printed(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    done = run.capture(
        [sys.executable, "-m", "llamabuild", "cache", "path", "--cache-dir", os.fsdecode(folder)],
        env={**os.environ, "PYTHONUTF8": "1"},
        timeout=60,
    )
    assert done.returncode == 0, done.text
    assert done.stdout.startswith(str(tmp_path))
