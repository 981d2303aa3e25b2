"""``llamabuild inspect``."""

from __future__ import annotations

from pathlib import Path

from llamabuild import pipeline
from llamabuild.cli.commands.call import Call, document, say, show, table, write

__all__ = ["inspect"]


def inspect(call: Call) -> int:
    from llamabuild import arch, inspect
    from llamabuild.inspect import page, report

    request, cards = call.request, arch.products()
    module = inspect.read_module(Path(call.arguments["file"]))
    if call.arguments["other"] is not None:
        comparison = inspect.compare(module, inspect.read_module(Path(call.arguments["other"])))
        text = "\n".join(comparison.lines) + "\n"
        show(document(comparison.document) if request.json else text)
        return 0
    if request.html is not None:
        write(request.html, page.page(module, cards))
        say(call, f"{request.html} was written\n")
    if request.json:
        show(document(report.document(module, cards)))
    elif request.kernels is not None:
        for name, traps in report.matching(module, request.kernels):
            states = ", ".join(f"{label} {trap}" for label, trap in traps.items())
            show(f"{name}\n    {states}\n")
    elif request.gpus:
        for name in request.gpus:
            architecture = pipeline.gpu_architecture(name)
            names = cards.get(architecture, [])
            show("\n".join(report.explain(module, architecture, names)) + "\n")
    else:
        show("\n".join(report.summary(module)) + "\n")
        if module.entries:
            show("\n" + table(report.gpu_rows(module, cards)))
    return 0
