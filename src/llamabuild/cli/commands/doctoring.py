"""``llamabuild doctor``."""

from __future__ import annotations

from pathlib import Path

from llamabuild.cli.commands.call import Call, document, show
from llamabuild.doctor import Report, Surroundings, examine
from llamabuild.errors import ModuleRejectedError
from llamabuild.toolchain import Machine

__all__ = ["doctor"]


def doctor(call: Call) -> int:
    here = Surroundings(call.environ, _here(), Machine.here(), cache_dir=call.request.cache_dir)
    report = examine(here)
    show(document(report.to_json()) if call.request.json else _text(report, call.request.quiet))
    in_trouble = report.status == "trouble"
    return ModuleRejectedError.exit_code if call.request.strict and in_trouble else 0


def _here() -> Path:
    """The working folder, or the root where it was removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path("/")


def _text(report: Report, quiet: bool) -> str:
    """One line for each finding, and below it what mends it; quiet: only what is not well."""
    lines: list[str] = []
    for section in report.sections:
        found = [line for line in section.lines if line.status != "ok" or not quiet]
        if found:
            lines.append(section.name)
        for line in found:
            lines.append(f"  {line.status:8} {line.text}".replace("\n", f"\n{'':11}"))
            if line.cure:
                lines.append(f"{'':11}try: {line.cure}")
    counts = [
        sum(line.status == status for section in report.sections for line in section.lines)
        for status in ("trouble", "note")
    ]
    lines.append(f"trouble: {counts[0]}, notes: {counts[1]}")
    return "".join(f"{line}\n" for line in lines)
