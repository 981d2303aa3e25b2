"""``llamabuild verify`` and ``llamabuild bench``: run a module on the GPU that is there."""

from __future__ import annotations

from llamabuild import pipeline
from llamabuild.cli.commands.call import Call, complain, document, say, show, table
from llamabuild.errors import UsageError
from llamabuild.verify import Timings, Verdict

__all__ = ["bench", "verify"]


def verify(call: Call) -> int:
    from llamabuild import verify

    request = call.request
    job = call.start()
    module = pipeline.module_to_try(job, call.arguments["module"], request.device)
    verdict = verify.verify(
        module,
        device=request.device,
        types=_names(request.types),
        source=pipeline.source_to_try(job, module),
        environ=call.environ,
        time_limit=float(request.time_limit),
        notify=call.renderer,
    )
    call.renderer.close()
    show(document(verdict.to_json()) if request.json else _verdict_text(verdict))
    if verdict.error is None:
        return 0
    complain(verdict.error)
    return verdict.error.exit_code


def bench(call: Call) -> int:
    from llamabuild import verify

    request = call.request
    job = call.start()
    timings = verify.bench(
        pipeline.module_to_try(job, call.arguments["module"], request.device),
        device=request.device,
        types=_names(request.types),
        columns=[_number(word, "--columns 1,8,512") for word in _names(request.columns)],
        shapes=[_shape(word) for word in _names(request.shapes)],
        environ=call.environ,
        time_limit=float(request.time_limit),
        notify=call.renderer,
    )
    call.renderer.close()
    if request.json:
        show(document(timings.to_json()))
        return 0
    say(call, _bench_text(timings))
    show(table(timings.table))
    return 0


def _verdict_text(verdict: Verdict) -> str:
    lines = "".join(f"{line}\n" for line in (str(verdict.path), *verdict.summary))
    rows = verdict.table
    return lines + (f"\n{table(rows)}" if rows else "")


def _bench_text(timings: Timings) -> str:
    copied = timings.copy_bytes_per_second / 1e9
    return f"{timings.path}\n{timings.card}\na copy moves {copied:.0f} GB/s, read and written\n\n"


def _names(text: str | None) -> list[str]:
    return (text or "").replace(",", " ").split()


def _number(word: str, example: str) -> int:
    if not word.isdecimal() or not 0 < int(word) < 1 << 19:
        flag, _, _ = example.partition(" ")
        raise UsageError(f"{flag}: {word!r} is no number of columns or rows", hint=example)
    return int(word)


def _shape(word: str) -> tuple[int, int]:
    rows, times, columns = word.lower().partition("x")
    example = "--shapes 4096x14336"
    if not times:
        raise UsageError(f"--shapes: {word!r} is no shape", hint=example)
    return _number(rows, example), _number(columns, example)
