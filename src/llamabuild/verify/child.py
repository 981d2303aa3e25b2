"""The program in which a module is loaded: a crash or a hang of a driver ends it, and only it.

    python -P -m llamabuild.verify.child REPORT JOB

It writes one JSON object a line to the file REPORT; stdout and stderr belong to the module and the
driver. JOB is a JSON object: ``action`` ("multiply" or "time"), ``module``, ``device``, ``types``,
and for "time" ``columns`` and ``shapes``.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

__all__ = ["main"]

#: What tells a flavor, and who loads it. The first found decides.
FLAVORS = (
    ("bundled", "llamabuild_version"),
    ("classic", "ggml_cuda_link"),
    ("backend-dl", "ggml_backend_init"),  # made by GGML_BACKEND_DL alone
    ("self-contained", "ggml_backend_cuda_init"),
)
#: What every classic loader from 0.6 to 0.9.3, and every one of ggml, looks up.
SYMBOLS = {
    "classic": (
        "ggml_cuda_link",
        "ggml_backend_cuda_init",
        "ggml_backend_cuda_buffer_type",
        "ggml_backend_cuda_host_buffer_type",
    ),
    "backend-dl": ("ggml_backend_init",),
    "self-contained": ("ggml_backend_cuda_init", "ggml_backend_cuda_get_device_count"),
}
_RTLD_LAZY = 1

Report: TypeAlias = Callable[[dict[str, Any]], None]


def main(arguments: Sequence[str]) -> int:
    path, job = Path(arguments[0]), json.loads(arguments[1])
    with path.open("w", encoding="utf-8") as file:

        def report(line: dict[str, Any]) -> None:
            file.write(json.dumps(line) + "\n")
            file.flush()  # the next call may be the last

        return _run(job, report)


def _run(job: dict[str, Any], report: Report) -> int:
    report({"ready": True})
    try:
        library = _open(job["module"])
    except OSError as error:
        report({"cannot_load": str(error)})
        return 0
    flavor = next((name for name, symbol in FLAVORS if hasattr(library, symbol)), "")
    if not flavor:
        report({"foreign": [symbol for _, symbol in FLAVORS]})
        return 0
    wanted = SYMBOLS.get(flavor, ())
    if flavor == "bundled":
        try:
            from llamabuild.verify import kernels, products, timing  # noqa: F401
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is not the module's fault
            report({"unusable": f"{type(error).__name__}: {error}"})
            return 0
        wanted = tuple(f"llamabuild_{name}" for name in kernels.SYMBOLS)
    missing = [name for name in wanted if not hasattr(library, name)]
    report({"flavor": flavor, "symbols": len(wanted), "missing": missing})
    if missing:
        return 0
    if flavor == "bundled":
        _bundled(kernels.Kernels(library, job["device"]), job, report)
    elif hasattr(library, "ggml_backend_cuda_get_device_count") and flavor != "classic":
        report({"doing": "counting the GPUs"})
        report({"devices": _count(library)})
    report({"end": True})
    return 0


def _open(path: str) -> ctypes.CDLL:
    """Load a module as its users' programs do: lazily, which ctypes itself does not."""
    if sys.platform == "win32":
        return ctypes.CDLL(path)
    loader = ctypes.CDLL(None)
    loader.dlopen.restype, loader.dlerror.restype = ctypes.c_void_p, ctypes.c_char_p
    loader.dlopen.argtypes = [ctypes.c_char_p, ctypes.c_int]
    handle = loader.dlopen(os.fsencode(path), _RTLD_LAZY)
    if not handle:
        raise OSError((loader.dlerror() or b"unknown reason").decode("utf-8", "replace"))
    return ctypes.CDLL(path, handle=handle)


def _count(library: ctypes.CDLL) -> int:
    """Ask a ggml module for its number of devices.

    It may keep to Microsoft's calling convention (llamafile's GGML_CALL), where the callee owns 32
    bytes above its return address: ten arguments that it does not read put them there.
    """
    count: int = library.ggml_backend_cuda_get_device_count(*[0] * 10)
    return count


def _bundled(gpu: Any, job: dict[str, Any], report: Report) -> None:
    from llamabuild.verify.kernels import VERSION, KernelError

    if gpu.version != VERSION:
        report({"failed": f"it has version {gpu.version} of the C interface, not {VERSION}"})
        return
    report({"doing": "counting the GPUs"})
    try:
        report({"devices": gpu.count_devices()})
    except KernelError as error:
        report({"devices": 0, "no_device": str(error)})
        return
    try:
        name, arch, code, _ = gpu.info()
        card = {"index": gpu.device, "name": name}
        report({"card": {**card, "arch": str(arch or ""), "code": str(code or "")}})
        report({"architectures": gpu.architectures})
        for line in _work(gpu, job, report):
            report(line)
    except KernelError as error:
        report({"failed": str(error)})


def _work(gpu: Any, job: dict[str, Any], report: Report) -> Iterator[dict[str, Any]]:
    import numpy as np
    from gguf import GGMLQuantizationType

    from llamabuild.verify.products import check_type, spelled
    from llamabuild.verify.timing import copy_bandwidth, time_type

    def doing(what: str) -> None:
        report({"doing": what})

    kinds = {spelled(kind): kind for kind in map(GGMLQuantizationType, gpu.types)}
    asked = {name.lower() for name in job["types"]}
    yield {"types": list(kinds)}
    if not asked <= {name.lower() for name in kinds}:
        return  # whoever asked knows now what there is
    chosen = [kind for name, kind in kinds.items() if not asked or name.lower() in asked]
    if job["action"] == "multiply":
        seed = np.random.SeedSequence().entropy
        yield {"seed": str(seed)}
        for kind in chosen:
            for row in check_type(gpu, kind, np.random.default_rng(seed), doing):
                yield {"row": asdict(row)}
        return
    doing("copying inside the card's memory")
    bandwidth = copy_bandwidth(gpu)
    yield {"copy_bytes_per_second": bandwidth}
    for m, k in job["shapes"]:
        for kind in chosen:
            for timing in time_type(gpu, kind, (m, k), job["columns"], bandwidth, doing):
                yield {"timing": asdict(timing)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
