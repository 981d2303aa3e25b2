"""From what a program reported, and how it ended, to a verdict."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from llamabuild import probe
from llamabuild.errors import ArchitectureError, ModuleRejectedError
from llamabuild.probe import Detection
from llamabuild.verify.model import Card, Row, Unshown, Verdict
from llamabuild.verify.trial import Trial

__all__ = ["judged", "require_gpu"]

#: Libraries of the GPU's driver: where they are missing there is no GPU.
_DRIVER = re.compile(r"(libcuda\.so|nvcuda\.dll|libamdhip64\.so|amdhip64\S*\.dll)", re.IGNORECASE)
#: What a backend-dl module is loaded beside.
_GGML = re.compile(r"libggml-base[^:\s]*")
#: What to do where nobody knows better: with our own kernels, and with others'.
_REBUILD = (
    "build it again, `llamabuild build --source bundled --rebuild`; if it fails again, try another "
    "driver or another --toolkit"
)
_COMPARE = (
    "`llamabuild verify` without a file tries our own kernels on this GPU: if they fail, too, it "
    "is not the module; else build it again with --arch native"
)


def judged(path: Path, device: int, environ: Mapping[str, str], trial: Trial) -> Verdict:
    """Decide what a trial shows.

    :raises ArchitectureError: there is no GPU here, or none with that number.
    """
    flavor = trial.said("flavor", str, "")
    base = _GGML.search(trial.said("cannot_load", str, ""))
    if base:  # nothing is wrong with it: it is not where it is used
        beside = Unshown(
            "loading and products",
            f"it needs {base[0]}, which comes with llama.cpp or ggml",
            f"put it beside {base[0]}, or name that folder in LD_LIBRARY_PATH",
        )
        return Verdict(path, "backend-dl", None, (), (), (beside,), None, "", trial.seconds)
    rows = tuple(row for row in map(_row, trial.all("row")) if row)
    why, hint = (
        _not_loaded(environ, trial)
        or _without_device(device, environ, trial)
        or _ending(trial, rows)
    )
    return Verdict(
        path=path,
        flavor=flavor,
        card=_card(device, environ, trial),
        shown=_shown(flavor, trial),
        rows=rows,
        not_shown=(),
        error=_rejected(
            path, why, hint or (_REBUILD if flavor == "bundled" else _COMPARE), trial.words
        )
        if why
        else None,
        words=trial.words,
        seconds=trial.seconds,
    )


def _rejected(path: Path, why: str, hint: str, words: str) -> ModuleRejectedError:
    said = "\nits last words:\n" + "\n".join(f"  {line}" for line in words.splitlines())
    advice = next((text for pattern, text in _advices() if pattern.search(f"{why}\n{words}")), "")
    return ModuleRejectedError(f"{path} {why}{said if words else ''}", hint=advice or hint)


#: Why a module failed, and what to do where nothing better is known.
Failure: TypeAlias = tuple[str, str]


def _not_loaded(environ: Mapping[str, str], trial: Trial) -> Failure | None:
    cannot_load = trial.said("cannot_load", str, "")
    if cannot_load:
        driver = _DRIVER.search(cannot_load)
        if driver:
            amd = "amdhip" in driver[0].lower()
            require_gpu((probe.detect_amd if amd else probe.detect_nvidia)(environ))
        return f"cannot be loaded: {cannot_load}", "llamabuild inspect shows what it needs"
    foreign = trial.said("foreign", list, [])
    if foreign:
        why = f"is no GPU module: it exports none of {', '.join(map(str, foreign))}"
        return why, "name a module that llamafile or llama.cpp would load"
    missing = trial.said("missing", list, [])
    return (f"lacks {', '.join(map(str, missing))}", "build it again") if missing else None


def _without_device(device: int, environ: Mapping[str, str], trial: Trial) -> Failure | None:
    no_device = trial.said("no_device", str, "")
    devices = trial.said("devices", int, 0 if no_device else device + 1)
    if devices < 1:
        require_gpu(probe.detect_gpus(environ))
        because = f": {no_device}" if no_device else ""
        return f"finds no GPU, where there is one{because}", "llamabuild doctor"
    if device >= devices:
        raise ArchitectureError(
            f"the module sees {_counted(devices)}, and so none of number {device}",
            hint="they are counted from 0: llamabuild detect",
        )
    return None


def _ending(trial: Trial, rows: Sequence[Row]) -> Failure:
    """Why the module failed once it ran; "" if it did not."""
    failed = trial.said("failed", str, "")
    wrong = [row for row in rows if not row.right]
    why, hint = "", ""
    if failed:
        why = f"failed{trial.where}: {failed}"
    elif trial.returncode is None and not trial.ended:
        why = trial.ending
        hint = "--time-limit gives it longer; nvidia-smi shows whether the GPU itself hangs"
    elif trial.returncode == 0 and (trial.damaged or len(rows) < len(trial.all("row"))):
        why = "made the program that runs it write a report that cannot be read"
    elif not trial.ended:
        why = trial.ending
    elif wrong:
        why = _wrongly(wrong, len(rows))
    return why, hint


def require_gpu(detection: Detection) -> None:
    """Blame the machine, if it is to blame.

    :raises ArchitectureError: programs see no GPU here.
    """
    if not detection.gpus:
        raise ArchitectureError(
            f"there is no GPU to run the module on: {detection.problems[0].message}",
            hint="run it on the machine that has the GPU; `llamabuild inspect FILE --gpu 'gtx "
            "1080'` says without one what would happen there",
        )


def _row(line: Any) -> Row | None:
    """A product from a report; none where it is not one."""
    try:
        row = Row(
            type=line["type"],
            m=line["m"],
            n=line["n"],
            k=line["k"],
            path=line.get("path", ""),
            error=line["error"],
            same=line.get("same"),
            right=line["right"] is True,
            form=line.get("form", "plain"),
        )
    except (TypeError, KeyError, AttributeError):
        return None
    numbers = all(isinstance(number, int) for number in (row.m, row.n, row.k))
    errors = all(error is None or isinstance(error, float) for error in (row.error, row.same))
    words = all(isinstance(word, str) for word in (row.type, row.path, row.form))
    return row if numbers and errors and words else None


def _wrongly(wrong: Sequence[Row], count: int) -> str:
    first = wrong[0]
    types = ", ".join(dict.fromkeys(row.type for row in wrong))
    form = f", {first.form}" if first.form != "plain" else ""
    path = f" ({first.path})" if first.path else ""
    off = "not a number" if first.error is None else f"off by {first.error:.1e}"
    return (
        f"multiplies wrongly: {len(wrong)} of {count} products are wrong, of {types}; the first is "
        f"{first.m} x {first.k} times {first.k} x {first.n}{form}{path}, {off}"
    )


def _shown(flavor: str, trial: Trial) -> tuple[str, ...]:
    shown = []
    if flavor and not trial.said("cannot_load", str, ""):
        shown.append(f"loads as a {flavor} module")
    if trial.said("symbols", int, 0) and not trial.said("missing", list, []):
        shown.append(f"exports all {trial.said('symbols', int, 0)} functions that are looked up")
    devices = trial.said("devices", int, 0)
    if devices:
        shown.append(f"finds {_counted(devices)}")
    compiled = trial.said("architectures", str, "")
    if compiled:
        shown.append(f"was compiled for {compiled}")
    return tuple(shown)


def _card(device: int, environ: Mapping[str, str], trial: Trial) -> Card | None:
    """The GPU: as the module names it, else as the driver does."""
    card = trial.said("card", dict, {})
    if {"index", "name", "arch", "code"} <= set(card):
        return Card(card["index"], str(card["name"]), str(card["arch"]), str(card["code"]))
    if trial.said("devices", int, 0) > device:
        gpus = probe.detect_gpus(environ).gpus
        if device < len(gpus) and len({gpu.vendor for gpu in gpus}) == 1:
            return Card(device, gpus[device].name, gpus[device].arch)
    return None


@cache
def _advices() -> list[tuple[re.Pattern[str], str]]:
    with Path(__file__).with_name("advice.toml").open("rb") as file:
        advices = tomllib.load(file)["advice"]
    return [(re.compile(one["pattern"], re.IGNORECASE), one["hint"]) for one in advices]


def _counted(devices: int) -> str:
    return f"{devices} GPU{'s' if devices > 1 else ''}"
