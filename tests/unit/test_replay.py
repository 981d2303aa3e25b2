from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llamabuild import memo, run
from llamabuild.replay import Recorded, recall, record

ARGV = ["build", "--arch", "90"]
ANSWER = ("/cache/v1/key/ggml-cuda.so\n", "ggml-cuda.so for 90-real: from the cache\n")


class Case:
    """A command that read two variables, one of them absent, and depends on three paths."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.base = self.cache / "v1"
        self.base.mkdir(parents=True, mode=0o700)
        for private in (self.cache, self.base):
            private.chmod(0o700)
        self.work = folder / "work"
        self.work.mkdir()
        self.source = self.work / "ggml-cuda.cu"
        self.source.write_text("code")
        self.toolkits = folder / "toolkits"
        self.toolkits.mkdir()
        self.absent = self.work / "nvcc"
        self.manifest = self.base / "manifest.json"
        self.manifest.touch()
        os.utime(self.manifest, (0, 0))
        self.programs = folder / "bin"
        self.programs.mkdir()
        self.environ = {
            "LLAMABUILD_CACHE_DIR": str(self.cache),
            "CUDA_HOME": "/opt/cuda",
            "PATH": f"/no/such{os.pathsep}{self.programs}",
        }
        self.argv = list(ARGV)

    def remember(self, environ: Recorded | None = None) -> None:
        if environ is None:
            environ = self.recorded()
            environ.get("CUDA_HOME")
            environ.get("CUDAARCHS")
        record(
            self.argv,
            environ,
            base=str(self.base),
            files=[str(self.source), str(self.toolkits), str(self.absent)],
            used=[str(self.manifest)],
            stdout=ANSWER[0],
            stderr=ANSWER[1],
        )

    def recorded(self) -> Recorded:
        """As if the files had been there for a second before the command began."""
        recorded = Recorded(self.environ)
        recorded.began = time.time_ns() + 10**9
        return recorded

    def recall(self, **more: str) -> tuple[str, str] | None:
        return recall(self.argv, self.environ | more)


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    case = Case(tmp_path)
    monkeypatch.chdir(case.work)
    return case


@pytest.fixture
def known(case: Case) -> Case:
    case.remember()
    assert case.recall() == ANSWER
    return case


class TestAnswers:
    def test_when_nothing_changed(self, known: Case) -> None:
        assert known.recall() == ANSWER

    def test_when_a_variable_changed_that_was_not_read(self, known: Case) -> None:
        assert known.recall(SHLVL="3") == ANSWER

    def test_and_says_that_the_entry_was_used(self, known: Case) -> None:
        os.utime(known.manifest, (0, 0))
        known.recall()
        assert known.manifest.stat().st_mtime > 0

    def test_from_a_cache_that_is_read_only(
        self, known: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: str) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "utime", refuse)
        assert known.recall() == ANSWER

    @pytest.mark.parametrize(
        ("argv", "environ"),
        [
            (["--cache-dir", "{cache}"], {}),
            (["--cache-dir={cache}"], {}),
            (["--cache-dir=/elsewhere", "--cache-dir={cache}"], {"LLAMABUILD_CACHE_DIR": "/x"}),
            ([], {"LLAMABUILD_CACHE_DIR": "{cache}", "HOME": "/x"}),
            ([], {"XDG_CACHE_HOME": "{home}/.cache", "HOME": "/x"}),
            ([], {"HOME": "{home}"}),
            ([], {"HOME": "{home}", "XDG_CACHE_HOME": "", "LLAMABUILD_CACHE_DIR": ""}),
        ],
    )
    def test_however_the_cache_was_named(
        self, tmp_path: Path, case: Case, argv: list[str], environ: dict[str, str]
    ) -> None:
        home = tmp_path / "home"
        (home / ".cache").mkdir(parents=True)
        named_cache = home / ".cache" / "llamabuild"
        case.cache.rename(named_cache)
        case.base = named_cache / "v1"
        case.argv = [word.format(cache=named_cache) for word in argv]
        case.environ = {
            name: value.format(cache=named_cache, home=home) for name, value in environ.items()
        }
        case.remember()
        assert case.recall() == ANSWER

    def test_a_cache_in_the_home_written_with_a_tilde(
        self, case: Case, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(case.cache.parent))
        case.environ["LLAMABUILD_CACHE_DIR"] = "~/cache"
        case.remember()
        assert case.recall() == ANSWER


def widen(path: Path, mode: int) -> None:
    path.chmod(path.stat().st_mode | mode)


def damage(case: Case) -> None:
    for entry in (case.base / "replay").iterdir():
        entry.write_bytes(entry.read_bytes()[:-1])


#: What -> how to do it. After any of these the command has to run.
CHANGES: Mapping[str, Callable[[Case], object]] = {
    "another command line": lambda case: case.argv.append("--per-arch"),
    "a variable that was read has another value": lambda case: case.environ.update(CUDA_HOME="/x"),
    "a variable that was read is gone": lambda case: case.environ.pop("CUDA_HOME"),
    "a variable that was read and absent is set": lambda case: case.environ.update(CUDAARCHS="61"),
    "such a variable is set to nothing": lambda case: case.environ.update(CUDAARCHS=""),
    "the source is edited": lambda case: case.source.write_text("other code"),
    "the source is gone": lambda case: case.source.unlink(),
    "a toolkit is installed": lambda case: (case.toolkits / "cuda-13").mkdir(),
    "the toolkits' folder is gone": lambda case: case.toolkits.rmdir(),
    "a program is installed on PATH": lambda case: (case.programs / "g++").touch(),
    "PATH changes": lambda case: case.environ.update(PATH="/usr/bin"),
    "what was absent appears": lambda case: case.absent.touch(),
    "another cache": lambda case: case.environ.update(LLAMABUILD_CACHE_DIR="/no/such"),
    "the cache folder is gone": lambda case: case.cache.rename(case.work / "moved"),
    "others can write the cache folder": lambda case: widen(case.cache, 0o002),
    "a group can write the cache folder": lambda case: widen(case.cache, 0o020),
    "others can write the store's folder": lambda case: widen(case.base, 0o002),
    "others can write the records": lambda case: widen(case.base / "replay", 0o002),
    "the record is damaged": damage,
}


class TestDoesNotAnswer:
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
    def test_when_something_changed(self, known: Case, change: Callable[[Case], object]) -> None:
        change(known)
        assert known.recall() is None

    def test_in_another_folder(self, known: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(known.cache)
        assert known.recall() is None

    def test_in_a_folder_that_is_gone(self, known: Case) -> None:
        gone = known.work / "gone"
        gone.mkdir()
        os.chdir(gone)
        gone.rmdir()
        assert known.recall() is None
        known.remember()

    def test_as_another_version(self, known: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memo, "__version__", "99")
        assert known.recall() is None

    @pytest.mark.parametrize(
        ("name", "value"), [("executable", "/other/python"), ("path", ["/other/site-packages"])]
    )
    def test_as_another_python(
        self, known: Case, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
    ) -> None:
        monkeypatch.setattr(sys, name, value)
        assert known.recall() is None

    def test_with_another_home(self, known: Case, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/other")
        assert known.recall() is None

    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such owners")
    @pytest.mark.parametrize(
        ("user", "owner", "answers"),
        [
            (1000, 1000, True),
            (1000, 0, True),  # a cache that is part of an image
            (0, 1000, True),  # a user's cache that is mounted into a container
            (1000, 1001, False),
        ],
    )
    def test_from_somebody_elses_cache(
        self, known: Case, monkeypatch: pytest.MonkeyPatch, user: int, owner: int, *, answers: bool
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root can give files away")
        for folder in (known.cache, known.base, known.base / "replay"):
            os.chown(folder, owner, -1)
        monkeypatch.setattr(os, "geteuid", lambda: user)
        assert (known.recall() is not None) == answers

    def test_when_it_was_never_asked(self, case: Case) -> None:
        assert case.recall() is None

    @pytest.mark.parametrize("argv", [[], ["--cache-dir"], ["--cache-dir", ""], ["--help"]])
    def test_an_odd_command_line(self, case: Case, argv: list[str]) -> None:
        assert recall(argv, case.environ) is None

    def test_without_a_home(self) -> None:
        assert recall(ARGV, {}) is None


class TestLeavesNoRecord:
    def test_when_all_variables_were_looked_at(self, case: Case) -> None:
        recorded = case.recorded()
        run.environment(recorded)  # a program was started, and may depend on any
        case.remember(recorded)
        assert case.recall() is None

    @pytest.mark.parametrize("change", ["the source is edited", "what was absent appears"])
    def test_when_something_changed_meanwhile(self, case: Case, change: str) -> None:
        time.sleep(0.1)  # longer than a tick of a file system's clock
        recorded = Recorded(case.environ)
        CHANGES[change](case)
        case.remember(recorded)
        assert case.recall() is None

    def test_but_one_when_all_is_older_than_the_command(self, case: Case) -> None:
        time.sleep(0.1)
        os.utime(case.source, (2**40, 2**40))  # far in the future, as far as that says anything
        time.sleep(0.1)
        case.remember(Recorded(case.environ))
        assert case.recall() == ANSWER

    def test_in_a_folder_that_cannot_be_written(self, case: Case) -> None:
        (case.base / "replay").touch()
        case.remember()
        assert case.recall() is None


class TestRecorded:
    """Whichever way a variable is read, it is known afterwards."""

    @pytest.mark.parametrize(
        "read",
        [
            lambda environ, name: environ.get(name),
            lambda environ, name: environ.get(name, "default"),
            lambda environ, name: name in environ,
            lambda environ, name: name not in environ,
            lambda environ, name: environ[name] if name == "A" else None,
        ],
    )
    def test_one_at_a_time(self, read: Callable[[Recorded, str], object]) -> None:
        recorded = Recorded({"A": "1", "B": "2"})
        read(recorded, "A")
        assert recorded.asked == {"A": "1"}

    def test_one_that_is_absent(self) -> None:
        recorded = Recorded({})
        with pytest.raises(KeyError):
            recorded["A"]
        assert recorded.get("B", "default") == "default"
        assert "C" not in recorded
        assert recorded.asked == {"A": None, "B": None, "C": None}

    @pytest.mark.parametrize(
        "read",
        [
            dict,
            list,
            lambda environ: {**environ},
            lambda environ: list(environ.items()),
            lambda environ: list(environ.values()),
            lambda environ: "A" in list(environ.keys()),
            lambda environ: environ == {"A": "1"},
            run.environment,
        ],
    )
    def test_all_of_them(self, read: Callable[[Recorded], object]) -> None:
        recorded = Recorded({"A": "1"})
        read(recorded)
        assert recorded.asked is None
        assert recorded["A"] == "1"
        assert recorded.asked is None

    @settings(deadline=None)
    @given(st.dictionaries(st.text(), st.text()), st.lists(st.text()))
    def test_it_is_the_environment(self, environ: dict[str, str], names: list[str]) -> None:
        recorded = Recorded(environ)
        assert [recorded.get(name) for name in names] == [environ.get(name) for name in names]
        assert len(recorded) == len(environ)
        assert recorded.asked == {name: environ.get(name) for name in names}
        assert dict(recorded) == environ


NAMES = st.sampled_from(["A", "B", "C"])
VARIABLES = st.dictionaries(NAMES, st.sampled_from(["", "1", "2"]))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(before=VARIABLES, after=VARIABLES, read=st.sets(NAMES))
def test_it_answers_exactly_while_what_was_read_is_the_same(
    case: Case, before: dict[str, str], after: dict[str, str], read: set[str]
) -> None:
    always = case.environ
    case.environ = always | before
    recorded = case.recorded()
    for name in read:
        recorded.get(name)
    case.remember(recorded)
    case.environ = always | after
    same = all(before.get(name) == after.get(name) for name in read)
    assert (case.recall() == ANSWER) == same
    case.environ = always


#: What takes long to import, and a warm start has no use for.
HEAVY = {
    *("argparse", "asyncio", "dataclasses", "hashlib", "inspect", "pathlib", "shutil"),
    *("subprocess", "tempfile", "threading", "tomllib", "typing"),
    *("llamabuild.cli", "llamabuild.errors", "llamabuild.pipeline", "llamabuild.settings"),
}


def test_a_warm_start_imports_almost_nothing(case: Case) -> None:
    case.remember()
    recorder = f"""if True:
        import os, time
        from llamabuild.replay import Recorded, record
        environ = Recorded(os.environ)
        environ.began += 10**9
        record({ARGV!r}, environ, base={str(case.base)!r}, files=[], used=[],
               stdout={ANSWER[0]!r}, stderr="")
    """
    python = [sys.executable, "-P"]
    environ = {**os.environ, **case.environ}
    subprocess.run([*python, "-c", recorder], env=environ, check=True)

    def imported(*arguments: str) -> tuple[str, set[str]]:
        done = subprocess.run(
            [*python, "-X", "importtime", *arguments],
            env=environ,
            check=True,
            capture_output=True,
            text=True,
        )
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return done.stdout, {line.rpartition("|")[2].strip() for line in lines}

    stdout, warm = imported("-m", "llamabuild", *ARGV)
    assert stdout == ANSWER[0]
    _, bare = imported("-c", "pass")
    assert "llamabuild.replay" in warm
    assert (warm - bare) & HEAVY == set()


def test_a_record_is_readable_json(known: Case) -> None:
    """A person who wonders about an answer can look."""
    (entry,) = (known.base / "replay").iterdir()
    _, kept = json.loads(entry.read_bytes().split(b"\n", 1)[1])
    read = {name: known.environ.get(name) for name in ("CUDA_HOME", "CUDAARCHS", "PATH")}
    assert kept["environ"] == read
    assert str(known.source) in kept["files"]
