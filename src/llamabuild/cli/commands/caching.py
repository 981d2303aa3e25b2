"""``llamabuild cache``: list, path, verify, prune, clear."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llamabuild import pipeline
from llamabuild.cli.commands.call import Call, document, say, show
from llamabuild.cli.render import duration, size
from llamabuild.errors import StoreError, UsageError

__all__ = ["cache"]


def cache(call: Call) -> int:
    action = call.arguments["action"]
    _refuse_idle(call, action)
    cache = pipeline.open_store(call.request, call.environ, call.renderer)
    if not cache.base.exists():
        say(call, f"there is no cache yet in {cache.base.parent}\n")
    return _CACHE_ACTIONS[action](call, cache)


def _refuse_idle(call: Call, action: str) -> None:
    """Refuse what would not be heeded: "clear KEY" and "clear --older-than" would clear all."""
    request, key = call.request, call.arguments["key"]
    if key is not None and action != "path":
        raise UsageError(
            f"cache {action} is about the whole cache, and takes no key",
            hint=f"llamabuild cache path {shlex.quote(key)} shows where that module is",
        )
    if action != "prune" and (request.older_than is not None or request.max_size is not None):
        raise UsageError(
            f"--older-than and --max-size do not apply to cache {action}, but to cache prune",
            hint="llamabuild cache prune --older-than 30d",
        )


def _cache_list(call: Call, cache: pipeline.Store) -> int:
    entries = cache.entries(call.renderer)
    if call.request.json:
        rows = [
            {
                **entry.artifact.manifest,
                "path": str(entry.artifact.path),
                "total_bytes": entry.size_bytes,
                "last_used": round(entry.last_used),
            }
            for entry in entries
        ]
        show(document({"root": str(cache.base), "entries": rows}))
        return 0
    for entry in entries:
        manifest = entry.artifact.manifest
        source = manifest["source"]
        age = duration(max(0.0, time.time() - entry.last_used))
        show(
            f"{entry.artifact.key[:12]}  {size(entry.size_bytes):>9}  "
            f"{source['kind']} {source['version'] or '?'}  {manifest['flavor']}  "
            f"{' '.join(manifest['archs'])}  used {age} ago\n"
        )
    total = size(sum(entry.size_bytes for entry in entries))
    say(call, f"{_modules(len(entries))}, {total}, in {cache.base}\n")
    return 0


def _cache_path(call: Call, cache: pipeline.Store) -> int:
    key = call.arguments["key"]
    path = cache.find(key, call.renderer).path if key else cache.base
    show(document({"path": str(path)}) if call.request.json else f"{path}\n")
    return 0


def _cache_verify(call: Call, cache: pipeline.Store) -> int:
    damaged = cache.verify(call.renderer)
    if damaged:
        raise StoreError(
            f"{len(damaged)} damaged modules were found and set aside: "
            + ", ".join(entry.key for entry in damaged),
            hint="build them again with the commands that made them",
        )
    sound = len(cache.entries())
    show(document({"sound": sound}) if call.request.json else f"{_modules(sound)}, none damaged\n")
    return 0


def _cache_prune(call: Call, cache: pipeline.Store) -> int:
    request = call.request
    if request.older_than is None and request.max_size is None:
        raise UsageError(
            "prune needs to know what may go",
            hint="llamabuild cache prune --older-than 30d, or --max-size 2G; "
            "'cache clear' removes everything",
        )
    older_than = None if request.older_than is None else _seconds(request.older_than)
    max_bytes = None if request.max_size is None else _octets(request.max_size)
    return _removed(
        call, cache.prune(older_than=older_than, max_bytes=max_bytes, notify=call.renderer)
    )


def _cache_clear(call: Call, cache: pipeline.Store) -> int:
    return _removed(call, cache.clear(call.renderer))


def _removed(call: Call, entries: Sequence[Any]) -> int:
    octets = sum(entry.size_bytes for entry in entries)
    if call.request.json:
        keys = [entry.artifact.key for entry in entries]
        show(document({"removed": keys, "bytes": octets}))
    else:
        show(f"{_modules(len(entries))} removed, {size(octets)}\n")
    return 0


def _modules(count: int) -> str:
    return f"{count} module" if count == 1 else f"{count} modules"


def _seconds(text: str) -> float:
    """An age: a number and s, m, h, d or w."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip().lower())
    if not found:
        raise UsageError(f"--older-than: {text!r} is not an age", hint="for example 12h or 30d")
    return float(found[1]) * units[found[2]]


def _octets(text: str) -> int:
    """A size: a number and k, M, G or T (powers of ten), with or without a B."""
    units = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)b?", text.strip().lower())
    if not found:
        raise UsageError(f"--max-size: {text!r} is not a size", hint="for example 500M or 2G")
    return int(float(found[1]) * units[found[2]])


_CACHE_ACTIONS: Mapping[str, Callable[[Call, pipeline.Store], int]] = {
    "list": _cache_list,
    "path": _cache_path,
    "verify": _cache_verify,
    "prune": _cache_prune,
    "clear": _cache_clear,
}
