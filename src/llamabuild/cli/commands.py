"""One function a command: call the library, print what it returns."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llamabuild import pipeline, replay
from llamabuild.cli.render import Renderer, duration, size
from llamabuild.errors import StoreError, UsageError
from llamabuild.replay import Recorded
from llamabuild.settings import ARGUMENTS, Request

__all__ = ["ARGUMENT_NAMES", "COMMANDS", "Call"]

ARGUMENT_NAMES = frozenset(
    argument.name for arguments in ARGUMENTS.values() for argument in arguments
)


@dataclass(frozen=True)
class Call:
    """One command line, taken apart."""

    argv: tuple[str, ...]
    request: Request
    arguments: Mapping[str, Any]
    environ: Recorded
    renderer: Renderer


def _build(call: Call) -> int:
    if call.request.dry_run:
        return _plan(call)
    job = pipeline.plan(_start(call))
    results = pipeline.build(job)
    _say(call, _built_text(results))
    stdout = _built_output(call, results)
    sys.stdout.write(stdout)
    _remember(call, job, results)
    return 0


def _built_output(call: Call, results: Sequence[pipeline.Built]) -> str:
    if call.request.json:
        return _document({"artifacts": [result.to_json() for result in results]})
    return "".join(f"{result.path}\n" for result in results)


def _built_text(results: Iterable[pipeline.Built]) -> str:
    lines = []
    for result in results:
        archs = " ".join(str(arch) for arch in result.plan.archs)
        octets = size(result.artifact.manifest["size_bytes"])
        how = "from the cache" if result.cached else f"built in {duration(result.seconds)}"
        lines.append(f"{result.plan.module} for {archs}: {octets}, {how}\n")
    return "".join(lines)


def _plan(call: Call) -> int:
    plans = pipeline.plan(_start(call)).plans
    if call.request.json:
        _print(_document({"plans": [plan.describe() for plan in plans]}))
        return 0
    for plan in plans:
        described = plan.describe()
        source, toolkit = described["source"], described["toolkit"]
        compiler = described["host_compiler"]
        rows = {
            "module": f"{plan.module} ({plan.flavor})",
            "archs": " ".join(described["archs"]),
            "source": f"{source['kind']} {source['version'] or '(unknown version)'}, "
            f"{source['digest'][:12]}",
            "toolkit": f"CUDA {toolkit['version']}, {toolkit['path']} ({toolkit['found_via']})",
            "compiler": f"{compiler['kind']} {compiler['version']}, {compiler['path']}",
            "defines": " ".join(plan.defines),
            "nvcc": " ".join(plan.nvcc_flags),
            "cmake": " ".join(f"-D{option}" for option in plan.cmake_options),
            "key": plan.key,
        }
        _print("".join(f"{name + ':':10}{text}\n" for name, text in rows.items() if text))
    return 0


def _detect(call: Call) -> int:
    detection = pipeline.detect(call.environ)
    if call.request.json:
        document = {
            "gpus": [
                {name: value for name, value in asdict(gpu).items() if name != "uuid"}
                for gpu in detection.gpus
            ],
            "problems": [asdict(problem) for problem in detection.problems],
        }
        _print(_document(document))
        return 0
    for gpu in detection.gpus:
        memory = f", {gpu.memory_bytes / 2**30:.0f} GiB" if gpu.memory_bytes else ""
        _print(f"{gpu.index}: {gpu.name}, {gpu.arch}{memory}, driver {gpu.driver}\n")
    for problem in detection.problems:
        _say(call, f"{problem.message}\n" + (f"  try: {problem.hint}\n" if problem.hint else ""))
    return 0


def _inspect(call: Call) -> int:
    from llamabuild import arch, inspect
    from llamabuild.inspect import page, report

    request, cards = call.request, arch.products()
    module = inspect.read_module(Path(call.arguments["file"]))
    if call.arguments["other"] is not None:
        comparison = inspect.compare(module, inspect.read_module(Path(call.arguments["other"])))
        text = "\n".join(comparison.lines) + "\n"
        _print(_document(comparison.document) if request.json else text)
        return 0
    if request.html is not None:
        _write(request.html, page.page(module, cards))
        _say(call, f"{request.html} was written\n")
    if request.json:
        _print(_document(report.document(module, cards)))
    elif request.kernels is not None:
        for name, traps in report.matching(module, request.kernels):
            states = ", ".join(f"{label} {trap}" for label, trap in traps.items())
            _print(f"{name}\n    {states}\n")
    elif request.gpus:
        for name in request.gpus:
            architecture = pipeline.gpu_architecture(name)
            names = cards.get(architecture, [])
            _print("\n".join(report.explain(module, architecture, names)) + "\n")
    else:
        _print("\n".join(report.summary(module)) + "\n")
        if module.entries:
            _print("\n" + _table(report.gpu_rows(module, cards)))
    return 0


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}", hint="name another file"
        ) from error


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _cache(call: Call) -> int:
    cache = pipeline.open_store(call.request, call.environ, call.renderer)
    action = call.arguments["action"]
    return _CACHE_ACTIONS[action](call, cache)


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
        _print(_document({"root": str(cache.base), "entries": rows}))
        return 0
    for entry in entries:
        manifest = entry.artifact.manifest
        source = manifest["source"]
        age = duration(max(0.0, time.time() - entry.last_used))
        _print(
            f"{entry.artifact.key[:12]}  {size(entry.size_bytes):>9}  "
            f"{source['kind']} {source['version'] or '?'}  {manifest['flavor']}  "
            f"{' '.join(manifest['archs'])}  used {age} ago\n"
        )
    total = size(sum(entry.size_bytes for entry in entries))
    _say(call, f"{len(entries)} modules, {total}, in {cache.base}\n")
    return 0


def _cache_path(call: Call, cache: pipeline.Store) -> int:
    key = call.arguments["key"]
    path = cache.find(key, call.renderer).path if key else cache.base
    _print(_document({"path": str(path)}) if call.request.json else f"{path}\n")
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
    _print(_document({"sound": sound}) if call.request.json else f"{sound} modules, all sound\n")
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
        _print(_document({"removed": keys, "bytes": octets}))
    else:
        _print(f"{len(entries)} modules removed, {size(octets)}\n")
    return 0


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


def _start(call: Call) -> pipeline.Job:
    return pipeline.start(call.request, call.environ, Path.cwd(), call.renderer)


def _remember(call: Call, job: pipeline.Job, results: Sequence[pipeline.Built]) -> None:
    """Leave a record for the same command again, where its answer cannot change by itself."""
    request = call.request
    files = pipeline.depends_on(job)
    if request.verbose or request.rebuild or request.output or not files:
        return
    warm = [replace(result, cached=True, seconds=0.0) for result in results]
    replay.record(
        call.argv,
        call.environ,
        base=str(job.store.base),
        files=[*map(str, files), *(str(result.path) for result in warm)],
        used=[str(result.path.with_name("manifest.json")) for result in warm],
        stdout=_built_output(call, warm),
        stderr="".join(call.renderer.shown) + ("" if request.quiet else _built_text(warm)),
    )


def _document(fields: Mapping[str, Any]) -> str:
    return json.dumps({**fields, "schema": 1}, indent=2, ensure_ascii=False) + "\n"


def _print(text: str) -> None:
    sys.stdout.write(text)


def _say(call: Call, text: str) -> None:
    if not call.request.quiet:
        sys.stderr.write(text)


_CACHE_ACTIONS: Mapping[str, Callable[[Call, pipeline.Store], int]] = {
    "list": _cache_list,
    "path": _cache_path,
    "verify": _cache_verify,
    "prune": _cache_prune,
    "clear": _cache_clear,
}

COMMANDS: Mapping[str, Callable[[Call], int]] = {
    "build": _build,
    "plan": _plan,
    "detect": _detect,
    "inspect": _inspect,
    "cache": _cache,
}
