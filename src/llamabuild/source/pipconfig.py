"""Which package index to ask, and how: what pip and uv are told by variables and by pip's files.

Order, the strongest first: ``PIP_…`` variables, ``UV_…`` variables, pip's files, the public
index. (pip: "Configuration", uv: "Package indexes" in their manuals.)
"""

from __future__ import annotations

import configparser
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from llamabuild.errors import SourceError
from llamabuild.source.web import Settings

__all__ = ["read"]

_PUBLIC = "https://pypi.org/simple"
_SECTIONS = ("global", "install", "download")


def read(environ: Mapping[str, str], *, root: Path = Path("/"), prefix: str = "") -> Settings:
    """Collect the settings.

    :param root: where the system's files are looked for.
    :param prefix: of the Python environment; this one's if empty.
    :raises SourceError: no index may be used at all.
    """
    options = _files(environ, root, Path(prefix or sys.prefix))

    def option(name: str, *more: str) -> str:
        variables = (f"PIP_{name.upper().replace('-', '_')}", *more)
        return next((environ[v] for v in variables if environ.get(v)), options.get(name, ""))

    if option("no-index").lower() in ("1", "true", "yes", "on"):
        raise SourceError(
            "pip is told to use no package index (PIP_NO_INDEX)",
            hint="unset it, or give a source archive or folder as --source",
        )
    first = option("index-url", "UV_DEFAULT_INDEX", "UV_INDEX_URL") or _PUBLIC
    extra = option("extra-index-url", "UV_INDEX", "UV_EXTRA_INDEX_URL").split()
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return Settings(
        indexes=tuple(dict.fromkeys(_unnamed(index) for index in (first, *extra))),
        proxies=_proxies(environ, option("proxy")),
        no_proxy=environ.get("no_proxy") or environ.get("NO_PROXY") or "",
        cafile=option("cert", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") or None,
        capath=environ.get("SSL_CERT_DIR") or None,
        trusted=tuple(option("trusted-host").split()),
        timeout=_seconds(option("timeout", "PIP_DEFAULT_TIMEOUT")),
        netrc=Path(environ.get("NETRC") or Path(home, ".netrc")) if home else None,
    )


def _unnamed(index: str) -> str:
    """Uv lets an index have a name: ``name=https://…``."""
    name, equals, address = index.partition("=")
    return address if equals and ":" not in name else index


def _proxies(environ: Mapping[str, str], pip: str) -> dict[str, str]:
    found = {}
    for scheme in ("http", "https"):
        variables = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
        address = pip or next((environ[v] for v in variables if environ.get(v)), "")
        if address:
            found[scheme] = address if "://" in address else f"http://{address}"
    return found


def _seconds(text: str) -> float:
    with suppress(ValueError):
        return max(float(text), 1.0)
    return 30.0


def _files(environ: Mapping[str, str], root: Path, prefix: Path) -> dict[str, str]:
    """Options of pip's configuration files; later files and sections win."""
    found: dict[str, str] = {}
    for path in _places(environ, root, prefix):
        parser = configparser.RawConfigParser()
        with suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read(path, encoding="utf-8")
        for section in _SECTIONS:
            if parser.has_section(section):
                found.update(
                    (name.replace("_", "-"), value) for name, value in parser.items(section)
                )
    return found


def _places(environ: Mapping[str, str], root: Path, prefix: Path) -> list[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:  # the way to tell pip that there are no files
        return []
    home = Path(environ.get("HOME") or environ.get("USERPROFILE") or "~")
    if sys.platform == "win32":
        shared = [Path(environ.get("PROGRAMDATA", "C:/ProgramData"), "pip/pip.ini")]
        own = [home / "pip/pip.ini", Path(environ.get("APPDATA", str(home)), "pip/pip.ini")]
        site = prefix / "pip.ini"
    else:
        shared = [root / "etc/xdg/pip/pip.conf", root / "etc/pip.conf"]
        config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
        own = [home / ".pip/pip.conf", config / "pip/pip.conf"]
        if sys.platform == "darwin":
            shared.insert(0, root / "Library/Application Support/pip/pip.conf")
            own.append(home / "Library/Application Support/pip/pip.conf")
        site = prefix / "pip.conf"
    return [*shared, *own, site, *([Path(named)] if named else [])]
