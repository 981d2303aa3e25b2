"""Which module ``verify`` and ``bench`` take, and how the two print what they find."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llamabuild import inspect, pipeline, probe, verify
from llamabuild.cli import main
from llamabuild.errors import (
    ArchitectureError,
    ModuleRejectedError,
    StoreError,
    UsageError,
)
from llamabuild.events import Event, Note
from llamabuild.pipeline import trying
from llamabuild.probe import Detection, Gpu, Problem
from llamabuild.settings import resolve
from llamabuild.source import bundled
from llamabuild.store import Store
from llamabuild.verify import Card, Row, Timing, Timings, Unshown, Verdict

GPUS = tuple(
    Gpu("nvidia", index, name, arch, None, "580.159", "NVML", "")
    for index, (name, arch) in enumerate([("NVIDIA H200", "90"), ("GeForce GTX 1080", "61")])
)

OURS = bundled.describe().digest


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs; a module's text is the architecture that it is compiled for."""
    monkeypatch.setattr(probe, "detect_gpus", lambda _: Detection(GPUS, (), None))
    monkeypatch.setattr(inspect, "read_module", lambda path: path.read_text())
    monkeypatch.setattr(
        inspect,
        "coverage",
        lambda text, arch: SimpleNamespace(runs="native" if text == arch else "older"),
    )


@pytest.fixture
def publish(store: Store) -> Callable[..., Path]:
    def one(key: str, arch: str, digest: str = OURS) -> Path:
        key = key.ljust(32, "0")
        with store.claim(key) as staging:
            (staging.entry / "ggml-cuda.so").write_text(arch)
            source = {"kind": "kind", "version": "0.8.1", "digest": digest}
            return store.publish(staging, "ggml-cuda.so", {"source": source}).path

    return one


@pytest.fixture
def job(store: Store, tmp_path: Path) -> pipeline.Job:
    request = resolve({"cache_dir": str(store.base.parent)}, {}, "verify")
    return pipeline.start(request, {}, tmp_path, events.append)


events: list[Event] = []


def test_a_file_is_itself(job: pipeline.Job, tmp_path: Path) -> None:
    (tmp_path / "abcd").write_text("90")
    assert pipeline.module_to_try(job, "abcd") == tmp_path / "abcd"
    assert pipeline.module_to_try(job, str(tmp_path / "abcd")) == tmp_path / "abcd"


def test_a_key_is_a_cached_module(job: pipeline.Job, publish: Callable[..., Path]) -> None:
    path = publish("abcd1234", "75", "another")
    assert pipeline.module_to_try(job, "abcd12") == path
    with pytest.raises(StoreError, match="no cached module begins with 'ffff'"):
        pipeline.module_to_try(job, "ffff")


@pytest.mark.parametrize("name", ["./absent.so", "absent.so", "ab", "ABCD"])
def test_neither_file_nor_key(job: pipeline.Job, name: str) -> None:
    with pytest.raises(UsageError, match="does not exist, and is no key") as caught:
        pipeline.module_to_try(job, name)
    assert "cache list" in caught.value.hint


def test_by_default_our_own_kernels_for_this_gpu(
    job: pipeline.Job, publish: Callable[..., Path]
) -> None:
    publish("1111", "90", "another")  # a llamafile's, or our own of an older version
    publish("2222", "75")
    for_h200, for_1080 = publish("3333", "90"), publish("4444", "61")
    assert pipeline.module_to_try(job, None) == for_h200
    assert pipeline.module_to_try(job, None, device=1) == for_1080
    assert isinstance(events[-1], Note)
    assert "4444" in events[-1].text


def test_what_cannot_be_read_is_passed_over(
    job: pipeline.Job, publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("3333", "90")

    def damaged(path: Path) -> Any:
        raise ModuleRejectedError(f"{path} is damaged")

    monkeypatch.setattr(inspect, "read_module", damaged)
    monkeypatch.setattr(trying, "plan", lambda job: job)
    monkeypatch.setattr(trying, "build", lambda _: (SimpleNamespace(path=Path("built")),))
    assert pipeline.module_to_try(job, None) == Path("built")


def test_what_the_cache_lacks_is_built_for_that_gpu_alone(
    job: pipeline.Job, publish: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("2222", "75")
    asked = []

    def planned(job: pipeline.Job) -> pipeline.Job:
        asked.append(job.request)
        return job

    monkeypatch.setattr(trying, "plan", planned)
    monkeypatch.setattr(trying, "build", lambda _: (SimpleNamespace(path=Path("built")),))
    assert pipeline.module_to_try(job, None, device=1) == Path("built")
    assert [(request.source, request.arch) for request in asked] == [("bundled", "61")]


def test_without_a_gpu_nothing_is_built(job: pipeline.Job, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchitectureError, match=r"there is no GPU 2 .*only 2"):
        pipeline.module_to_try(job, None, device=2)
    none = Detection((), (Problem("there is no NVIDIA driver", "-"),), None)
    monkeypatch.setattr(probe, "detect_gpus", lambda _: none)
    with pytest.raises(ArchitectureError, match="there is no NVIDIA driver"):
        pipeline.module_to_try(job, None)


def test_a_source_is_opened_only_where_one_is_named(job: pipeline.Job) -> None:
    assert pipeline.source_to_try(job, Path("m.so")) is None


def test_another_source_than_that_of_a_cached_module_is_refused(
    job: pipeline.Job,
    publish: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = publish("abcd", "75", "digest")
    job = replace(job, request=replace(job.request, source="./tree"))
    tree = SimpleNamespace(digest="another", origin="./tree")
    monkeypatch.setattr(trying, "open_source", lambda _: SimpleNamespace(source=tree))
    with pytest.raises(UsageError, match=r"was not built from \./tree, but from kind 0\.8\.1"):
        pipeline.source_to_try(job, path)
    assert pipeline.source_to_try(job, tmp_path / "m.so") == tree  # nobody knows
    tree.digest = "digest"
    assert pipeline.source_to_try(job, path) == tree


# --- the commands ---------------------------------------------------------------------------------

ERROR = ModuleRejectedError("m.so multiplies wrongly", hint="build it again")


@pytest.fixture
def module(tmp_path: Path) -> str:
    (tmp_path / "m.so").write_text("90")
    return str(tmp_path / "m.so")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What the library was called with; ``error`` in it decides the verdict."""
    calls: dict[str, Any] = {"error": None}
    card = Card(0, "NVIDIA H200", "90", "90")

    def fake_verify(path: Path, **options: Any) -> Verdict:
        calls.update(options, path=path)
        row = Row("q4_0", 1, 1, 32, "dp4a", 5e-3, 1e-7, right=calls["error"] is None)
        unshown = Unshown("speed", "nobody asked")
        return Verdict(
            path, "bundled", card, ("loads",), (row,), (unshown,), calls["error"], "", 1.0
        )

    def fake_bench(path: Path, **options: Any) -> Timings:
        calls.update(options, path=path)
        timing = Timing("q4_0", 64, 1, 256, "dp4a", 10.0, 9.0, 11.0, 1e9, 1e12, 0.5)
        return Timings(path, card, 4.2e12, (timing,))

    monkeypatch.setattr(verify, "verify", fake_verify)
    monkeypatch.setattr(verify, "bench", fake_bench)
    monkeypatch.setenv("LLAMABUILD_CACHE_DIR", str(tmp_path / "cache"))
    return calls


def test_verify_prints_a_summary_and_a_table(
    module: str, called: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", module, "--types", "q4_0, q4_K", "--device", "0"]) == 0
    assert (called["types"], called["device"]) == (["q4_0", "q4_K"], 0)
    assert called["time_limit"] == 600.0
    assert called["source"] is None
    out = capsys.readouterr().out
    assert out.startswith(f"{module}\nGPU 0: NVIDIA H200")
    assert "not shown: speed: nobody asked\n\ntype  path" in out


def test_a_module_that_fails_is_exit_code_7_and_one_document(
    module: str, called: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    called["error"] = ERROR
    assert main(["verify", module, "--json"]) == 7
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["error"]["message"] == "m.so multiplies wrongly"
    assert document["schema"] == 1
    assert printed.err.endswith("error: m.so multiplies wrongly\n  try: build it again\n")


def test_bench_prints_a_table_or_a_document(
    module: str, called: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", module, "--columns", "1,16", "--shapes", "64x256 8X32"]) == 0
    assert (called["columns"], called["shapes"]) == ([1, 16], [(64, 256), (8, 32)])
    printed = capsys.readouterr()
    assert printed.out.splitlines()[1].split()[:5] == ["q4_0", "64", "1", "256", "dp4a"]
    assert "a copy moves 4200 GB/s" in printed.err
    assert main(["bench", module, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copy_bytes_per_second"] == 4.2e12


@pytest.mark.parametrize(
    "option",
    ["--columns=0", "--columns=1,x", "--shapes=64", "--shapes=0x3", "--shapes=axb", "--device=-1"],
)
def test_impossible_numbers_are_exit_code_2(
    module: str, called: dict[str, Any], option: str
) -> None:
    assert main(["bench", module, option]) == 2
    assert "path" not in called
