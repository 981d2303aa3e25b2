"""A ``bundled`` module through ctypes: one Python class over ``llamabuild_kernels.h``.

Used in a child process and by the benchmarks only: numpy is no dependency of the package itself.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["NO_CODE", "SYMBOLS", "VERSION", "Groups", "KernelError", "Kernels", "Product"]

#: LLAMABUILD_KERNELS_VERSION and LLAMABUILD_NO_CODE.
VERSION, NO_CODE = 1, 3

#: Every function of the header, without its ``llamabuild_``.
SYMBOLS = (
    "version", "last_error", "architectures", "types", "device_count", "device_info", "path",
    "workspace_size", "grouped_workspace_size", "multiply", "multiply_grouped", "quantize",
    "allocate", "release", "upload", "download", "fill", "copy", "synchronize", "measure",
    "measure_copy",
)  # fmt: skip


class Product(ctypes.Structure):
    """``llamabuild_product``."""

    _fields_ = [
        ("size", c_size_t), ("type", c_int32), ("device", c_int32),
        ("m", c_int64), ("n", c_int64), ("k", c_int64),
        ("weights", c_void_p), ("activations", c_void_p), ("output", c_void_p),
        ("activation_stride", c_int64), ("output_stride", c_int64), ("batch", c_int64),
        ("weight_batch_stride", c_int64), ("activation_batch_stride", c_int64),
        ("output_batch_stride", c_int64), ("workspace", c_void_p), ("workspace_size", c_size_t),
        ("stream", c_void_p),
    ]  # fmt: skip


class Groups(ctypes.Structure):
    """``llamabuild_groups``."""

    _fields_ = [
        ("size", c_size_t), ("experts", c_int64), ("count", c_int64),
        ("expert", c_void_p), ("column", c_void_p),
    ]  # fmt: skip


class KernelError(Exception):
    """A call that did not return LLAMABUILD_OK."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{message} (status {status})")
        self.status = status


class Kernels:
    """A built module and one device. Device memory is plain addresses, released by ``close``.

    :param module: its path, or the library where it is loaded already.
    """

    def __init__(self, module: Path | str | ctypes.CDLL, device: int = 0) -> None:
        self._c = module if isinstance(module, ctypes.CDLL) else ctypes.CDLL(str(module))
        for name in ("last_error", "architectures", "path"):
            getattr(self._c, f"llamabuild_{name}").restype = c_char_p
        self._c.llamabuild_path.argtypes = [POINTER(Product)]
        self._c.llamabuild_measure.argtypes = [
            POINTER(Product), c_int, c_int64, c_int, POINTER(c_float)]  # fmt: skip
        self._c.llamabuild_measure_copy.argtypes = [
            c_int, c_void_p, c_void_p, c_size_t, c_int, POINTER(c_float)]  # fmt: skip
        for name in ("upload", "download", "copy"):
            getattr(self._c, f"llamabuild_{name}").argtypes = [c_int, c_void_p, c_void_p, c_size_t]
        self._c.llamabuild_allocate.argtypes = [c_int, c_size_t, POINTER(c_void_p)]
        self._c.llamabuild_release.argtypes = [c_int, c_void_p]
        self._c.llamabuild_fill.argtypes = [c_int, c_void_p, c_int, c_size_t]
        self.device = device
        self._memory: list[int] = []

    def call(self, name: str, *arguments: Any) -> None:
        """Call ``llamabuild_<name>``.

        :raises KernelError: with the library's own message.
        """
        status = getattr(self._c, f"llamabuild_{name}")(*arguments)
        if status:
            raise KernelError(status, self._c.llamabuild_last_error().decode())

    @property
    def architectures(self) -> str:
        """What the module was compiled for."""
        return str(self._c.llamabuild_architectures().decode())

    @property
    def version(self) -> int:
        """Of the C interface."""
        return int(self._c.llamabuild_version())

    @property
    def types(self) -> tuple[int, ...]:
        """The types it multiplies, as ggml numbers them."""
        room = 64
        numbers = (c_int32 * room)()
        count = min(self._c.llamabuild_types(numbers, room), room)
        return tuple(numbers[:count])

    def count_devices(self) -> int:
        """How many GPUs the driver shows it."""
        count = c_int()
        self.call("device_count", byref(count))
        return count.value

    def info(self) -> tuple[str, int, int, int]:
        """(name, compute capability times ten, that of the code that runs, bytes of memory)."""
        name = ctypes.create_string_buffer(256)
        arch, code, memory = c_int(), c_int(), c_int64()
        self.call("device_info", self.device, name, 256, byref(arch), byref(code), byref(memory))
        return name.value.decode(), arch.value, code.value, memory.value

    def allocate(self, size: int) -> int:
        """``size`` bytes of device memory."""
        memory = c_void_p()
        self.call("allocate", self.device, size, byref(memory))
        assert memory.value is not None
        self._memory.append(memory.value)
        return memory.value

    def upload(self, array: npt.NDArray[Any]) -> int:
        """The bytes of ``array`` in device memory."""
        array = np.ascontiguousarray(array)
        memory = self.allocate(array.nbytes)
        self.call("upload", self.device, memory, array.ctypes.data, array.nbytes)
        return memory

    def download(self, memory: int, array: npt.NDArray[Any]) -> None:
        """Fill ``array`` from device memory."""
        self.call("download", self.device, array.ctypes.data, memory, array.nbytes)

    def fill(self, memory: int, byte: int, size: int) -> None:
        """Set ``size`` bytes of device memory."""
        self.call("fill", self.device, memory, byte, size)

    def copy(self, to: int, origin: int, size: int) -> None:
        """Copy inside device memory."""
        self.call("copy", self.device, to, origin, size)

    def close(self) -> None:
        """Release all device memory."""
        while self._memory:
            self.call("release", self.device, self._memory.pop())

    def product(self, kind: int, m: int, n: int, k: int, **fields: int) -> Product:
        """A product without gaps, unless ``fields`` say so."""
        return Product(
            size=ctypes.sizeof(Product), type=kind, device=self.device, m=m, n=n, k=k, **fields
        )

    def workspace(self, product: Product, groups: Groups | None = None) -> None:
        """Give ``product`` the workspace that it needs."""
        size = c_size_t()
        if groups:
            self.call("grouped_workspace_size", byref(product), byref(groups), byref(size))
        else:
            self.call("workspace_size", byref(product), byref(size))
        product.workspace_size = size.value
        product.workspace = self.allocate(size.value) if size.value else None

    def path(self, product: Product) -> str:
        """How ``product`` is computed."""
        name = self._c.llamabuild_path(byref(product))
        if name is None:
            raise KernelError(1, self._c.llamabuild_last_error().decode())
        return str(name.decode())

    def multiply(self, product: Product, groups: Groups | None = None) -> None:
        """Compute, and wait for the result."""
        if groups:
            self.call("multiply_grouped", byref(product), byref(groups))
        else:
            self.call("multiply", byref(product))
        self.call("synchronize", self.device)

    def measure(self, product: Product, copies: int, stride: int, repeats: int) -> float:
        """Microseconds of one product."""
        time = c_float()
        self.call("measure", byref(product), copies, stride, repeats, byref(time))
        return time.value

    def measure_copy(self, to: int, origin: int, size: int, repeats: int) -> float:
        """Microseconds of one copy inside device memory."""
        time = c_float()
        self.call("measure_copy", self.device, to, origin, size, repeats, byref(time))
        return time.value
