"""Advice for what is here and for what is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.advise.conftest import llama

from llamabuild import probe, verify
from llamabuild.advise import Card
from llamabuild.cli import main
from llamabuild.errors import ArchitectureError
from llamabuild.pipeline import advising
from llamabuild.pipeline.advising import advice, cards_here, named_card
from llamabuild.probe import Detection, Gpu, HostLimits, Problem
from llamabuild.verify import Timing, Timings

GIB = 2**30


def gpu(arch: str, memory: int | None = 8 * GIB, name: str = "", index: int = 0) -> Gpu:
    vendor = "amd" if arch.startswith("gfx") else "nvidia"
    return Gpu(vendor, index, name or f"GPU {arch}", arch, memory, "580.1", "NVML", "")  # type: ignore[arg-type]


def detection(*gpus: Gpu) -> Detection:
    problems = () if gpus else (Problem("there is no GPU at all", "buy one"),)
    return Detection(gpus, problems, None)


class TestNamed:
    @pytest.mark.parametrize(
        ("name", "arch", "memory"),
        [
            ("gtx 1080", "61", None),
            ("6.1", "61", None),
            ("sm_89", "89", None),
            ("90a", "90", None),
            ("sm_120f 32GB", "120", 32 * GIB),
            ("gfx1100", "gfx1100", None),
            ("gfx90a", "gfx90a", None),
            ("rx 7900 xtx 24GB", "gfx1100", 24 * GIB),
            ("RTX 3080 10GB", "86", 10 * GIB),
            ("rtx 3080 12 GiB", "86", 12 * GIB),
            ("6.1 8g", "61", 8 * GIB),
            ("NVIDIA GeForce RTX 4090 24 GB Laptop GPU", "89", 24 * GIB),
        ],
    )
    def test_with_its_memory_or_without(self, name: str, arch: str, memory: int | None) -> None:
        card = named_card(name)
        assert (card.arch, card.memory_bytes) == (arch, memory)

    @pytest.mark.parametrize("name", ["", "8GB", "no such card", "native", "61,75"])
    def test_what_is_none(self, name: str) -> None:
        with pytest.raises(ArchitectureError):
            named_card(name)


class TestHere:
    def test_those_of_one_kind_are_together(self) -> None:
        found = cards_here(detection(gpu("86"), gpu("61", 4 * GIB), gpu("86", index=2)))
        assert found == [
            Card("GPU 86", "86", 16 * GIB, 2),
            Card("GPU 61", "61", 4 * GIB),
        ]

    def test_one_that_shares_the_hosts_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(probe, "host_limits", lambda: HostLimits(4, 30 * GIB))
        assert cards_here(detection(gpu("87", None))) == [
            Card("GPU 87", "87", 30 * GIB, 1, shared=True)
        ]

    def test_the_modes_of_amd_do_not_matter(self) -> None:
        assert cards_here(detection(gpu("gfx90a:xnack-")))[0].arch == "gfx90a"

    def test_none(self) -> None:
        with pytest.raises(ArchitectureError, match="there is no GPU at all") as caught:
            cards_here(detection())
        assert "--gpu" in caught.value.hint

    def test_what_is_named_needs_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(advising, "detect", lambda _environ: pytest.fail("not asked for"))
        (one,) = advice(["gtx 1080"], None, None, {})
        assert one.advice.card.arch == "61"


Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Main:
    def call(*argv: str) -> tuple[int, str, str]:
        code = main(["advise", *argv])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


class TestCommand:
    def test_a_page(self, run: Main, tmp_path: Path) -> None:
        model = llama(tmp_path)
        code, out, _ = run(str(model), "--gpu", "gtx 1080 8GB", "--context", "4096")
        assert code == 0
        assert "GPU: gtx 1080 8GB (6.1), 8.0 GiB" in out
        assert "llama, 8.03 billion weights" in out
        assert "4096 tokens: weights 4.1 GiB, cache 0.5 GiB" in out
        assert "recommended: Q6_K: the largest that fits with 4096 tokens" in out
        assert "by rule, not measured on such a GPU" in out
        assert "yes  --arch 61" in out

    def test_without_a_model(self, run: Main) -> None:
        code, out, _ = run("--gpu", "h200", "--gpu", "rtx 3060 12GB")
        assert code == 0
        assert "memory unknown" in out
        assert "measured on an H200" in out
        assert out.count("recommended: Q4_K_M: the usual compromise") == 2

    def test_a_model_that_does_not_fit(self, run: Main, tmp_path: Path) -> None:
        code, out, _ = run(str(llama(tmp_path)), "--gpu", "6.1 4GB")
        assert code == 0
        assert ": does not fit" in out
        assert "of 32 layers fit: -ngl " in out

    def test_json(self, run: Main, tmp_path: Path) -> None:
        import json

        code, out, _ = run(str(llama(tmp_path)), "--gpu", "8.6 12GB", "--json")
        document = json.loads(out)
        assert (code, document["schema"]) == (0, 1)
        (one,) = document["advice"]
        assert one.keys() == {
            "card", "context", "types", "mixtures", "recommended", "why", "flags", "model",
            "measured_on", "cautions", "timed_here",
        }  # fmt: skip
        assert one["card"] == {
            "name": "8.6 12GB", "arch": "86", "memory_bytes": 12 * GIB, "count": 1, "shared": False,
        }  # fmt: skip
        assert one["model"]["need"].keys() == {"weights", "cache", "buffers", "fixed"}
        assert one["model"]["fits"] is True
        assert {row["name"] for row in one["mixtures"] if row["fits"]} >= {"Q4_K_M"}
        assert {row["grade"] for row in one["types"]} == {"good", "slow", "avoid"}

    @pytest.mark.parametrize(
        ("argv", "expected"),
        [
            (["/no/such.gguf", "--gpu", "6.1"], 2),
            (["{}", "--gpu", "6.1"], 5),
            (["--gpu", "no such card"], 3),
            (["--context", "none"], 2),
            (["--context", "0"], 2),
            (["--gpu", "6.1", "--measure"], 2),
        ],
    )
    def test_mistakes(self, run: Main, tmp_path: Path, argv: list[str], expected: int) -> None:
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(b"GGUF\3\0\0\0" + b"\xff" * 40)
        code, out, err = run(*(word.format(bad) for word in argv))
        assert (code, out) == (expected, "")
        assert err.startswith("error: ")
        assert "try: " in err


class TestMeasure:
    @pytest.fixture
    def built(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What was built and timed; forced integers take half of the time."""
        done: list[dict[str, Any]] = []

        class Built:
            path = Path("ggml-cuda.so")

        def build(job: Any) -> tuple[Built]:
            request = job.request
            done.append({"arch": request.arch, "mmq": request.force_mmq, "source": request.source})
            return (Built(),)

        def bench(path: Path, **how: Any) -> Timings:
            done[-1] |= {"device": how["device"], "types": how["types"]}
            half = 2 if done[-1]["mmq"] else 1
            rows = tuple(
                Timing(name, 4096, n, 14336, "tensor", 300 / (half if n > 8 else 1), 1, 1, 1, 1, 1)
                for name in how["types"]
                for n in reversed(how["columns"])
            )
            return Timings(path, verify.Card(0, "A", "86"), 1e12, rows)

        monkeypatch.setattr(advising, "build", build)
        monkeypatch.setattr(advising, "plan", lambda job: job)
        monkeypatch.setattr(verify, "bench", bench)
        return done

    def see(self, monkeypatch: pytest.MonkeyPatch, *gpus: Gpu) -> None:
        monkeypatch.setattr(advising, "detect", lambda _environ: detection(*gpus))
        monkeypatch.setattr(probe, "detect_nvidia", lambda _environ: detection(*gpus))

    def test_both_ways_are_built_and_timed(
        self,
        run: Main,
        built: list[dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        self.see(monkeypatch, gpu("61"), gpu("86", index=1))
        code, out, _ = run(str(llama(tmp_path)), "--measure")
        assert code == 0
        assert [one["arch"] for one in built] == ["61", "61", "86", "86"]
        assert [one["mmq"] for one in built] == [False, True, False, True]
        assert [one["device"] for one in built] == [0, 0, 1, 1]
        assert {one["source"] for one in built} == {"bundled"}
        assert built[0]["types"] == ["Q4_K", "Q6_K"]  # those of the model
        assert "timed here, our own kernels with --force-mmq:" in out
        assert "yes  --force-mmq: timed here, with our own kernels: 2.00 times the speed" in out

    def test_types_that_our_kernels_lack_are_left_out(
        self,
        run: Main,
        built: list[dict[str, Any]],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        self.see(monkeypatch, gpu("61"))
        assert run(str(llama(tmp_path, kind=41)), "--measure")[0] == 0
        assert built[0]["types"] == ["Q6_K"]

    def test_without_a_model_the_usual_types(
        self, run: Main, built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import json

        self.see(monkeypatch, gpu("86"))
        code, out, _ = run("--measure", "--json")
        assert code == 0
        assert "Q4_0" in built[0]["types"]
        timed = json.loads(out)["advice"][0]["timed_here"]
        assert [one["flag"] for one in timed] == ["", "--force-mmq"]

    def test_amds_are_not_timed(
        self, run: Main, built: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.see(monkeypatch, gpu("gfx1100"))
        monkeypatch.setattr(probe, "detect_nvidia", lambda _environ: detection())
        code, _, err = run("--measure")
        assert (code, built) == (3, [])
        assert "leave --measure out" in err
