"""Reading from package indexes, the way the user's pip and uv are told to."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from llamabuild.errors import SourceError
from llamabuild.source.bounded import CHUNK

if TYPE_CHECKING:
    import ssl
    from urllib.request import OpenerDirector, Request

__all__ = ["Answer", "Page", "Settings", "Web", "shown"]

_NETWORK_HINT = (
    "check the connection and the proxy settings (HTTPS_PROXY, PIP_PROXY), or download the "
    "source archive elsewhere and give the file as --source"
)


@dataclass(frozen=True)
class Settings:
    """How to reach package indexes.

    :param indexes: addresses, the first asked first.
    :param proxies: address of the proxy by scheme.
    :param no_proxy: comma-separated hosts that are reached directly.
    :param cafile: certificates to trust instead of the system's.
    :param trusted: hosts, with or without a port, that may be used over plain HTTP.
    :param timeout: seconds without an answer.
    :param netrc: file with passwords.
    """

    indexes: tuple[str, ...]
    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    cafile: str | None = None
    capath: str | None = None
    trusted: tuple[str, ...] = ()
    timeout: float = 30.0
    netrc: Path | None = None


@dataclass(frozen=True)
class Page:
    """A whole answer; ``address`` is where it was found in the end."""

    body: bytes
    content_type: str
    address: str


class Answer:
    """An answer that is still coming in. ``length`` is 0 where it is not stated."""

    def __init__(self, response: Any, address: str) -> None:
        self._response = response
        self._address = address
        self._began = time.monotonic()
        self._done = 0
        stated = response.headers.get("Content-Length") or ""
        self.length = int(stated) if stated.isdigit() else 0
        self.content_type = str(response.headers.get("Content-Type") or "")
        self.address = str(response.url)

    @property
    def seconds(self) -> float:
        """Since the answer began."""
        return time.monotonic() - self._began

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, none at the end.

        :raises SourceError: the connection broke.
        """
        from http.client import HTTPException

        try:
            data: bytes = self._response.read(size)
        except (OSError, HTTPException) as error:
            raise _unreachable(self._address, error) from error
        self._done += len(data)
        if not data and self._done < self.length:
            raise _unreachable(self._address, "the answer ended too early")
        return data


class Web:
    """Opens addresses under the settings of one start."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def get(self, address: str, accept: str, limit: int) -> Page | None:
        """Return a page of at most ``limit`` bytes, none if there is no such page.

        :raises SourceError: the host cannot be reached, or refuses.
        """
        try:
            with self.open(address, accept) as answer:
                body = bytearray()
                while len(body) <= limit and (data := answer.read(CHUNK)):
                    body += data
        except _NoSuchPageError:
            return None
        if len(body) > limit:
            raise SourceError(f"{shown(address)} is longer than any index page")
        return Page(bytes(body), answer.content_type, answer.address)

    @contextmanager
    def open(self, address: str, accept: str = "*/*") -> Iterator[Answer]:
        """Open an address.

        :raises SourceError: the host cannot be reached, or refuses, or must not be used.
        """
        from http.client import HTTPException
        from urllib.error import HTTPError
        from urllib.request import Request

        self._check(address)
        plain, credentials = _split_credentials(address)
        if plain.startswith("file:") and plain.endswith("/"):
            plain += "index.html"
        request = Request(plain, headers={"Accept": accept, "User-Agent": "llamabuild"})  # noqa: S310 - checked above
        self._authorize(request, credentials)
        try:
            response = self._opener(plain).open(request, timeout=self.settings.timeout)
        except HTTPError as error:
            with error:
                raise _refused(address, error.code, str(error.reason)) from error
        except (OSError, HTTPException, ValueError) as error:
            if _is_missing_file(address, error):
                raise _NoSuchPageError(f"{shown(address)} does not exist") from error
            raise _unreachable(address, error) from error
        with response:
            if plain.startswith("https:") and not response.url.startswith("https:"):
                raise SourceError(f"{shown(address)} leads to an address without encryption")
            yield Answer(response, address)

    def _check(self, address: str) -> None:
        parts = urlsplit(address)
        local = (parts.hostname or "") in ("localhost", "127.0.0.1", "::1")
        trusted = {parts.hostname, parts.netloc.rpartition("@")[2]} & set(self.settings.trusted)
        if parts.scheme == "http" and not (local or trusted):
            raise SourceError(
                f"{shown(address)} is not encrypted, so anyone on the way could change the answer",
                hint=f"use https, or trust it with PIP_TRUSTED_HOST={parts.hostname}",
            )
        files = any(index.startswith("file:") for index in self.settings.indexes)
        if parts.scheme not in ("http", "https") and not (parts.scheme == "file" and files):
            raise SourceError(
                f"{shown(address)} cannot be used: only https, http and file addresses can"
            )

    def _authorize(self, request: Request, credentials: tuple[str, str] | None) -> None:
        """Send a password to the host that it is for, and to no other that it redirects to."""
        import netrc

        user, password = credentials or (None, None)
        if user is None and self.settings.netrc is not None:
            host = urlsplit(request.full_url).hostname or ""
            try:
                known = netrc.netrc(self.settings.netrc).authenticators(host)
            except (OSError, netrc.NetrcParseError):
                known = None
            user, _, password = known or (None, None, None)
        if user is not None:
            word = base64.b64encode(f"{user}:{password or ''}".encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {word}")

    def _opener(self, address: str) -> OpenerDirector:
        from urllib import request

        # (Absent from the type stubs.)
        bypass = getattr(request, "proxy_bypass_environment")  # noqa: B009
        direct = bypass(urlsplit(address).netloc, {"no": self.settings.no_proxy})
        proxies = {} if direct else dict(self.settings.proxies)
        return request.build_opener(
            request.ProxyHandler(proxies), request.HTTPSHandler(context=self._certificates())
        )

    def _certificates(self) -> ssl.SSLContext:
        import ssl

        cafile, capath = self.settings.cafile, self.settings.capath
        try:
            return ssl.create_default_context(cafile=cafile, capath=capath)
        except OSError as error:
            raise SourceError(
                f"the certificates in {cafile or capath} cannot be read: {error.strerror or error}",
                hint="correct PIP_CERT, SSL_CERT_FILE or REQUESTS_CA_BUNDLE, or unset it",
            ) from error


class _NoSuchPageError(SourceError):
    """The index answers, and has no such page."""


def shown(address: str) -> str:
    """An address without its password, for messages."""
    return _split_credentials(address)[0]


def _split_credentials(address: str) -> tuple[str, tuple[str, str] | None]:
    parts = urlsplit(address)
    credentials, at, host = parts.netloc.rpartition("@")
    if not at:
        return address, None
    user, _, password = credentials.partition(":")
    plain = urlunsplit((parts.scheme, host, parts.path, parts.query, parts.fragment))
    return plain, (unquote(user), unquote(password))


def _is_missing_file(address: str, error: Exception) -> bool:
    reason = getattr(error, "reason", error)
    return address.startswith("file:") and isinstance(reason, FileNotFoundError)


def _refused(address: str, code: int, reason: str) -> SourceError:
    if code in (404, 410):
        return _NoSuchPageError(f"{shown(address)} does not exist")
    hint = "the index answers, but not with what was asked; try again later"
    if code in (401, 403, 407):
        hint = "put the user and password into the index's address, or into ~/.netrc"
    return SourceError(f"{shown(address)} answered {code} {reason}", hint=hint)


def _unreachable(address: str, error: object) -> SourceError:
    reason = getattr(error, "reason", None) or error
    return SourceError(f"{shown(address)} cannot be reached: {reason}", hint=_NETWORK_HINT)
