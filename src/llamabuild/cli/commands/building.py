"""``llamabuild build`` and ``llamabuild plan``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from llamabuild import pipeline, replay
from llamabuild.cli.commands.call import Call, document, say, show
from llamabuild.cli.render import duration, size
from llamabuild.planning import Plan

__all__ = ["build", "plan"]


def build(call: Call) -> int:
    if call.request.dry_run:
        return plan(call)
    job = pipeline.plan(call.start())
    notes = "".join(call.renderer.shown)  # what follows is about this run, not about the answer
    results = pipeline.build(job)
    say(call, _built_text(results))
    stdout = _built_output(call, results)
    show(stdout)
    _remember(call, job, results, notes)
    return 0


def _built_output(call: Call, results: Sequence[pipeline.Built]) -> str:
    if call.request.json:
        return document({"artifacts": [result.to_json() for result in results]})
    return "".join(f"{result.path}\n" for result in results)


def _built_text(results: Iterable[pipeline.Built]) -> str:
    lines = []
    for result in results:
        archs = " ".join(str(arch) for arch in result.plan.archs)
        octets = size(result.artifact.manifest["size_bytes"])
        how = "from the cache" if result.cached else f"built in {duration(result.seconds)}"
        lines.append(f"{result.plan.module} for {archs}: {octets}, {how}\n")
    return "".join(lines)


def plan(call: Call) -> int:
    plans = pipeline.plan(call.start()).plans
    if call.request.json:
        show(document({"plans": [plan.describe() for plan in plans]}))
        return 0
    show("\n".join(_planned_text(plan) for plan in plans))
    return 0


def _planned_text(plan: Plan) -> str:
    described = plan.describe()
    source, toolkit = described["source"], described["toolkit"]
    compiler = described["host_compiler"]
    rows = {
        "module": f"{plan.module} ({plan.flavor})",
        "archs": " ".join(described["archs"]),
        "source": f"{source['kind']} {source['version'] or '(unknown version)'}, "
        f"{source['digest'][:12]}",
        "toolkit": f"{'HIP' if plan.backend == 'hip' else 'CUDA'} {toolkit['version']}, "
        f"{toolkit['path']} ({toolkit['found_via']})",
        "compiler": f"{compiler['kind']} {compiler['version']}, {compiler['path']}",
        "defines": " ".join(plan.defines),
        "flags": " ".join(plan.device_flags),
        "cmake": " ".join(f"-D{option}" for option in plan.cmake_options),
        "key": plan.key,
    }
    return "".join(f"{name + ':':10}{text}\n" for name, text in rows.items() if text)


def _remember(call: Call, job: pipeline.Job, results: Sequence[pipeline.Built], notes: str) -> None:
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
        stderr=notes + ("" if request.quiet else _built_text(warm)),
    )
