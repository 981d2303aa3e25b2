"""The system itself, and what is special about WSL, a Jetson or a container."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path

from llamabuild import __version__
from llamabuild.doctor.facts import facts
from llamabuild.doctor.model import Line
from llamabuild.doctor.surroundings import Surroundings

__all__ = ["container", "home", "jetson", "packages", "path", "system", "wsl"]

_PATH = "export PATH=/usr/local/bin:/usr/bin:/bin"


def system(here: Surroundings) -> Iterator[Line]:
    machine = here.machine
    yield Line(
        "ok",
        f"llamabuild {__version__} with Python {platform.python_version()} on {machine.system}, "
        f"{machine.processor}",
    )


def packages(_here: Surroundings) -> Iterator[Line]:
    missing = [
        wheel
        for module, wheel in facts()["packages"].items()
        if importlib.util.find_spec(module) is None
    ]
    if missing:
        yield Line(
            "trouble",
            f"{', '.join(missing)} cannot be imported",
            f"pip install {' '.join(missing)}",
        )


def path(here: Surroundings) -> Iterator[Line]:
    if not here.environ.get("PATH"):
        yield Line("note", "PATH is not set: no compiler is found by its name", _PATH)


def home(here: Surroundings) -> Iterator[Line]:
    """Where llamafiles keep their modules; they fall back to the working folder."""
    variable = "USERPROFILE" if here.machine.system == "windows" else "HOME"
    named = here.environ.get(variable) or here.environ.get("HOME")
    cure = facts()["container"]["home"]
    if not named:
        yield Line("note", f"{variable} is not set: llamafiles look for their modules here", cure)
    elif not os.access(named, os.W_OK | os.X_OK):
        why = "cannot be written" if Path(named).is_dir() else "is no folder"
        yield Line("note", f"{variable} is {named}, which {why}: llamafiles need it", cure)


def wsl(here: Surroundings) -> Iterator[Line]:
    release = here.text("proc/sys/kernel/osrelease").strip()
    if "microsoft" not in release.lower():
        return
    cures = facts()["wsl"]
    if "wsl2" not in release.lower() and not here.has("run/WSL"):
        yield Line("trouble", "this is WSL 1, which has no GPUs", cures["version_1"])
        return
    library = f"{cures['libraries']}/libcuda.so.1"
    if not here.has("dev/dxg") or not here.has(library):
        yield Line("trouble", "this is WSL 2, but Windows hands on no GPU", cures["no_gpu"])
        return
    yield Line("ok", f"WSL 2 ({release}) with Windows' driver")
    intruder = _other_libcuda(here)
    if intruder:
        yield Line(
            "trouble",
            f"{intruder} is a Linux driver's and hides Windows' one: no CUDA device is found",
            cures["shadowed"],
        )
    on_path = here.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    if not here.has("etc/ld.so.conf.d/ld.wsl.conf") and f"/{cures['libraries']}" not in on_path:
        yield Line("note", "the driver's folder is on no search path", cures["path"])
    if here.has("proc/sys/fs/binfmt_misc/WSLInterop"):
        yield Line("note", "WSL may start a llamafile as a Windows program", cures["interop"])


def _other_libcuda(here: Surroundings) -> Path | None:
    own = (here.root / facts()["wsl"]["libraries"]).resolve()
    for path in sorted((here.root / "usr/lib").glob("*-linux-gnu/libcuda.so.1")):
        if own not in path.resolve().parents:
            return path
    return None


def jetson(here: Surroundings) -> Iterator[Line]:
    compatible = here.text("proc/device-tree/compatible")
    if "nvidia,tegra" not in compatible:
        return
    cures = facts()["jetson"]
    told = re.search(r"# R(\d+).*?REVISION: ([\d.]+)", here.text("etc/nv_tegra_release"))
    release = f", L4T {told[1]}.{told[2]}" if told else ""
    chip = next(word for word in compatible.split("\0") if word.startswith("nvidia,tegra"))
    yield Line(
        "ok", f"a Jetson ({chip.removeprefix('nvidia,')}{release}): GPU and host share memory"
    )
    yield Line("note", "its driver may refuse large reservations of memory", cures["no_vmm"])
    for toolkit in here.toolkits.toolkits:
        if "sbsa" in str(toolkit.include_dir.resolve()) and "tegra264" not in compatible:
            yield Line(
                "trouble", f"{toolkit.label} is made for servers, not for this chip", cures["sbsa"]
            )


def container(here: Surroundings) -> Iterator[Line]:
    kind = _container(here)
    if not kind:
        return
    yield Line("ok", f"in a container ({kind})")
    cures = facts()["container"]
    devices = here.environ.get("NVIDIA_VISIBLE_DEVICES")
    if devices is not None and devices.strip() in {"", "void", "none"} and not here.gpus:
        yield Line("note", f"NVIDIA_VISIBLE_DEVICES={devices!r} keeps GPUs out", cures["gpus"])
    abilities = here.environ.get("NVIDIA_DRIVER_CAPABILITIES")
    if abilities is not None and not {"all", "compute"} & {
        word.strip() for word in abilities.split(",")
    }:
        yield Line(
            "trouble",
            f"NVIDIA_DRIVER_CAPABILITIES={abilities!r} leaves CUDA's driver library out",
            cures["capabilities"],
        )
    if not here.gpus:
        yield Line(
            "note",
            "no GPU is handed in (docker build never does): --arch native cannot work here",
            "llamabuild --arch auto, or name the GPU: --arch 'rtx 4090'",
        )


def _container(here: Surroundings) -> str:
    if here.has(".dockerenv"):
        return "docker"
    if here.has("run/.containerenv"):
        return "podman"
    if here.environ.get("KUBERNETES_SERVICE_HOST"):
        return "kubernetes"
    if here.environ.get("container"):  # systemd-nspawn, podman, lxc
        return here.environ["container"]
    groups = here.text("proc/1/cgroup")
    return next((kind for kind in ("docker", "kubepods", "lxc") if f"/{kind}" in groups), "")
