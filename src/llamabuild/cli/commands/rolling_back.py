"""``llamabuild rollback``."""

from __future__ import annotations

from pathlib import Path

from llamabuild.cli.commands.call import Call, document, say, show, table

__all__ = ["rollback"]


def rollback(call: Call) -> int:
    from llamabuild.pipeline import returning

    job = call.start()
    named = Path(call.arguments["llamafile"])
    if call.request.list_changes:
        rows = returning.changes(job, named)
        if call.request.json:
            show(document({"changes": [row.to_json() for row in rows]}))
            return 0
        header = ("n", "when", "what", "where", "was there before", "put there")
        show(table([header, *(row.cells for row in rows)]))
        return 0
    done = returning.roll_back(job, named)
    call.renderer.close()
    if call.request.json:
        show(document(done.to_json()))
        return 0
    would = "would be " if call.request.dry_run else ""
    back = done.plan.files[done.plan.module].sha256
    place = f"{done.plan.module} in {done.plan.target}"
    say(
        call,
        f"{place} {would or 'is '}what it was: {back[:12]}\n"
        if back
        else f"{place} {would or 'was '}removed: none was there before\n",
    )
    return 0
