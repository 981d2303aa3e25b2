"""Modules and their coverage as documents and lines of text. Pure; others print.

``cards`` is what the names table of :mod:`llamabuild.arch` holds: product names by architecture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llamabuild.inspect.coverage import Coverage, Runs, coverage, gained
from llamabuild.inspect.demangle import demangle, family
from llamabuild.inspect.hosts import flavor, hosts
from llamabuild.inspect.model import Entry, Module

__all__ = [
    "Cards",
    "capability",
    "document",
    "examples",
    "explain",
    "gpu_rows",
    "matching",
    "named_first",
    "relevant",
    "summary",
]

Cards = Mapping[str, Sequence[str]]

_RUNS: Mapping[Runs, str] = {
    "native": "yes",
    "older": "as an older GPU",
    "jit": "after compiling at the first start",
    "no": "no",
}


def document(
    module: Module, cards: Cards, asked: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``inspect FILE --json`` prints.

    :param asked: architectures by what the user calls the GPU, to be told of in place of ``cards``.
    """
    gpus = [
        (name, arch) for arch, names in cards.items() if relevant(module, arch) for name in names
    ]
    if asked:
        gpus = list(asked.items())
    covered = {arch: coverage(module, arch) for arch in dict.fromkeys(arch for _, arch in gpus)}
    return {
        "schema": 1,
        "file": str(module.path),
        "format": module.format,
        "machine": module.machine,
        "backend": module.backend,
        "flavor": flavor(module),
        "sha256": module.sha256,
        "size_bytes": module.size_bytes,
        "build_id": module.build_id or None,
        "stripped": module.stripped,
        "entries": [_entry_document(entries) for entries in _by_architecture(module)],
        "coverage": [_coverage_document(name, covered[arch]) for name, arch in gpus],
        "symbols": list(module.exported),
        "undefined": list(module.undefined),
        "needed": list(module.needed),
        "soname": module.soname or None,
        "runpath": list(module.runpath),
        "glibc": module.glibc or None,
        "glibcxx": module.glibcxx or None,
        "cxx_runtime": module.cxx_runtime or None,
        "ggml_version": module.ggml_version or None,
        "ggml_commit": module.ggml_commit or None,
        "loadable_by": [
            {"program": host.program, "first": host.first or None, "last": host.last or None}
            for host in hosts(module)
        ],
        "notes": list(module.notes),
    }


def _entry_document(entries: Sequence[Entry]) -> dict[str, Any]:
    return {
        "kind": entries[0].kind,
        "arch": entries[0].arch,
        "kernels": _count(entries),
        "trapped": _count(entries, "trapped"),
        "suspect": _count(entries, "suspect"),
        "size_bytes": sum(entry.size_bytes for entry in entries),
        "cuda": _cuda(entries) or None,
    }


def _coverage_document(gpu: str, found: Coverage) -> dict[str, Any]:
    return {
        "gpu": gpu,
        "arch": found.arch,
        "runs": found.runs,
        "entry": ", ".join(found.entries) or None,
        "kernels": found.kernels,
        "trapped": None if found.trapped is None else len(found.trapped),
        "missing": len(found.missing),
        "min_driver": found.min_driver,
        "override": found.override or None,
    }


def summary(module: Module) -> list[str]:
    """A few lines about the file, then one for each architecture in it."""
    kinds = {"elf": "ELF", "pe": "PE"}
    facts = [f"{kinds[module.format]} for {module.machine}", _size(module.size_bytes)]
    if (kind := flavor(module)) is not None:
        facts.append(kind)
    facts.append("stripped" if module.stripped else "not stripped")
    lines = [f"{module.path}: {', '.join(facts)}", f"sha256 {module.sha256}"]
    if module.build_id:
        lines.append(f"build id {module.build_id}")
    lines.append(f"needs {', '.join(module.needed) or 'no library'}")
    if module.glibc:
        runtime = f", libstdc++ with GLIBCXX_{module.glibcxx}" if module.glibcxx else ""
        lines.append(f"needs glibc {module.glibc}{runtime} or newer")
    if module.cxx_runtime:
        lines.append(f"C++ runtime: {module.cxx_runtime}")
    if module.ggml_version:
        commit = f", commit {module.ggml_commit}" if module.ggml_commit else ""
        lines.append(f"ggml {module.ggml_version}{commit}")
    if kind not in (None, "bundled"):
        count = sum(name.startswith("ggml_") for name in module.exported)
        lines.append(f"exports {count} functions of ggml, loads into {_hosts(module)}")
    if not module.entries:
        return [*lines, "It holds no code for a GPU."]
    return [*lines, "", *(_entry_line(entries) for entries in _by_architecture(module))]


def _hosts(module: Module) -> str:
    found = hosts(module)
    ranges = [host.releases for host in found if host.program == "llamafile"]
    programs = []
    if any(host.program == "llama.cpp" for host in found):
        programs.append("llama.cpp, beside the ggml libraries that it was compiled with")
    if len(ranges) > 1:
        *others, last = ranges
        words = f"{', '.join(others)} or {last}, the one that its sources are of"
        programs.append(f"llamafile {words}")
    elif ranges:
        modern = ", if its sources are llamafile's own" if ranges[0].endswith("later") else ""
        programs.append(f"llamafile {ranges[0]}{modern}")
    return "; ".join(programs) or "no released llamafile, nor llama.cpp"


def _entry_line(entries: Sequence[Entry]) -> str:
    first = entries[0]
    what = {"sass": "machine code", "ptx": "PTX", "gcn": "machine code"}[first.kind]
    size = _size(sum(entry.size_bytes for entry in entries))
    made = f", by CUDA {cuda}" if (cuda := _cuda(entries)) else ""
    kernels = _count(entries)
    if kernels is None:
        return f"{first.label}: {what}, {size}{made}, kernels unknown"
    words = f"{first.label}: {what}, {size}{made}, {kernels} kernels"
    trapped = _count(entries, "trapped")
    if trapped is None:
        return f"{words}, traps unknown"
    words += f", {trapped} of them give up" if trapped else ""
    suspect = _count(entries, "suspect")
    return f"{words}, {suspect} may" if suspect else words


def gpu_rows(module: Module, cards: Cards) -> list[tuple[str, ...]]:
    """A table, its first row the heads: one row for each architecture, all cells short."""
    rows: list[tuple[str, ...]] = [("GPU", "for example", "runs", "code", "give up", "driver")]
    for arch, names in cards.items():
        if not relevant(module, arch):
            continue
        found = coverage(module, arch)
        trapped = "?" if found.trapped is None else f"{len(found.trapped)} of {found.kernels}"
        rows.append(
            (
                capability(arch),
                examples(names),
                _RUNS[found.runs] + (f" (override {found.override})" if found.override else ""),
                ", ".join(found.entries) or "-",
                "-" if found.runs == "no" or found.trapped == () else trapped,
                found.min_driver or "-",
            )
        )
    return rows


def explain(module: Module, arch: str, names: Sequence[str]) -> list[str]:
    """What happens on one architecture, why, and what to do about it."""
    found = coverage(module, arch)
    who = f"{capability(arch)} ({examples(names)})" if names else capability(arch)
    if not module.entries:
        return [f"{who}: the file holds no code for a GPU"]
    cure = f"Cure: llamabuild --arch {arch.partition(':')[0]} …"
    if found.runs == "no":
        lines = [f"{who}: nothing in this module runs there"]
        if found.override:
            lines.append(f"HSA_OVERRIDE_GFX_VERSION={found.override} would run the code of its kin")
        return [*lines, cure]
    code = " and ".join(found.entries)
    how = {
        "native": f"runs the code made for it ({code})",
        "older": f"runs the code made for {code}",
        "jit": f"runs the PTX of {code}, which the driver compiles at the first start",
        "no": "",
    }[found.runs]
    driver = f"; needs driver {found.min_driver} or newer" if found.min_driver else ""
    if found.trapped is None:
        return [f"{who}: {how}{driver}; which kernels give up is unknown"]
    if not found.trapped and not found.missing:
        return [f"{who}: {how}{driver}; no kernel gives up"]
    lines = []
    if found.trapped:
        share = f"{len(found.trapped)} of {found.kernels} kernels give up"
        lines += [f"{who}: {how}{driver}; {share}, among them", *_families(found.trapped)]
    if found.missing:
        share = f"{len(found.missing)} of the kernels that other GPUs have are missing"
        lines += [f"{who}: {how}{driver}; {share}, among them", *_families(found.missing)]
    if found.runs == "native":
        return [*lines, "The source has none of these for this GPU, and its host code should know."]
    if lacking := [what for made_for in found.entries for what in gained(made_for, arch)]:
        lines.append(f"The code was made without {', '.join(dict.fromkeys(lacking))}.")
    return [*lines, cure]


def _families(names: Iterable[str], most: int = 6) -> list[str]:
    """Kernels by family, the largest first, each with one example."""
    counts: Counter[str] = Counter()
    example: dict[str, str] = {}
    for name in names:
        counts[family(name)] += 1
        example.setdefault(family(name), demangle(name))
    lines = [
        "    " + (example[kind] if count == 1 else f"{count} of {kind}, such as {example[kind]}")
        for kind, count in counts.most_common(most)
    ]
    rest = len(counts) - most
    return [*lines, f"    and of {rest} other families"] if rest > 0 else lines


def matching(module: Module, pattern: str) -> list[tuple[str, dict[str, str]]]:
    """Kernels whose readable name holds ``pattern`` (``*`` and ``?`` as in a shell).

    :returns: readable name, and for each architecture what :class:`Kernel` says about its trap.
    """
    from fnmatch import fnmatchcase

    wanted = pattern if any(letter in pattern for letter in "*?[") else f"*{pattern}*"
    found: dict[str, dict[str, str]] = {}
    for entry in module.entries:
        for kernel in entry.kernels or ():
            name = demangle(kernel.name)
            if fnmatchcase(name, wanted):
                found.setdefault(name, {})[entry.label] = kernel.trap
    return sorted(found.items())


def capability(arch: str) -> str:
    """``6.1`` for "61"; an AMD target as it is."""
    number = arch.rstrip("af")
    return arch if arch.startswith("gfx") else f"{number[:-1]}.{arch[len(number) - 1 :]}"


def _by_architecture(module: Module) -> list[list[Entry]]:
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in module.entries:
        groups.setdefault((entry.kind, entry.arch), []).append(entry)
    return list(groups.values())


def _count(entries: Iterable[Entry], trap: str = "") -> int | None:
    """Kernels, or those with a certain trap; None where that is unknown for one of them."""
    total = 0
    for entry in entries:
        if entry.kernels is None:
            return None
        if trap and any(kernel.trap == "unknown" for kernel in entry.kernels):
            return None
        total += sum(not trap or kernel.trap == trap for kernel in entry.kernels)
    return total


def _cuda(entries: Iterable[Entry]) -> str:
    versions = sorted({entry.cuda for entry in entries if entry.cuda is not None})
    return ", ".join(f"{major}.{minor}" for major, minor in versions)


def relevant(module: Module, arch: str) -> bool:
    """NVIDIA's cards for a CUDA module, AMD's for a HIP one."""
    return module.backend is not None and (module.backend == "hip") == arch.startswith("gfx")


def named_first(names: Sequence[str], asked: str) -> list[str]:
    """Put the names that hold what the user calls the GPU first, the ones ending in it foremost."""
    wanted = asked.casefold()
    return sorted(
        names,
        key=lambda name: (not name.casefold().endswith(wanted), wanted not in name.casefold()),
    )


def examples(names: Sequence[str], most: int = 2) -> str:
    """``RTX 4090, RTX 4090 D, …``."""
    short = [name.removeprefix("GeForce ").removeprefix("Radeon ") for name in names[:most]]
    return ", ".join(short) + (", …" if len(names) > most else "")


def _size(octets: int) -> str:
    return f"{octets / 1e6:.1f} MB" if octets >= 1e6 else f"{octets / 1e3:.1f} kB"
