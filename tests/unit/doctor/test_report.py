"""The report as a whole: it works anywhere, changes nothing and never breaks."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llamabuild import run
from llamabuild.doctor import Line, Report, Section, Surroundings, examination, examine
from llamabuild.doctor.examination import SECTIONS
from llamabuild.doctor.surroundings import in_time
from llamabuild.errors import StoreError
from llamabuild.probe.interfaces import Absent, Answer, Broken, Machine

from .conftest import Patient, gpu


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (status.st_mtime_ns, status.st_mode)
        for path in (folder, *folder.rglob("*"))
        for status in (path.lstat(),)
    }


def test_a_healthy_machine_has_no_trouble(patient: Patient) -> None:
    patient.healthy()
    patient.gpus, patient.driver_cuda = (gpu("90", "H200"),), (13, 0)
    report = patient.examine()
    assert [line for line in patient.lines() if line.status != "ok"] == []
    assert report.status == "ok"
    assert [section.name for section in report.sections] == list(SECTIONS)


def test_a_machine_with_nothing(patient: Patient) -> None:
    del patient.environ["HOME"]
    patient.environ["PATH"] = ""
    trouble = [line.text for line in patient.lines(status="trouble")]
    assert trouble == [
        "no usable CUDA toolkit was found",
        "no cmake 3.26 or newer was found",
    ]
    assert patient.says("HOME is not set")
    assert patient.says("PATH is not set")
    assert patient.says("there is no home for a cache")


def test_an_empty_environment(patient: Patient) -> None:
    patient.environ.clear()
    assert not [line for line in patient.lines() if "check of" in line.text]


def test_what_is_wrong_comes_with_what_mends_it(patient: Patient) -> None:
    patient.environ = {"PATH": "", "CUDA_HOME": "/no/such", "LLAMABUILD_ARCH": "sm_999"}
    for line in patient.lines(status="trouble"):
        assert line.cure, line.text


def test_nothing_is_written(patient: Patient, tmp_path: Path) -> None:
    patient.healthy()
    patient.environ["LLAMABUILD_CACHE_DIR"] = str(tmp_path / "cache")
    before = tree(tmp_path)
    patient.sandbox.log.touch()  # the fake programs write there
    after = tree(tmp_path) if patient.examine() else {}
    for log in (str(patient.sandbox.log), str(tmp_path)):
        before.pop(log, None)
        after.pop(log, None)
    assert after == before


def test_a_home_that_cannot_be_written(patient: Patient) -> None:
    patient.environ["HOME"] = "/proc/self"
    assert patient.line("HOME is /proc/self").cure.startswith("export HOME=")
    assert patient.line("the cache /proc/self/.cache/llamabuild cannot be written").cure


def test_without_a_folder_for_temporary_files(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    patient.healthy()
    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert "TMPDIR" in patient.line("there is no folder for temporary files").cure
    assert "TMPDIR" in patient.line("no compiler works without").cure
    assert not patient.says("check of")


def broken(_here: Surroundings) -> Iterator[Line]:
    yield Line("ok", "before")
    raise RecursionError("deep")


def refused(_here: Surroundings) -> Iterator[Line]:
    raise StoreError("no room", hint="make room")
    yield Line("ok", "never")


def test_a_check_that_fails_is_a_line(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "SECTIONS", {"one": (broken, refused), "two": (broken,)})
    report = patient.examine()
    assert [section.name for section in report.sections] == ["one", "two"]
    first, second, third = report.sections[0].lines
    assert first.text == "before"
    assert second.text == "the check of broken failed: RecursionError: deep"
    assert third == Line("trouble", "no room", "make room")


@pytest.mark.parametrize("name", [check for checks in SECTIONS.values() for check in checks])
def test_every_check_stands_a_machine_that_breaks_under_it(
    name: examination.Check, patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a check asks raises: the report is still made."""

    def fails(*_args: object, **_more: object) -> object:
        raise OSError(5, "Input/output error", "/somewhere")

    monkeypatch.setattr(Surroundings, "text", fails)
    monkeypatch.setattr(Surroundings, "has", fails)
    monkeypatch.setattr(Path, "is_file", fails)
    monkeypatch.setattr(os, "access", fails)
    monkeypatch.setattr(examination, "SECTIONS", {"it": (name,)})
    (section,) = patient.examine().sections
    assert all(line.cure for line in section.lines if line.status == "trouble")


class TestTime:
    def test_a_hanging_compiler_is_a_line_and_others_are_asked(
        self, patient: Patient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        patient.sandbox.program(patient.root / "usr/local/cuda-12/bin/nvcc", "exec /bin/sleep 600")
        patient.sandbox.toolkit(patient.root / "usr/local/cuda-13")
        monkeypatch.setattr(examination, "SECONDS_EACH", 2.0)
        line = patient.line("gave no answer in time")
        assert line.status == "note"
        assert str(patient.root / "usr/local/cuda-12/bin/nvcc") in line.text
        assert patient.says("CUDA 13.0.88")

    def test_all_programs_share_the_time(self, patient: Patient) -> None:
        for name in ("cuda", "cuda-11", "cuda-12", "cuda-13"):
            place = patient.root / "usr/local" / name / "bin/nvcc"
            patient.sandbox.program(place, "exec /bin/sleep 600")
        report = patient.examine(seconds=0)
        (toolkits,) = (part for part in report.sections if part.name == "toolkits")
        assert sum("was not asked" in line.text for line in toolkits.lines) == 4
        assert patient.sandbox.started == []

    def test_a_driver_that_hangs_in_this_process_is_left_alone(self) -> None:
        import threading

        release = threading.Event()

        def hangs(_machine: Machine) -> Answer:
            release.wait(600)
            return Answer(())

        with pytest.raises(Broken, match="does not answer"):
            in_time(hangs, 0.1)(Machine({}, Path("/"), "linux"))
        release.set()

    def test_what_a_driver_says_is_handed_on(self) -> None:
        def absent(_machine: Machine) -> Answer:
            raise Absent

        machine = Machine({}, Path("/"), "linux")
        assert in_time(lambda _: Answer((gpu(),)), 60)(machine).gpus == (gpu(),)
        with pytest.raises(Absent):
            in_time(absent, 60)(machine)

    def test_ctrl_c_is_not_a_line(self, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*_args: object, **_more: object) -> run.Completed:
            raise KeyboardInterrupt

        patient.healthy()
        monkeypatch.setattr(run, "capture", interrupted)
        with pytest.raises(KeyboardInterrupt):
            patient.examine()


class TestJson:
    def test_its_fields(self, patient: Patient) -> None:
        document = json.loads(json.dumps(patient.examine().to_json()))
        assert document.keys() == {"status", "sections"}
        for section in document["sections"]:
            assert section.keys() == {"name", "lines"}
            for line in section["lines"]:
                assert line.keys() == {"status", "text", "cure"}
                assert line["status"] in {"ok", "note", "trouble"}

    @pytest.mark.parametrize(
        ("statuses", "worst"),
        [((), "ok"), (("ok", "note"), "note"), (("trouble", "ok", "note"), "trouble")],
    )
    def test_the_status_is_the_worst_of_all(self, statuses: tuple[str, ...], worst: str) -> None:
        sections = tuple(Section("one", (Line(status, ""),)) for status in statuses)  # type: ignore[arg-type]
        assert Report(sections).status == worst


def test_surroundings_are_looked_at_once(patient: Patient) -> None:
    patient.healthy()
    here = patient.surroundings()
    examine(here)
    asked = list(patient.sandbox.started)
    assert here.toolkits.toolkits
    assert patient.sandbox.started == asked
    assert dataclasses.replace(here).toolkits.toolkits
    assert patient.sandbox.started != asked
