"""Source archives from a package index: a real server on this machine, and folders."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.errors import SourceError
from llamabuild.source import index, pipconfig, web

NAME = "llama_cpp_python-0.2.56.tar.gz"
SPEC = "pypi:llama-cpp-python==0.2.56"


class Server:
    """An index on a free port. ``pages`` maps paths to (status, headers, body)."""

    def __init__(self) -> None:
        self.pages: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.delay = 0.0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                time.sleep(outer.delay)
                status, headers, body = outer.pages.get(self.path, (404, {}, b""))
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(BrokenPipeError):  # the asker did not wait
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def page(
        self, body: str | bytes, kind: str = "text/html", project: str = "llama-cpp-python"
    ) -> None:
        data = body.encode() if isinstance(body, str) else body
        self.pages[f"/simple/{project}/"] = (200, {"Content-Type": kind}, data)

    def offer(self, data: bytes, name: str = NAME, *, digest: str | None = None) -> None:
        """A page with one file, and the file."""
        digest = hashlib.sha256(data).hexdigest() if digest is None else digest
        self.pages[f"/files/{name}"] = (200, {}, data)
        self.page(f'<a href="../../files/{name}#sha256={digest}">{name}</a>')


@pytest.fixture
def server(bench: Any) -> Iterator[Server]:
    server = Server()
    bench.environ["PIP_INDEX_URL"] = f"{server.address}/simple"
    yield server
    server.close()


@pytest.fixture
def sdist(samples: Any) -> bytes:
    """A source archive of that name in small."""
    contents = {
        "PKG-INFO": b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.2.56\n",
        **{f"vendor/llama.cpp/{name}": data for name, data in samples.ONE_FILE.items()},
    }
    data: bytes = samples.tarred(contents, top="llama_cpp_python-0.2.56/")
    return data


def refused(bench: Any, spec: str = SPEC) -> SourceError:
    with pytest.raises(SourceError) as caught:
        bench.open(spec)
    assert set(bench.left_over()) <= {"downloads"}
    assert not any(path.is_file() for path in bench.scratch.rglob("*"))
    return caught.value


def test_a_page_of_links(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    tree = bench.open(SPEC)
    assert (tree.kind, tree.version, tree.layout) == ("llama-cpp-python", "0.2.56", "one-file")
    assert (tree.origin, tree.watched) == (SPEC, ())
    kept = bench.scratch / "downloads" / hashlib.sha256(sdist).hexdigest() / NAME
    assert kept.read_bytes() == sdist
    steps = [type(event).__name__ for event in bench.events]
    assert steps[0] == "StepStarted"
    assert "StepAdvanced" in steps
    assert "StepFinished" in steps


def test_a_page_of_json(bench: Any, server: Server, sdist: bytes) -> None:
    digest = hashlib.sha256(sdist).hexdigest()
    server.offer(sdist)
    files = [
        {"filename": "other.txt", "url": "x", "hashes": {}},
        {"filename": NAME, "url": f"/files/{NAME}", "hashes": {"sha256": digest.upper()}},
    ]
    server.page(json.dumps({"files": files}), "application/vnd.pypi.simple.v1+json")
    assert bench.open(SPEC).version == "0.2.56"
    assert "json" in server.asked[0][1]["Accept"]


def test_names_are_normalized(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    assert bench.open("pypi: Llama_CPP.python == 0.2.56 ").version == "0.2.56"
    assert server.asked[0][0] == "/simple/llama-cpp-python/"


def test_a_folder_is_an_index_too(bench: Any, sdist: bytes, tmp_path: Path) -> None:
    root = tmp_path / "index with spaces"
    page = root / "simple/llama-cpp-python/index.html"
    page.parent.mkdir(parents=True)
    (root / "files").mkdir()
    (root / "files" / NAME).write_bytes(sdist)
    digest = hashlib.sha256(sdist).hexdigest()
    page.write_text(f'<a href="../../files/{NAME}#sha256={digest}">it</a>')
    bench.environ["PIP_INDEX_URL"] = (root / "simple").as_uri()
    assert bench.open(SPEC).version == "0.2.56"


def test_a_further_index_is_asked_too(bench: Any, server: Server, sdist: bytes) -> None:
    empty = bench.cwd / "empty"
    empty.mkdir()
    bench.environ["PIP_INDEX_URL"] = empty.as_uri()
    bench.environ["PIP_EXTRA_INDEX_URL"] = f"{server.address}/simple/"
    server.offer(sdist)
    assert bench.open(SPEC).version == "0.2.56"


def test_the_second_time_no_index_is_asked(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    first = bench.open(SPEC)
    server.close()
    assert bench.open(SPEC) == first


def test_a_download_that_was_lost_or_damaged_is_made_again(
    bench: Any, server: Server, sdist: bytes
) -> None:
    server.offer(sdist)
    first = bench.open(SPEC)
    (kept,) = bench.scratch.rglob(NAME)
    kept.write_bytes(b"damaged")
    assert bench.open(SPEC) == first
    assert kept.read_bytes() == sdist


def test_an_address_that_no_longer_works_is_looked_up_again(
    bench: Any, server: Server, sdist: bytes
) -> None:
    server.offer(sdist)
    first = bench.open(SPEC)
    (kept,) = bench.scratch.rglob(NAME)
    kept.unlink()
    server.pages[f"/moved/{NAME}"] = server.pages.pop(f"/files/{NAME}")
    digest = hashlib.sha256(sdist).hexdigest()
    server.page(f'<a href="/moved/{NAME}#sha256={digest}">it</a>')
    assert bench.open(SPEC) == first


def test_other_contents_than_promised_are_refused(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist, digest="0" * 64)
    error = refused(bench)
    assert "other contents" in error.message
    assert error.exit_code == 5


def test_a_file_without_a_digest_is_refused(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    server.page(f'<a href="/files/{NAME}">it</a>')
    assert "without a SHA-256" in refused(bench).message


def test_a_version_that_is_missing_lists_the_newest(bench: Any, server: Server) -> None:
    names = [f"llama_cpp_python-0.3.{number}.tar.gz" for number in range(12)]
    server.page("".join(f'<a href="{name}#sha256={"0" * 64}">x</a>' for name in names))
    error = refused(bench)
    assert "no source archive of llama-cpp-python==0.2.56" in error.message
    assert "0.3.11, 0.3.10, 0.3.9, 0.3.8, 0.3.7" in error.hint
    assert "0.3.6" not in error.hint


def test_wheels_hold_no_sources(bench: Any, server: Server) -> None:
    wheel = "llama_cpp_python-0.2.56-py3-none-any.whl"
    server.page(f'<a href="{wheel}#sha256={"0" * 64}">x</a>')
    assert "wheels only" in refused(bench).message


def test_a_project_that_is_not_there(bench: Any, server: Server) -> None:
    error = refused(bench, "pypi:lama-cpp-python==1")
    assert "no project named lama-cpp-python" in error.message
    assert "PIP_INDEX_URL" in error.hint


def test_no_network(bench: Any, server: Server) -> None:
    server.close()
    error = refused(bench)
    assert "cannot be reached" in error.message
    assert "proxy" in error.hint


def test_an_index_that_never_answers(bench: Any, server: Server) -> None:
    bench.environ["PIP_TIMEOUT"] = "1"
    server.delay = 5
    assert "cannot be reached" in refused(bench).message


def test_an_answer_that_ends_in_the_middle(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    status, _, body = server.pages[f"/files/{NAME}"]
    server.pages[f"/files/{NAME}"] = (status, {"Content-Length": str(len(body) + 9)}, body)
    assert "cannot be reached" in refused(bench).message


@pytest.mark.parametrize(
    ("status", "words", "hint"),
    [(401, "401", "password"), (403, "403", "password"), (500, "500", "later")],
)
def test_an_index_that_refuses(
    bench: Any, server: Server, status: int, words: str, hint: str
) -> None:
    server.pages["/simple/llama-cpp-python/"] = (status, {}, b"")
    error = refused(bench)
    assert words in error.message
    assert hint in error.hint


@pytest.mark.parametrize("page", [b"{", b"[]", b'{"files": [{}]}', b'{"files": 3}', b"\xff"])
def test_a_page_that_is_none(bench: Any, server: Server, page: bytes) -> None:
    server.page(page, "application/vnd.pypi.simple.v1+json")
    assert "a page that is none" in refused(bench).message


def test_a_file_name_cannot_lead_elsewhere(
    bench: Any, server: Server, sdist: bytes, tmp_path: Path
) -> None:
    server.offer(sdist)
    digest = {"sha256": hashlib.sha256(sdist).hexdigest()}
    files = [
        {"filename": f"{up}{NAME}", "url": f"/files/{NAME}", "hashes": digest}
        for up in ("../../../../", f"{tmp_path}/", "..\\")
    ]
    server.page(json.dumps({"files": files}), "application/vnd.pypi.simple.v1+json")
    assert "no source archive" in refused(bench).message
    assert not list(tmp_path.rglob(f"*{NAME}"))


def test_another_projects_file_is_not_taken(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist, "other_project-0.2.56.tar.gz")
    assert "no source archive" in refused(bench).message


def test_an_endless_file_is_stopped(
    bench: Any, server: Server, sdist: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_ARCHIVE", 1000)
    server.offer(sdist + bytes(5000))
    assert "larger than any source archive" in refused(bench).message


def test_passwords_go_to_the_index_and_into_no_message(
    bench: Any, server: Server, sdist: bytes
) -> None:
    server.offer(sdist)
    secret = server.address.replace("http://", "http://me:pass%40word@")
    bench.environ["PIP_INDEX_URL"] = f"{secret}/simple"
    bench.open(SPEC)
    assert server.asked[0][1]["Authorization"] == "Basic bWU6cGFzc0B3b3Jk"
    error = refused_with_password(bench)
    assert "pass" not in error.message
    assert "me:" not in error.message


def refused_with_password(bench: Any) -> SourceError:
    with pytest.raises(SourceError) as caught:
        bench.open("pypi:nothing==1")
    return caught.value


def test_passwords_from_netrc(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    home = Path(bench.environ["HOME"])
    home.mkdir()
    (home / ".netrc").write_text("machine 127.0.0.1 login me password word\n")
    (home / ".netrc").chmod(0o600)
    bench.open(SPEC)
    assert server.asked[0][1]["Authorization"] == "Basic bWU6d29yZA=="


def test_a_password_is_not_sent_to_where_the_index_redirects(
    bench: Any, server: Server, sdist: bytes
) -> None:
    server.offer(sdist)
    page = server.pages["/simple/llama-cpp-python/"]
    server.pages["/real/llama-cpp-python/"] = page
    address = f"{server.address}/real/llama-cpp-python/"
    server.pages["/simple/llama-cpp-python/"] = (302, {"Location": address}, b"")
    bench.environ["PIP_INDEX_URL"] = server.address.replace("//", "//me:word@") + "/simple"
    bench.open(SPEC)
    assert "Authorization" in server.asked[0][1]
    assert "Authorization" not in server.asked[1][1]


def test_a_proxy_is_used_and_left_out(bench: Any, server: Server, sdist: bytes) -> None:
    server.offer(sdist)
    elsewhere = "http://127.0.0.1:9"
    bench.environ["PIP_INDEX_URL"] = f"{elsewhere}/simple"
    for path, page in list(server.pages.items()):
        server.pages[elsewhere + path] = page
    bench.environ["http_proxy"] = server.address
    assert bench.open(SPEC).version == "0.2.56"
    bench.environ["no_proxy"] = "127.0.0.1"
    bench.environ["PIP_INDEX_URL"] = f"{elsewhere}/other"
    with pytest.raises(SourceError, match="cannot be reached"):
        bench.open(SPEC)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://index.example.org/simple", "not encrypted"),
        ("ftp://index.example.org/simple", "only https"),
        ("index.example.org/simple", "only https"),
    ],
)
def test_addresses_that_cannot_be_trusted(bench: Any, address: str, words: str) -> None:
    bench.environ["PIP_INDEX_URL"] = address
    assert words in refused(bench).message


def test_a_page_cannot_point_into_this_machines_files(
    bench: Any, server: Server, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(b"secret")
    server.page(f'<a href="{(tmp_path / NAME).as_uri()}#sha256={"0" * 64}">x</a>')
    assert "only https" in refused(bench).message


def test_encryption_cannot_be_redirected_away(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Redirected(io.BytesIO):
        url = "http://elsewhere.example.org/"
        headers: ClassVar[dict[str, str]] = {}

        def open(self, *_: Any, **__: Any) -> Redirected:
            return self

    monkeypatch.setattr(web.Web, "_opener", lambda *_: Redirected(b"<a>page</a>"))
    bench.environ["PIP_INDEX_URL"] = "https://index.example.org/simple"
    assert "without encryption" in refused(bench).message


def test_certificates_that_are_missing(bench: Any) -> None:
    bench.environ |= {"PIP_INDEX_URL": "https://127.0.0.1:9/", "PIP_CERT": "/no/such.pem"}
    error = refused(bench)
    assert "certificates" in error.message
    assert "PIP_CERT" in error.hint


@pytest.mark.parametrize(
    "spec", ["", "llama-cpp-python", "a==", "a>=1", "a==1,<2", "../a==1", "a==x"]
)
def test_a_name_without_one_exact_version(bench: Any, spec: str) -> None:
    error = refused(bench, f"pypi:{spec}")
    assert "pypi:llama-cpp-python==0.3.36" in error.hint


def test_no_index_at_all(bench: Any) -> None:
    bench.environ["PIP_NO_INDEX"] = "1"
    assert "PIP_NO_INDEX" in refused(bench).message


def test_an_archive_that_is_none(bench: Any, server: Server) -> None:
    server.offer(b"no archive")
    with pytest.raises(SourceError, match="damaged"):
        bench.open(SPEC)


@given(st.binary(max_size=400))
def test_any_page_is_read_or_refused(page: bytes) -> None:
    for kind in ("text/html", "application/vnd.pypi.simple.v1+json"):
        try:
            files = index.files_of(page, kind, "https://example.org/simple/x/")
        except ValueError:
            continue
        assert all("/" not in file.name for file in files)


def test_links_may_be_relative_to_a_base() -> None:
    page = (
        b'<base href="https://h.org/p/"><a href="x-1.tar.gz#sha256=zz">1</a><a>2</a><a href>3</a>'
    )
    (file,) = index.files_of(page, "text/html", "https://example.org/simple/x/")
    assert (file.url, file.sha256) == ("https://h.org/p/x-1.tar.gz#sha256=zz", "")


class TestSettings:
    """Whose word counts: variables of pip, then of uv, then pip's files."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """A machine with nothing configured."""
        root = tmp_path / "root"
        root.mkdir()
        return root

    def read(self, root: Path, **environ: str) -> web.Settings:
        return pipconfig.read(
            {"HOME": str(root / "home"), **environ}, root=root, prefix=str(root / "venv")
        )

    def configure(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def test_nothing_configured_is_the_public_index(self, root: Path) -> None:
        (index,) = self.read(root).indexes
        assert index.startswith("https://")

    def test_pips_variable_beats_uvs(self, root: Path) -> None:
        both = {"PIP_INDEX_URL": "https://pip/", "UV_DEFAULT_INDEX": "https://uv/"}
        assert self.read(root, **both).indexes == ("https://pip/",)
        assert self.read(root, UV_INDEX_URL="https://uv/").indexes == ("https://uv/",)

    def test_uvs_indexes_may_have_names(self, root: Path) -> None:
        settings = self.read(root, UV_DEFAULT_INDEX="https://a/", UV_INDEX="b=https://b/?x=1")
        assert settings.indexes == ("https://a/", "https://b/?x=1")

    def test_later_files_win(self, root: Path) -> None:
        self.configure(root / "etc/pip.conf", "[global]\nindex-url = https://etc/\ncert = /c\n")
        assert self.read(root).indexes == ("https://etc/",)
        self.configure(root / "home/.config/pip/pip.conf", "[global]\nindex_url = https://home/")
        self.configure(root / "home/.pip/pip.conf", "[global]\nindex-url = https://old/")
        assert self.read(root).indexes == ("https://home/",)
        self.configure(root / "venv/pip.conf", "[download]\nindex-url = https://venv/")
        assert self.read(root).indexes == ("https://venv/",)
        self.configure(root / "own.conf", "[global]\nindex-url = https://own/")
        own = self.read(root, PIP_CONFIG_FILE=str(root / "own.conf"))
        assert (own.indexes, own.cafile) == (("https://own/",), "/c")

    def test_no_files_at_all(self, root: Path) -> None:
        self.configure(root / "etc/pip.conf", "[global]\nindex-url = https://etc/\n")
        assert self.read(root, PIP_CONFIG_FILE=os.devnull).indexes != ("https://etc/",)

    def test_a_broken_file_is_passed_over(self, root: Path) -> None:
        self.configure(root / "etc/pip.conf", "index-url = https://etc/\n")
        assert len(self.read(root).indexes) == 1

    def test_several_further_indexes(self, root: Path) -> None:
        text = "[global]\nextra-index-url = https://a/\n  https://b/\n"
        self.configure(root / "etc/pip.conf", text)
        settings = self.read(root, PIP_INDEX_URL="https://a/")
        assert settings.indexes == ("https://a/", "https://b/")

    def test_proxies_and_certificates(self, root: Path) -> None:
        settings = self.read(
            root,
            https_proxy="proxy:3128",
            NO_PROXY="a,b",
            REQUESTS_CA_BUNDLE="/r",
            PIP_TRUSTED_HOST="h i",
        )
        assert settings.proxies == {"https": "http://proxy:3128"}
        assert (settings.no_proxy, settings.cafile) == ("a,b", "/r")
        assert settings.trusted == ("h", "i")
        pip = self.read(
            root, https_proxy="x", PIP_PROXY="http://p", PIP_CERT="/p", SSL_CERT_FILE="/s"
        )
        assert pip.proxies == {"http": "http://p", "https": "http://p"}
        assert pip.cafile == "/p"
