"""Products of a ``self-contained`` ggml module through ggml's own C API, timed as ours are."""

from __future__ import annotations

import ctypes
import statistics
import time
from ctypes import c_bool, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path

import numpy as np

F32 = 0


class _Parameters(ctypes.Structure):
    """``ggml_init_params``."""

    _fields_ = [("size", c_size_t), ("memory", c_void_p), ("no_data", c_bool)]


#: What is called, without its ``ggml_``: what it returns, what it takes.
_FUNCTIONS = {
    "init": (c_void_p, [_Parameters]),
    "free": (None, [c_void_p]),
    "new_tensor_2d": (c_void_p, [c_void_p, c_int, c_int64, c_int64]),
    "mul_mat": (c_void_p, [c_void_p, c_void_p, c_void_p]),
    "new_graph_custom": (c_void_p, [c_void_p, c_size_t, c_bool]),
    "build_forward_expand": (None, [c_void_p, c_void_p]),
    "tensor_overhead": (c_size_t, []),
    "graph_overhead_custom": (c_size_t, [c_size_t, c_bool]),
    "backend_cuda_init": (c_void_p, [c_int]),
    "backend_supports_op": (c_bool, [c_void_p, c_void_p]),
    "backend_alloc_ctx_tensors": (c_void_p, [c_void_p, c_void_p]),
    "backend_buffer_free": (None, [c_void_p]),
    "backend_tensor_set": (None, [c_void_p, c_void_p, c_size_t, c_size_t]),
    "backend_tensor_copy": (None, [c_void_p, c_void_p]),
    "backend_graph_compute": (c_int, [c_void_p, c_void_p]),
}


class Upstream:
    """A module of ggml on the first GPU.

    :raises AttributeError: it does not export ggml's functions.
    :raises RuntimeError: it finds no GPU.
    """

    def __init__(self, module: Path) -> None:
        library = ctypes.CDLL(str(module))
        self._c = {}
        for name, (returned, taken) in _FUNCTIONS.items():
            function = getattr(library, f"ggml_{name}")
            function.restype, function.argtypes = returned, taken
            self._c[name] = function
        self._backend = self._c["backend_cuda_init"](0)
        if not self._backend:
            raise RuntimeError(f"{module} finds no GPU")

    def time_products(self, kind, rows, m, k, copies, columns, repeats, runs=7):
        """Microseconds by number of columns, medians; none for a product that it cannot compute.

        Each run is one graph of ``repeats(n)`` products, of ``copies`` matrices in rotation.

        :param rows: blocks of some rows of k weights, of which there will be m in each matrix.
        """
        c = self._c
        data = np.tile(rows, (-(-m // len(rows)), 1))[:m]
        times = {}
        for n in columns:
            count = repeats(n)
            room = (count + copies + 4) * 2 * c["tensor_overhead"]()
            room += c["graph_overhead_custom"](2 * count + 8, False)
            context = c["init"](_Parameters(room, None, True))
            weights = [c["new_tensor_2d"](context, int(kind), k, m) for _ in range(copies)]
            x = c["new_tensor_2d"](context, F32, k, n)
            graph = c["new_graph_custom"](context, 2 * count + 8, False)
            products = [c["mul_mat"](context, weights[i % copies], x) for i in range(count)]
            for product in products:
                c["build_forward_expand"](graph, product)
            if not c["backend_supports_op"](self._backend, products[0]):
                c["free"](context)
                times[n] = None
                continue
            buffer = c["backend_alloc_ctx_tensors"](context, self._backend)
            if not buffer:
                raise MemoryError(f"ggml has no room for {copies} matrices and {count} results")
            c["backend_tensor_set"](weights[0], data.ctypes.data, 0, data.nbytes)
            for other in weights[1:]:
                c["backend_tensor_copy"](weights[0], other)
            values = np.random.default_rng().normal(size=(n, k)).astype(np.float32)
            c["backend_tensor_set"](x, values.ctypes.data, 0, values.nbytes)
            taken = []
            for _ in range(runs + 3):  # three to load, and to record the graph
                begin = time.perf_counter()
                if c["backend_graph_compute"](self._backend, graph):
                    raise RuntimeError(f"ggml could not compute {kind.name}, n = {n}")
                taken.append((time.perf_counter() - begin) / count * 1e6)
            times[n] = statistics.median(taken[3:])
            c["backend_buffer_free"](buffer)
            c["free"](context)
        return times
