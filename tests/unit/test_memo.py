from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamabuild import memo
from llamabuild.memo import Memo, identity, load, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "probes"


@pytest.fixture
def nvcc(tmp_path: Path) -> Path:
    path = tmp_path / "nvcc"
    path.write_text("12.4")
    return path


class Probe:
    """Counts how often it is asked."""

    def __init__(self, answer: Any = "12.4") -> None:
        self.answer = answer
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        return self.answer


def put_back(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


class TestIdentity:
    def changed(self, path: Path, change: Callable[[], object]) -> bool:
        before = identity(path)
        assert identity(path) == before
        change()
        return identity(path) != before

    def test_reading_changes_nothing(self, nvcc: Path) -> None:
        assert not self.changed(nvcc, nvcc.read_bytes)

    def test_another_size(self, nvcc: Path) -> None:
        before = nvcc.stat()

        def grow() -> None:
            nvcc.write_text("12.40")
            put_back(nvcc, before)

        assert self.changed(nvcc, grow)

    def test_another_modification_time(self, nvcc: Path) -> None:
        assert self.changed(nvcc, lambda: os.utime(nvcc, ns=(0, 1)))

    def test_another_file_of_the_same_name(self, nvcc: Path) -> None:
        def replace() -> None:
            shutil.copy2(nvcc, nvcc.with_name("new"))
            nvcc.with_name("new").replace(nvcc)

        assert self.changed(nvcc, replace)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of status change")
    def test_an_edit_that_hides_itself(self, nvcc: Path) -> None:
        before = nvcc.stat()

        def edit() -> None:
            while nvcc.stat().st_ctime_ns == before.st_ctime_ns:  # clocks of files are coarse
                nvcc.write_text("11.8")
                put_back(nvcc, before)

        assert self.changed(nvcc, edit)

    def test_it_goes_away_and_comes(self, nvcc: Path) -> None:
        assert self.changed(nvcc, nvcc.unlink)
        assert self.changed(nvcc, nvcc.touch)

    def test_a_folder_changes_with_the_names_in_it(self, nvcc: Path) -> None:
        os.utime(nvcc.parent, ns=(0, 0))
        assert self.changed(nvcc.parent, nvcc.with_name("ptxas").touch)
        os.utime(nvcc.parent, ns=(0, 0))
        assert self.changed(nvcc.parent, nvcc.unlink)

    def test_a_link_is_what_it_leads_to(self, nvcc: Path) -> None:
        link = nvcc.with_name("link")
        link.symlink_to(nvcc)
        other = nvcc.with_name("other")
        other.write_text("13.0")
        assert self.changed(link, lambda: os.utime(nvcc, ns=(0, 1)))

        def retarget() -> None:
            link.unlink()
            link.symlink_to(other)

        assert self.changed(link, retarget)

    @pytest.mark.parametrize("path", ["", "/no/such", "a\0b", "x" * 5000, "\udcff"])
    def test_what_cannot_be_looked_at_is_absent(self, path: str) -> None:
        assert identity(path).endswith(": absent")

    def test_two_absent_files_are_two(self) -> None:
        assert identity("/no/a") != identity("/no/b")


class TestRecall:
    def test_asks_once(self, folder: Path, nvcc: Path) -> None:
        probe = Probe()
        for _ in range(3):
            # A new one each time, as each start has.
            assert Memo(folder).recall("version", [nvcc], probe) == "12.4"
        assert probe.asked == 1

    @pytest.mark.parametrize("answer", [None, False, 0, "", [], {}])
    def test_an_empty_answer_is_an_answer(self, folder: Path, answer: Any) -> None:
        probe = Probe(answer)
        for _ in range(2):
            assert Memo(folder).recall("any", [], probe) == answer
        assert probe.asked == 1

    @pytest.mark.parametrize("remembers", [True, False])
    def test_the_answer_has_one_form_remembered_or_not(
        self, folder: Path, *, remembers: bool
    ) -> None:
        sut = Memo(folder if remembers else None)
        answers = [sut.recall("any", [], Probe(("a", ("b",)))) for _ in range(2)]
        assert answers == [["a", ["b"]]] * 2

    def test_forgets_when_a_file_changes(self, folder: Path, nvcc: Path) -> None:
        Memo(folder).recall("version", [nvcc], Probe("12.4"))
        nvcc.write_text("upgraded")
        assert Memo(folder).recall("version", [nvcc], Probe("13.0")) == "13.0"
        assert Memo(folder).recall("version", [nvcc], Probe("never asked")) == "13.0"

    def test_forgets_when_one_of_many_appears(self, folder: Path, nvcc: Path) -> None:
        files = [nvcc, nvcc.with_name("nvcc.profile")]
        Memo(folder).recall("version", files, Probe("old"))
        files[1].touch()
        assert Memo(folder).recall("version", files, Probe("new")) == "new"

    def test_a_change_while_asking_is_noticed_the_next_time(self, folder: Path, nvcc: Path) -> None:
        def upgraded_meanwhile() -> str:
            nvcc.write_text("upgraded")
            return "of the old one"

        Memo(folder).recall("version", [nvcc], upgraded_meanwhile)
        assert Memo(folder).recall("version", [nvcc], Probe("new")) == "new"

    def test_questions_and_files_are_told_apart(self, folder: Path, nvcc: Path) -> None:
        sut = Memo(folder)
        other = nvcc.with_name("other")
        calls = [("a", [nvcc]), ("b", [nvcc]), ("a", [other]), ("a", [nvcc, other]), ("a", [])]
        for number, (question, files) in enumerate(calls):
            assert sut.recall(question, files, Probe(number)) == number
        for number, (question, files) in enumerate(calls):
            assert sut.recall(question, files, Probe("never asked")) == number

    def test_changes_do_not_pile_up(self, folder: Path, nvcc: Path) -> None:
        for size in range(5):
            nvcc.write_text("x" * size)
            Memo(folder).recall("version", [nvcc], Probe())
        assert len(list(folder.iterdir())) == 1

    def test_a_failure_is_not_remembered(self, folder: Path) -> None:
        def fail() -> None:
            raise LookupError

        with pytest.raises(LookupError):
            Memo(folder).recall("version", [], fail)
        assert Memo(folder).recall("version", [], Probe("12.4")) == "12.4"

    def test_an_answer_may_hold_for_a_while_only(self, folder: Path, nvcc: Path) -> None:
        Memo(folder).recall("version", [nvcc], Probe("old"), holds=lambda _: False)
        assert Memo(folder).recall("version", [nvcc], Probe("new"), holds="old".__eq__) == "old"
        assert Memo(folder).recall("version", [nvcc], Probe("new"), holds="new".__eq__) == "new"
        assert Memo(folder).recall("version", [nvcc], Probe("newest"), holds="new".__eq__) == "new"

    def test_without_a_folder_it_asks_each_time(self, nvcc: Path) -> None:
        probe = Probe()
        assert [Memo(None).recall("version", [nvcc], probe) for _ in range(2)] == ["12.4"] * 2
        assert probe.asked == 2

    def test_what_another_version_found_is_asked_again(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        Memo(folder).recall("version", [], Probe("old"))
        monkeypatch.setattr(memo, "__version__", "99")
        assert Memo(folder).recall("version", [], Probe("new")) == "new"

    def test_the_folder_is_private(self, folder: Path) -> None:
        Memo(folder).recall("version", [], Probe())
        assert folder.stat().st_mode & 0o777 == 0o700


class TestFolder:
    """What can be wrong with the folder; the answer is right nevertheless."""

    def test_a_file_stands_in_its_place(self, folder: Path) -> None:
        folder.touch()
        assert Memo(folder).recall("version", [], Probe()) == "12.4"

    def test_it_cannot_be_written(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        save(folder, "old", 1)

        def refuse(*arguments: Any, **named: Any) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "replace", refuse)  # root may write a read-only folder
        assert Memo(folder).recall("version", [], Probe()) == "12.4"
        assert load(folder, "old") == 1
        assert len(list(folder.iterdir())) == 1, "a draft was left behind"

    @pytest.mark.parametrize("broken", [b"", b"{}", b"\n", b"\xff\n\xff", b"0\n", b"12345678\n{}"])
    def test_an_entry_is_damaged(self, folder: Path, broken: bytes) -> None:
        Memo(folder).recall("version", [], Probe("old"))
        (entry,) = folder.iterdir()
        entry.write_bytes(broken)
        assert Memo(folder).recall("version", [], Probe("new")) == "new"
        assert Memo(folder).recall("version", [], Probe("never asked")) == "new"

    def test_an_entry_is_cut_off_anywhere(self, folder: Path) -> None:
        save(folder, "subject", {"answer": ["12.4", 1]})
        (entry,) = folder.iterdir()
        whole = entry.read_bytes()
        for length in range(len(whole)):
            entry.write_bytes(whole[:length])
            assert load(folder, "subject") is None

    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.data())
    def test_an_entry_has_a_bad_byte(self, folder: Path, data: st.DataObject) -> None:
        save(folder, "subject", {"answer": ["12.4", 1]})
        (entry,) = folder.iterdir()
        content = bytearray(entry.read_bytes())
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
        entry.write_bytes(content)
        assert load(folder, "subject") in (None, {"answer": ["12.4", 1]})

    def test_an_entry_of_another_subject_has_the_same_name(self, folder: Path) -> None:
        save(folder, "other", 1)
        (entry,) = folder.iterdir()
        save(folder, "subject", 2)
        theirs = entry.read_bytes()
        for place in folder.iterdir():
            place.write_bytes(theirs)
        assert load(folder, "other") == 1
        assert load(folder, "subject") is None

    def test_many_write_at_once(self, folder: Path) -> None:
        """Every reader sees one writer's whole value, and no draft is left."""
        code = """if True:
            import sys
            from llamabuild.memo import load, save
            whole = {letter * 500_000 for letter in "abc"}
            for _ in range(50):
                save(sys.argv[1], "subject", sys.argv[2] * 500_000)
                assert load(sys.argv[1], "subject") in whole
        """
        writers = [
            subprocess.Popen([sys.executable, "-c", code, folder, letter]) for letter in "abc"
        ]
        assert [writer.wait() for writer in writers] == [0, 0, 0]
        assert len(list(folder.iterdir())) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(subject=json_values, kept=json_values)
def test_what_is_saved_is_loaded(folder: Path, subject: Any, kept: Any) -> None:
    save(folder, subject, kept)
    assert load(folder, subject) == json.loads(json.dumps(kept))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary())
def test_any_file_can_be_read(folder: Path, content: bytes) -> None:
    save(folder, "subject", 1)
    for entry in folder.iterdir():
        entry.write_bytes(content)
    assert load(folder, "subject") is None
