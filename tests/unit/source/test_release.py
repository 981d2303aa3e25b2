"""``llamafile:VERSION`` from repositories laid out as llamafile's and llama.cpp's are."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llamabuild import run
from llamabuild.errors import SourceError
from llamabuild.events import StepFinished, StepStarted
from llamabuild.source import SourceTree, open_source
from llamabuild.source.release import parse

GIT = shutil.which("git")
pytestmark = pytest.mark.skipif(GIT is None, reason="needs git")

VENDOR = "ggml/src/ggml-cuda/vendors/cuda.h"
PATCH = f"""diff --git a/{VENDOR} b/{VENDOR}
--- a/llama.cpp/{VENDOR}
+++ b/llama.cpp/{VENDOR}
@@ -1 +1,5 @@
+#ifdef GGML_USE_TINYBLAS
+#include "tinyblas.h"
+#else
 #include <cublas_v2.h>
+#endif
"""
ADDED = """diff --git a/tools/new.cpp b/tools/new.cpp
new file mode 100644
--- /dev/null
+++ b/llama.cpp/tools/new.cpp
@@ -0,0 +1 @@
+// new
"""


class Repository:
    """A git repository that is written to by its own name, whatever the machine's settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        names = {
            f"GIT_{who}_{what}": f"{who.lower()}@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        env = {"PATH": str(Path(GIT or "git").parent), "GIT_CONFIG_NOSYSTEM": "1", **names}
        done = run.capture([GIT or "git", *arguments], env=env, cwd=self.folder, timeout=60)
        assert done.returncode == 0, done.text
        return done.stdout.strip()

    def commit(self, contents: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> str:
        """Commit these files, and submodules at these commits; return the commit."""
        for name, data in contents.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.git("add", "--all", "--force")
        for place, commit in (links or {}).items():
            self.git("update-index", "--add", "--cacheinfo", f"160000,{commit},{place}")
        self.git("commit", "--quiet", "--allow-empty", "--message=more")
        return self.git("rev-parse", "HEAD")


class Mirror:
    """A folder with ``llamafile`` and ``llama.cpp``, and a release 0.10.4 of one on the other."""

    def __init__(self, bench: Any, samples: Any, folder: Path) -> None:
        self.bench = bench
        self.folder = folder
        self.upstream = Repository(folder / "llama.cpp")
        self.pinned = self.upstream.commit({**samples.MODERN, "Makefile": b"all:\n"})
        self.upstream.commit({"later": b"moved on\n"})
        self.llamafile = Repository(folder / "llamafile")
        self.contents: dict[str, bytes] = {
            "llamafile/version.h": b"#define LLAMAFILE_MAJOR 0\n#define LLAMAFILE_MINOR 10\n"
            b"#define LLAMAFILE_PATCH 4\n",
            "llamafile/tinyblas.cu": b"// tinyblas\n",
            "llamafile/tinyblas.h": b"// tinyblas\n",
            "llama.cpp.patches/patches/ggml_vendors.patch": PATCH.encode(),
            "llama.cpp.patches/patches/tools_new.patch": ADDED.encode(),
            "llama.cpp.patches/llamafile-files/ggml/include/ggml-own.h": b"// llamafile's own\n",
            "llama.cpp.patches/apply-patches.sh": b"#!/bin/sh\ntouch /tmp/never\nexit 1\n",
            ".gitmodules": (
                b'[submodule "llama.cpp"]\n\tpath = llama.cpp\n'
                b"\turl = https://example.org/somewhere/llama.cpp.git\n"
            ),
        }
        self.release("0.10.4")

    def release(self, tag: str, *, annotated: bool = False, **changed: bytes) -> None:
        self.llamafile.commit({**self.contents, **changed}, {"llama.cpp": self.pinned})
        self.llamafile.git("tag", *(["-a", "-m", tag] if annotated else []), tag)

    def open(self, spec: str = "llamafile:0.10.4", mirror: str | Path | None = "") -> SourceTree:
        bench = self.bench
        place = self.folder if mirror == "" else mirror
        return open_source(
            spec,
            scratch=bench.scratch,
            environ={**bench.environ, "PATH": str(Path(GIT or "git").parent)},
            cwd=bench.cwd,
            memo=bench.memo,
            mirror=None if place is None else str(place),
            notify=bench.events.append,
        )

    def refused(self, words: str, *more: Any) -> SourceError:
        with pytest.raises(SourceError) as caught:
            self.open(*more)
        assert words in caught.value.message
        assert self.bench.left_over() == []
        return caught.value


@pytest.fixture
def mirror(bench: Any, samples: Any, tmp_path: Path) -> Mirror:
    return Mirror(bench, samples, tmp_path / "mirror")


class TestRelease:
    def test_it_is_set_up_as_make_setup_does(self, mirror: Mirror) -> None:
        tree = mirror.open()
        assert (tree.kind, tree.version, tree.flavors) == (
            "llamafile",
            "0.10.4",
            ("self-contained",),
        )
        patched = (tree.root / "llama.cpp" / VENDOR).read_text()
        assert patched == (
            '#ifdef GGML_USE_TINYBLAS\n#include "tinyblas.h"\n#else\n'
            "#include <cublas_v2.h>\n#endif\n"
        )
        assert "llama.cpp/ggml/include/ggml-own.h" in tree.files
        assert "llamafile/tinyblas.cu" in tree.files

    def test_the_commit_is_the_pinned_one(self, mirror: Mirror, samples: Any) -> None:
        mirror.upstream.commit({VENDOR: b"// all new\n"})
        assert "TINYBLAS" in (mirror.open().root / "llama.cpp" / VENDOR).read_text()

    def test_what_is_kept_is_what_matters(self, mirror: Mirror) -> None:
        tree = mirror.open()
        kept = {path.relative_to(tree.root).as_posix() for path in tree.root.rglob("*.*")}
        assert not any(name.endswith(".patch") or ".git" in name for name in kept)
        assert mirror.bench.left_over() == []

    def test_no_script_of_the_checkout_runs(self, mirror: Mirror, tmp_path: Path) -> None:
        proof = tmp_path / "ran"
        script = f"#!/bin/sh\ntouch {proof}\n".encode()
        for name in ("apply-patches.sh", "renames.sh"):
            mirror.contents[f"llama.cpp.patches/{name}"] = script
        mirror.contents["Makefile"] = f"setup:\n\ttouch {proof}\n".encode()
        mirror.release("0.10.5")
        mirror.open("llamafile:0.10.5")
        assert not proof.exists()

    def test_a_second_time_asks_nobody(self, mirror: Mirror) -> None:
        first = mirror.open()
        mirror.folder.rename(mirror.folder.with_name("gone"))
        assert mirror.open().digest == first.digest

    def test_a_damaged_copy_is_fetched_again(self, mirror: Mirror) -> None:
        tree = mirror.open()
        (tree.root / "llamafile/tinyblas.h").write_bytes(b"else")
        assert mirror.open().digest == tree.digest
        assert (tree.root / "llamafile/tinyblas.h").read_bytes() == b"// tinyblas\n"

    def test_an_annotated_tag_and_one_with_a_v(self, mirror: Mirror) -> None:
        mirror.release("v0.10.5", annotated=True)
        assert mirror.open("llamafile:v0.10.5").digest == mirror.open().digest

    def test_0_8_0_is_tagged_0_8(self, mirror: Mirror) -> None:
        mirror.release("0.8")
        assert mirror.open("llamafile:0.8.0").digest == mirror.open("llamafile:0.8").digest

    def test_a_classic_release_has_no_submodule(self, mirror: Mirror, samples: Any) -> None:
        classic = Repository(mirror.folder / "older" / "llamafile.git")
        device = samples.with_crc(samples.DEVICE, "e90a74c9")  # of both 0.8.5 and 0.8.6
        classic.commit({**samples.CLASSIC, "llama.cpp/ggml-cuda.cu": device})
        classic.git("tag", "0.8.6")
        tree = mirror.open("llamafile:0.8.6", mirror.folder / "older")
        assert (tree.flavors, tree.version) == (("classic",), "0.8.6")

    def test_progress_is_told(self, mirror: Mirror) -> None:
        mirror.open()
        steps = [event.step for event in mirror.bench.events if isinstance(event, StepStarted)]
        assert steps == ["fetching llamafile 0.10.4", f"fetching llama.cpp {mirror.pinned[:9]}"]
        assert len([e for e in mirror.bench.events if isinstance(e, StepFinished)]) == 2

    def test_settings_of_the_repository_that_one_is_in_do_not_matter(
        self, mirror: Mirror, tmp_path: Path
    ) -> None:
        """As in a hook, or with a cache inside of a repository."""
        around = Repository(tmp_path / "cache")
        around.git("config", "core.autocrlf", "true")
        mirror.bench.environ["GIT_DIR"] = str(around.folder / ".git")
        mirror.bench.environ["GIT_INDEX_FILE"] = str(tmp_path / "nowhere")
        assert b"\r" not in (mirror.open().root / "llama.cpp" / VENDOR).read_bytes()
        assert around.git("status", "--porcelain", "--", "HEAD") == ""

    def test_attributes_of_the_tree_leave_nothing_out(self, mirror: Mirror) -> None:
        attributes = b"*.h export-ignore\n*.cu export-subst eol=crlf text\n"
        mirror.contents[".gitattributes"] = attributes
        mirror.release("0.10.5")
        assert mirror.open("llamafile:0.10.5").digest == mirror.open().digest


class TestMirrors:
    def test_bare_repositories(self, mirror: Mirror, tmp_path: Path) -> None:
        bare = tmp_path / "bare"
        bare.mkdir()
        for name in ("llamafile", "llama.cpp"):
            mirror.llamafile.git(
                "clone", "--quiet", "--mirror", str(mirror.folder / name), f"{bare}/{name}.git"
            )
        assert mirror.open(mirror=bare).digest == mirror.open().digest

    def test_an_address(self, mirror: Mirror) -> None:
        for name in ("llamafile", "llama.cpp"):
            (mirror.folder / name).rename(mirror.folder / f"{name}.git")
        assert mirror.open(mirror=mirror.folder.as_uri()).version == "0.10.4"

    def test_a_folder_seen_from_where_one_is(self, mirror: Mirror) -> None:
        (mirror.bench.cwd / "here").symlink_to(mirror.folder)
        assert mirror.open(mirror="here").version == "0.10.4"

    def test_one_without_the_submodule(self, mirror: Mirror) -> None:
        shutil.rmtree(mirror.folder / "llama.cpp")
        error = mirror.refused("has no llama.cpp.git")
        assert "git clone --mirror https://example.org/somewhere/llama.cpp.git" in error.hint

    def test_one_without_the_submodules_commit(self, mirror: Mirror) -> None:
        shutil.rmtree(mirror.folder / "llama.cpp")
        Repository(mirror.folder / "llama.cpp").commit({"other": b"history\n"})
        error = mirror.refused(f"does not give the commit {mirror.pinned[:9]}")
        assert "--source-mirror" in error.hint

    def test_one_that_is_not_there(self, mirror: Mirror, tmp_path: Path) -> None:
        mirror.refused("has no llamafile.git", "llamafile:0.10.4", tmp_path / "nowhere")

    def test_one_that_is_no_repository(self, mirror: Mirror, tmp_path: Path) -> None:
        (tmp_path / "empty" / "llamafile.git").mkdir(parents=True)
        mirror.refused("cannot be reached", "llamafile:0.10.4", tmp_path / "empty")

    def test_a_submodule_beside_its_project(self, mirror: Mirror, monkeypatch: Any) -> None:
        """A relative address counts from the release's own."""
        modules = b'[submodule "llama.cpp"]\n\tpath = llama.cpp\n\turl = ../llama.cpp\n'
        mirror.contents[".gitmodules"] = modules
        mirror.release("0.10.5")
        facts = {
            "repository": str(mirror.llamafile.folder),
            "submodule": "llama.cpp",
            "files": "llama.cpp.patches/llamafile-files",
            "patches": "llama.cpp.patches/patches",
        }
        monkeypatch.setattr("llamabuild.source.release._facts", lambda: facts)
        assert mirror.open("llamafile:0.10.5", None).version == "0.10.4"


class TestRefused:
    @pytest.mark.parametrize("text", ["", "latest", "../x", "--upload-pack=x", "0.10 4", "0.10;x"])
    def test_what_is_no_version(self, mirror: Mirror, text: str) -> None:
        assert "llamafile:0.10.4" in mirror.refused("no version", f"llamafile:{text}").hint

    @pytest.mark.parametrize("text", ["0.10.4", "v0.9.3", " 0.6 ", "0.10.0-rc1"])
    def test_what_is_one(self, text: str) -> None:
        assert parse(text) == text.strip()

    def test_a_version_that_is_not_there(self, mirror: Mirror) -> None:
        mirror.release("0.9.3")
        error = mirror.refused("has no release 0.10.9", "llamafile:0.10.9")
        assert error.hint == "the newest there: 0.10.4, 0.9.3"

    def test_no_git(self, mirror: Mirror, monkeypatch: Any) -> None:
        monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
        assert "install git" in mirror.refused("git is needed").hint

    def test_a_git_that_cannot_be_started(self, mirror: Mirror, monkeypatch: Any) -> None:
        broken = mirror.folder / "git"
        broken.write_bytes(b"\0\1")
        broken.chmod(0o755)
        monkeypatch.setattr(shutil, "which", lambda *_, **__: str(broken))
        mirror.refused("cannot be started")

    def test_a_patch_that_does_not_apply(self, mirror: Mirror) -> None:
        wrong = PATCH.replace(" #include <cublas_v2.h>", " #include <cublas_v3.h>")
        mirror.contents["llama.cpp.patches/patches/ggml_vendors.patch"] = wrong.encode()
        mirror.release("0.10.5")
        error = mirror.refused("ggml_vendors.patch does not apply", "llamafile:0.10.5")
        assert "make setup" in error.hint

    def test_a_patch_that_leads_out_of_the_checkout(self, mirror: Mirror, tmp_path: Path) -> None:
        evil = ADDED.replace("llama.cpp/tools/new.cpp", "../../../../evil").encode()
        mirror.contents["llama.cpp.patches/patches/tools_new.patch"] = evil
        mirror.release("0.10.5")
        mirror.refused("does not apply", "llamafile:0.10.5")
        assert not list(tmp_path.rglob("evil"))

    def test_patches_that_do_not_make_it_llamafiles(self, mirror: Mirror) -> None:
        mirror.contents["llama.cpp.patches/patches/ggml_vendors.patch"] = ADDED.replace(
            "new.cpp", "newer.cpp"
        ).encode()
        mirror.release("0.10.5")
        mirror.refused("does not have llamafile's patches", "llamafile:0.10.5")

    def test_no_word_about_the_submodule(self, mirror: Mirror) -> None:
        mirror.contents[".gitmodules"] = b""
        mirror.release("0.10.5")
        mirror.refused("does not say where its llama.cpp comes from", "llamafile:0.10.5")

    def test_an_interrupt_keeps_nothing_half(self, mirror: Mirror) -> None:
        def interrupt(event: object) -> None:
            if isinstance(event, StepStarted) and "llama.cpp" in event.step:
                raise KeyboardInterrupt

        mirror.bench.events = type("Listener", (), {"append": staticmethod(interrupt)})()
        with pytest.raises(KeyboardInterrupt):
            mirror.open()
        assert mirror.bench.left_over() == []
        mirror.bench.events = []
        assert mirror.open().version == "0.10.4"

    def test_a_link_out_of_the_tree(self, mirror: Mirror) -> None:
        (mirror.llamafile.folder / "link").symlink_to("/etc/passwd")
        mirror.release("0.10.5")
        mirror.refused("leads out of it", "llamafile:0.10.5")

    def test_a_script_that_may_be_run_stays_plain(self, mirror: Mirror) -> None:
        tree = mirror.open()
        modes = {path.stat().st_mode for path in tree.root.rglob("*") if path.is_file()}
        assert not any(mode & stat.S_IXUSR for mode in modes)
