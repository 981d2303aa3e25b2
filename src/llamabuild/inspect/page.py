"""One self-contained page: a matrix of GPUs against families of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from llamabuild.inspect.coverage import Coverage, coverage, pick
from llamabuild.inspect.demangle import family
from llamabuild.inspect.model import Kernel, Module
from llamabuild.inspect.report import Cards, capability, examples, relevant, summary

__all__ = ["page"]

#: State -> its sign and what it means. A sign for each, so that no one needs to tell colours apart.
_STATES = {
    "native": ("✓", "runs code made for this GPU"),
    "older": ("≈", "runs code made for an older GPU"),
    "jit": ("⟳", "is compiled by the driver at the first start"),
    "trapped": ("✕", "gives up (how many of the family)"),
    "left-out": ("∅", "gives up, but the source has none for this GPU, and its host should know"),
    "suspect": ("!", "may give up"),
    "unknown": ("?", "unknown"),
    "absent": ("·", "no such kernel for this GPU"),
    "no": ("-", "nothing runs"),
}


def page(module: Module, cards: Cards) -> str:
    """HTML that needs no network and, but for the search boxes, no script."""
    archs = [arch for arch in cards if relevant(module, arch)]
    giving_up = {
        family(kernel.name): False for entry in module.entries for kernel in entry.kernels or ()
    }
    giving_up |= {
        family(kernel.name): True
        for entry in module.entries
        for kernel in entry.kernels or ()
        if kernel.trap == "trapped"
    }
    families = sorted(giving_up, key=lambda name: (not giving_up[name], name))
    legend = "".join(
        f'<li><b class="{state}" aria-hidden="true">{sign}</b>{escape(words)}</li>'
        for state, (sign, words) in _STATES.items()
    )
    template = Path(__file__).with_name("page.html").read_text("utf-8")
    return Template(template).substitute(
        title=escape(module.path.name),
        summary=escape("\n".join(summary(module))),
        legend=legend,
        head="".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in families),
        body="\n".join(_row(module, arch, cards[arch], families) for arch in archs),
    )


def _row(module: Module, arch: str, names: Sequence[str], families: list[str]) -> str:
    found = coverage(module, arch)
    words = escape(" ".join([capability(arch), arch, *names]).lower(), quote=True)
    head = f'<th scope="row">{capability(arch)} {escape(examples(names))}</th>'
    if found.runs == "no" or not families:
        state = "no" if found.runs == "no" else "unknown"
        sign, meaning = _STATES[state]
        span = max(1, len(families))
        cells = f'<td class="{state}" colspan="{span}"><span>{sign} {meaning}</span></td>'
    else:
        kernels = _by_family(module, arch)
        cells = "".join(_cell(name, found, kernels.get(name, [])) for name in families)
    return f'<tr data-names="{words}">{head}{cells}</tr>'


def _cell(name: str, found: Coverage, kernels: list[Kernel]) -> str:
    trapped = sum(kernel.trap == "trapped" for kernel in kernels)
    state: str = found.runs
    if not kernels:
        state = "absent"
    elif trapped:
        state = "left-out" if found.runs == "native" else "trapped"
    elif any(kernel.trap == "unknown" for kernel in kernels):
        state = "unknown"
    elif any(kernel.trap == "suspect" for kernel in kernels):
        state = "suspect"
    sign, meaning = _STATES[state]
    number = f" {trapped}/{len(kernels)}" if trapped else ""
    title = escape(f"{name} on {capability(found.arch)}: {meaning}", quote=True)
    return f'<td class="{state}" title="{title}">{sign}{number}</td>'


def _by_family(module: Module, arch: str) -> dict[str, list[Kernel]]:
    kernels: dict[str, list[Kernel]] = {}
    for container in module.containers:
        _, entry = pick(container, arch)
        for kernel in (entry.kernels or ()) if entry is not None else ():
            kernels.setdefault(family(kernel.name), []).append(kernel)
    return kernels
