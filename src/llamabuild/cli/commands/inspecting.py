"""``llamabuild inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llamabuild import pipeline
from llamabuild.cli.commands.call import Call, document, say, show, table, write
from llamabuild.errors import UsageError

__all__ = ["inspect"]


def inspect(call: Call) -> int:
    from llamabuild import arch, inspect
    from llamabuild.inspect import page, report

    request, cards = call.request, arch.products()
    file, other = Path(call.arguments["file"]), call.arguments["other"]
    _refuse_idle(call, file)
    module = inspect.read_module(file)
    if other is not None:
        comparison = inspect.compare(module, inspect.read_module(Path(other)))
        text = "\n".join(comparison.lines) + "\n"
        show(document(comparison.document) if request.json else text)
        return 0
    if request.html is not None:
        write(request.html, page.page(module, cards))
        say(call, f"{request.html} was written\n")
    asked = {name: pipeline.gpu_architecture(name) for name in request.gpus}
    if request.kernels is not None:
        _kernels(call, report.matching(module, request.kernels))
    elif request.json:
        show(document(report.document(module, cards, asked)))
    elif asked:
        for name, architecture in asked.items():
            names = report.named_first(cards.get(architecture, ()), name)
            show("\n".join(report.explain(module, architecture, names)) + "\n")
    else:
        show("\n".join(report.summary(module)) + "\n")
        if module.entries:
            show("\n" + table(report.gpu_rows(module, cards)))
    return 0


def _refuse_idle(call: Call, file: Path) -> None:
    """Refuse what would not be heeded, and a page that would take the module's place."""
    request = call.request
    for option in ("gpus", "kernels", "html"):
        if call.arguments["other"] is not None and getattr(request, option):
            raise UsageError(
                f"{request.origin(option)} is about one module, and two are compared",
                hint="leave the one or the other out",
            )
    if request.kernels is not None and request.gpus:
        raise UsageError(
            "--kernels shows every architecture, and --gpu asks for one",
            hint="leave one of the two out",
        )
    page = None if request.html is None else Path(request.html)
    if page is not None and page.exists() and file.exists() and page.samefile(file):
        raise UsageError(f"--html would overwrite {file}", hint=f"--html {file.name}.html")


def _kernels(call: Call, found: Sequence[tuple[str, Mapping[str, str]]]) -> None:
    if call.request.json:
        show(document({"kernels": [{"name": name, "traps": traps} for name, traps in found]}))
        return
    for name, traps in found:
        states = ", ".join(f"{label} {trap}" for label, trap in traps.items())
        show(f"{name}\n    {states}\n")
    if not found:
        say(call, f"no kernel's name holds {call.request.kernels!r}\n")
