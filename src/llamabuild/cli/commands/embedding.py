"""``llamabuild embed``."""

from __future__ import annotations

from pathlib import Path

from llamabuild.cli.commands.call import Call, document, say, show
from llamabuild.errors import UsageError
from llamabuild.pipeline.embedding import Embedded

__all__ = ["embed"]


def embed(call: Call) -> int:
    from llamabuild.pipeline import embedding

    job = call.start()
    named, module = Path(call.arguments["llamafile"]), call.arguments["module"]
    if call.request.remove:
        done = embedding.remove_module(job, named, module)
    elif module is None:
        raise UsageError(
            "embed needs a module to put into the llamafile",
            hint="llamabuild embed LLAMAFILE MODULE, or embed --remove LLAMAFILE [NAME]",
        )
    else:
        done = embedding.embed_module(job, named, module)
    call.renderer.close()
    if call.request.json:
        show(document(done.to_json()))
        return 0
    say(call, _text(done))
    if not done.dry_run:
        show(f"{done.change.path}\n")
    return 0


def _text(done: Embedded) -> str:
    change = done.change
    if change.action == "unchanged":
        lines = [f"{change.name} in {change.path} is this very module already"]
    else:
        action = {"added": "add", "replaced": "replace", "removed": "remove"}[change.action]
        words = f"would {action}" if done.dry_run else change.action
        sizes = f"{change.size_before:,} -> {change.size_after:,} bytes"
        lines = [f"{words} {change.name} in {change.path} ({sizes})"]
    if done.record and change.dropped:
        lines.append("  the one that was inside is kept: llamabuild rollback brings it back")
    lines += [f"  note: {remark}" for remark in done.remarks]
    return "\n".join(lines) + "\n"
