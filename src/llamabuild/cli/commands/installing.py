"""``llamabuild install``."""

from __future__ import annotations

from pathlib import Path

from llamabuild.cli.commands.call import Call, document, say, show
from llamabuild.pipeline.delivery import Installed

__all__ = ["install"]


def install(call: Call) -> int:
    from llamabuild.pipeline import delivery

    job = call.start()
    done = delivery.install_module(job, Path(call.arguments["llamafile"]))
    call.renderer.close()
    if call.request.json:
        show(document(done.to_json()))
        return 0
    say(call, _text(done))
    if not done.dry_run:
        show(f"{done.delivery.target if done.delivery.embeds else done.delivery.place.path}\n")
    return 0


def _text(done: Installed) -> str:
    delivery = done.delivery
    lines = []
    place = f"{delivery.place.path.name} in {delivery.target}"
    if done.dry_run:
        lines.append(f"would put {place}")
    elif done.record is None:
        lines.append(f"{place} is this very module already")
    else:
        lines.append(f"put {place}")
    if delivery.replaces.sha256 and (done.record or done.dry_run):
        kept = "would be kept" if done.dry_run else "is kept: llamabuild rollback brings it back"
        lines.append(f"  the one that was there ({delivery.replaces.sha256[:12]}) {kept}")
    if delivery.sources:
        lines.append(
            f"  {len(delivery.sources)} sources {'to be ' if done.dry_run else ''}unpacked beside "
            "it, or llamafile would not take it"
        )
    lines += [f"  note: {remark}" for remark in delivery.remarks]
    return "\n".join(lines) + "\n"
