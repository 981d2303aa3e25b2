"""``pypi:NAME==VERSION``: one source archive from the configured package index.

The index's page is read as PEP 503 (HTML) or PEP 691 (JSON) describes it. An archive is kept by
the digest that the page states, and one without a digest is not used.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from llamabuild.errors import SourceError
from llamabuild.events import Listener, StepAdvanced, StepFinished, StepStarted
from llamabuild.memo import Memo
from llamabuild.source import shelf
from llamabuild.source.bounded import CHUNK
from llamabuild.source.web import Settings, Web, shown

if TYPE_CHECKING:
    from packaging.version import Version

__all__ = ["Release", "archive", "files_of", "parse"]

_SPEC = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*==\s*([A-Za-z0-9.!+_-]+)\s*")
_PAGE = 64 << 20
_ARCHIVE = 1 << 30
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_JSON = "application/vnd.pypi.simple.v1+json"
_HTML = "application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.01"


@dataclass(frozen=True)
class File:
    """A file that an index offers; ``sha256`` is empty where the page states none."""

    name: str
    url: str
    sha256: str


@dataclass(frozen=True)
class Release:
    """``NAME==VERSION`` as the user wrote it."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"

    @property
    def page(self) -> str:
        """The name as an index writes it in addresses (PEP 503)."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


def parse(spec: str) -> Release:
    """Read what stands behind ``pypi:``.

    :raises SourceError: it is not one name and one exact version.
    """
    from packaging.version import InvalidVersion, Version

    with suppress(InvalidVersion):
        if found := _SPEC.fullmatch(spec):
            Version(found[2])
            return Release(found[1], found[2])
    raise SourceError(
        f"{spec.strip() or 'nothing'!r} does not name one exact version on the package index",
        hint="write it as pypi:llama-cpp-python==0.3.36",
    )


def archive(
    release: Release, settings: Settings, *, scratch: Path, memo: Memo, notify: Listener
) -> Path:
    """Return the release's source archive, from the cache if it is there.

    :param scratch: archives are kept in its folder ``downloads``, each under its digest.
    :raises SourceError: the index cannot be reached, does not have it, or gives other contents
        than it promised.
    :raises StoreError: the archive cannot be kept.
    """
    web = Web(settings)
    remembered = True

    def look_up() -> dict[str, str]:
        nonlocal remembered
        remembered = False
        return asdict(_find(release, web))

    question = f"sdist of {release.page} {release.version} at {' '.join(settings.indexes)}"
    file = File(**memo.recall(question, [], look_up))
    try:
        return _fetch(file, web, scratch, memo, notify)
    except SourceError:
        if not remembered:
            raise
        return _fetch(_find(release, web), web, scratch, memo, notify)


def files_of(page: bytes, content_type: str, address: str) -> list[File]:
    """Read an index's page about one project.

    :param address: the page's own, for relative links.
    :raises ValueError: the page cannot be understood.
    """
    if "json" in content_type.lower():
        return list(_from_json(page, address))
    reader = _Links(address)
    reader.feed(page.decode("utf-8", "replace"))
    return reader.files


def _find(release: Release, web: Web) -> File:
    """The release's source archive on the first index that has it with a digest."""
    from packaging.version import Version

    wanted = Version(release.version)
    others: set[Version] = set()
    has_page = wheels = undigested = False
    for index in web.settings.indexes:
        page = web.get(f"{index.rstrip('/')}/{release.page}/", f"{_JSON}, {_HTML}", _PAGE)
        if page is None:
            continue
        has_page = True
        try:
            files = files_of(page.body, page.content_type, page.address)
        except ValueError as error:
            raise SourceError(f"{shown(index)} gave a page that is none: {error}") from error
        for file, version in _sdists(files, release.page):
            others.add(version)
            if version == wanted and file.sha256:
                return file
            undigested = undigested or version == wanted
        wheels = wheels or any(_wheel_version(file.name) == release.version for file in files)
    raise _missing(release, web, others, has_page=has_page, wheels=wheels, undigested=undigested)


def _missing(
    release: Release,
    web: Web,
    others: set[Version],
    *,
    has_page: bool,
    wheels: bool,
    undigested: bool,
) -> SourceError:
    where = ", ".join(shown(index) for index in web.settings.indexes)
    if undigested:
        return SourceError(
            f"{where} has {release} without a SHA-256 digest, so it cannot be checked",
            hint="download it yourself, check it, and give the file as --source",
        )
    if wheels:
        return SourceError(
            f"{where} has {release} as wheels only, and those hold no sources",
            hint=_newest(others) or "download its sources and give the folder as --source",
        )
    if has_page:
        return SourceError(
            f"{where} has no source archive of {release}",
            hint=_newest(others) or "download its sources and give the folder as --source",
        )
    return SourceError(
        f"{where} has no project named {release.name}",
        hint="check the spelling; PIP_INDEX_URL or UV_DEFAULT_INDEX names another index",
    )


def _newest(versions: set[Version]) -> str:
    newest = ", ".join(str(version) for version in sorted(versions, reverse=True)[:5])
    return f"the newest versions with sources are {newest}" if newest else ""


def _sdists(files: Iterable[File], project: str) -> Iterator[tuple[File, Version]]:
    from packaging.utils import InvalidSdistFilename, parse_sdist_filename
    from packaging.version import InvalidVersion

    for file in files:
        with suppress(InvalidSdistFilename, InvalidVersion):
            name, version = parse_sdist_filename(file.name)
            if name == project:
                yield file, version


def _wheel_version(name: str) -> str:
    return name.split("-")[1] if name.endswith(".whl") and name.count("-") >= 2 else ""


def _fetch(file: File, web: Web, scratch: Path, memo: Memo, notify: Listener) -> Path:
    path = scratch / "downloads" / file.sha256 / file.name
    if _kept(path, file.sha256, memo):
        return path
    address, _ = urldefrag(file.url)
    with shelf.staging(scratch) as private:
        draft = private / file.name
        with draft.open("wb") as target:
            digest = _download(web, address, target, file.name, notify)
        if digest != file.sha256:
            raise SourceError(
                f"{file.name} from {shown(address)} has other contents than the index states: "
                f"SHA-256 {digest[:16]}…, not {file.sha256[:16]}…",
                hint="try again; if it stays so, do not trust this index",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(path)
    return path


def _kept(path: Path, sha256: str, memo: Memo) -> bool:
    def check() -> bool:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256

    try:
        return path.is_file() and bool(memo.recall(f"sha256 {sha256}", [path], check))
    except OSError:
        return False


def _download(web: Web, address: str, target: IO[bytes], name: str, notify: Listener) -> str:
    """Copy a file and return its digest."""
    step = f"downloading {name}"
    digest = hashlib.sha256()
    done = 0
    notify(StepStarted(step))
    with web.open(address) as answer:
        while data := answer.read(CHUNK):
            done += len(data)
            if done > _ARCHIVE:
                raise SourceError(f"{name} is larger than any source archive")
            digest.update(data)
            target.write(data)
            if answer.length:
                share = min(done / answer.length, 1.0)
                notify(StepAdvanced(step, done, answer.length, share, name))
    notify(StepFinished(step, answer.seconds))
    return digest.hexdigest()


def _file(name: str, url: str, sha256: object) -> Iterator[File]:
    """A file whose name is one: it becomes part of a path."""
    if _NAME.fullmatch(name):
        known = isinstance(sha256, str) and _SHA256.fullmatch(sha256.lower())
        yield File(name, url, str(sha256).lower() if known else "")


def _from_json(page: bytes, address: str) -> Iterator[File]:
    import json

    try:
        for entry in json.loads(page)["files"]:
            url = urljoin(address, str(entry["url"]))
            yield from _file(str(entry["filename"]), url, dict(entry["hashes"]).get("sha256"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"{error} is missing or of another kind") from error


class _Links(HTMLParser):
    """The anchors of a page, with the digest that each carries behind its ``#``."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address = address
        self.files: list[File] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note links; a ``base`` changes what the others are relative to."""
        link = dict(attrs).get("href")
        if not link:
            return
        url = urljoin(self._address, link)
        if tag == "base":
            self._address = url
        elif tag == "a":
            parts = urlsplit(url)
            name = PurePosixPath(unquote(parts.path)).name
            digest = parts.fragment.removeprefix("sha256=")
            self.files.extend(_file(name, url, digest))
