"""Lists the GPUs that libcuda sees, as one line of JSON. Started as a program by ``libcuda``.

Uses the standard library only: it runs in an interpreter that has nothing else.

    python libcuda_child.py NAME_OR_PATH_OF_THE_LIBRARY…
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

__all__ = ["describe"]

# CUdevice_attribute, from cuda.h.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


def describe(
    names: Sequence[str], load: Callable[[str], Any] = ctypes.CDLL
) -> dict[str, str | int | list[dict[str, str | int]]]:
    """Ask the first of the libraries that loads.

    ``status`` is "absent" if none does, else libcuda's result: 0, with ``cuda`` and ``devices``;
    or an error number with its ``text``.
    """
    for name in names:
        try:
            library = load(name)
        except OSError:
            continue
        status = library.cuInit(0)
        if status != 0:
            return {"status": status, "text": _error(library, status)}
        cuda, count = ctypes.c_int(), ctypes.c_int()
        library.cuDriverGetVersion(ctypes.byref(cuda))
        library.cuDeviceGetCount(ctypes.byref(count))
        devices = [_device(library, index) for index in range(count.value)]
        return {"status": 0, "cuda": cuda.value, "devices": devices}
    return {"status": "absent"}


def _device(library: Any, index: int) -> dict[str, str | int]:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    memory = ctypes.c_size_t()
    name, uuid = ctypes.create_string_buffer(256), ctypes.create_string_buffer(16)
    library.cuDeviceGet(ctypes.byref(device), index)
    library.cuDeviceGetName(name, len(name), device)
    library.cuDeviceGetUuid(uuid, device)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    library.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
    library.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
    return {
        "name": name.value.decode("utf-8", "replace"),
        "arch": f"{major.value}{minor.value}",
        "memory_bytes": memory.value,
        "uuid": f"GPU-{UUID(bytes=uuid.raw)}",
    }


def _error(library: Any, status: int) -> str:
    text = ctypes.c_char_p()
    library.cuGetErrorString(status, ctypes.byref(text))
    return (text.value or b"unknown error").decode("utf-8", "replace")


if __name__ == "__main__":
    print(json.dumps(describe(sys.argv[1:])))  # noqa: T201 -- a program of its own
