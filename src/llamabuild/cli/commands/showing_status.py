"""``llamabuild status``."""

from __future__ import annotations

from pathlib import Path

from llamabuild.cli.commands.call import Call, document, say, show
from llamabuild.cli.render import size
from llamabuild.pipeline.overview import Row, Standing

__all__ = ["status"]

_WHOSE = {"ours": "put there by llamabuild", "shipped": "shipped", "unknown": "origin unknown"}


def status(call: Call) -> int:
    from llamabuild.pipeline import overview

    job = call.start()
    found = overview.status(job, [Path(path) for path in call.arguments["paths"] or ()])
    call.renderer.close()
    if call.request.json:
        show(document({"found": [one.to_json() for one in found]}))
        return 0
    if not found:
        say(call, "no llamafile here, and no module in ~/.llamafile\n")
    for one in found:
        show("\n".join([_title(one), *_lines(one)]) + "\n")
    return 0


def _title(one: Standing) -> str:
    llamafile = one.seen.llamafile
    if llamafile is None:
        return f"{one.seen.path}\n  {one.seen.problem}"
    return f"{one.seen.path}: llamafile {llamafile.version} (by {llamafile.told_by})"


def _lines(one: Standing) -> list[str]:
    lines = [_line(row) for row in one.rows]
    lines += [f"  it would compile its own ggml-{name} module" for name in one.seen.compiles]
    if one.seen.llamafile is not None and not lines:
        lines.append("  no module")
    return lines


def _line(row: Row) -> str:
    found = row.found
    where = f"{found.inside} inside" if found.inside else str(found.path)
    turn = "taken" if row.active else "not taken" if found.turn is None else "tried later"
    words = [f"  {turn}: {where}, {size(found.size_bytes)}, {_WHOSE[found.whose]}"]
    words += [f"    on {name}: {verdict}" for name, verdict in row.verdicts.items()]
    return "\n".join(words)
