"""Time every type at several numbers of columns, the weights in rotation; JSON and a table.

``python speed.py ggml-cuda.so [--types ...] [--columns 1,8,512] [--json FILE]``; with ``--beside``
each product is timed by a self-contained module of ggml's, too, right after ours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from upstream import Upstream

from llamabuild.verify.blocks import FLOATS, QUANTIZED, random_rows
from llamabuild.verify.kernels import Kernels

#: Weights that are read before the first come again: several times any GPU's cache.
ROTATION = 1 << 30
SHAPES = ((4096, 14336), (14336, 4096))


def copy_bandwidth(gpu):
    """Bytes read plus bytes written each second by a large copy."""
    size = 1 << 30
    to, origin = gpu.allocate(size), gpu.allocate(size)
    gpu.fill(origin, 0x5A, size)
    times = [gpu.measure_copy(to, origin, size, 5) for _ in range(5)]
    gpu.close()
    return 2 * size / statistics.median(times) * 1e6


def repeats(n):
    """Products of a run: so many that its beginning and end do not count."""
    return 50 if n > 32 else 300


def time_products(gpu, kind, m, k, columns, rotation, rng, upstream=None):
    """Microseconds by number of columns, medians of seven."""
    rows = random_rows(kind, 256, k, rng)
    size = m * rows.shape[1]
    stride = -(-size // 256) * 256
    copies = max(1, rotation // stride)
    weights = gpu.allocate(copies * stride)
    first = gpu.upload(rows)
    for begin in range(0, copies * stride, rows.nbytes):
        part = min(rows.nbytes, copies * stride - begin)
        gpu.call("copy", gpu.device, weights + begin, first, part)
    widest = max(columns)
    x = gpu.upload(rng.normal(size=(widest, k)).astype(np.float32))
    output = gpu.allocate(widest * m * 4)
    times = {}
    for n in columns:
        product = gpu.product(int(kind), m, n, k, weights=weights, activations=x, output=output)
        gpu.workspace(product)
        gpu.measure(product, copies, stride, 10)
        runs = [gpu.measure(product, copies, stride, repeats(n)) for _ in range(7)]
        times[n] = {
            "path": gpu.path(product), "microseconds": statistics.median(runs),
            "least": min(runs), "most": max(runs),
        }  # fmt: skip
    gpu.close()
    if upstream:
        for n, theirs in upstream.time_products(kind, rows, m, k, copies, columns, repeats).items():
            times[n]["upstream_microseconds"] = theirs
    return size, times


def spelled(time):
    """A product's time; beside it, behind a colon, ggml's."""
    own = f"{time['microseconds']:.1f}"
    if "upstream_microseconds" not in time:
        return own
    theirs = time["upstream_microseconds"]
    return f"{own} : {theirs:.1f}" if theirs else f"{own} : -"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("--types", default="")
    parser.add_argument("--columns", default="1,2,4,8")
    parser.add_argument("--shapes", default=",".join(f"{m}x{k}" for m, k in SHAPES))
    parser.add_argument(
        "--rotation", type=int, default=ROTATION,
        help="bytes of weights in rotation; 0 multiplies the same weights again and again",
    )  # fmt: skip
    parser.add_argument("--beside", type=Path, help="a self-contained module of ggml's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    gpu = Kernels(options.module.resolve())
    upstream = Upstream(options.beside.resolve()) if options.beside else None
    rng = np.random.default_rng()
    wanted = options.types.upper().split(",") if options.types else []
    kinds = [kind for kind in (*QUANTIZED, *FLOATS) if not wanted or kind.name in wanted]
    columns = [int(n) for n in options.columns.split(",")]
    bandwidth = copy_bandwidth(gpu)
    print(gpu.info(), f"copy {bandwidth / 1e12:.2f} TB/s")
    results = []
    for shape in options.shapes.split(","):
        m, k = (int(side) for side in shape.split("x"))
        print(f"m={m} k={k}: microseconds for n = {columns}; share of the copy's bandwidth, n=1")
        for kind in kinds:
            size, times = time_products(gpu, kind, m, k, columns, options.rotation, rng, upstream)
            width = 16 if upstream else 9
            row = "".join(f"{spelled(times[n]):>{width}}" for n in columns)
            first = columns[0]
            share = size / times[first]["microseconds"] * 1e6 / bandwidth
            work = 2 * m * k * columns[-1] / times[columns[-1]]["microseconds"] * 1e-6
            print(f"{kind.name:8}{row}  {share:6.1%}  {work:6.1f} TFLOP/s", flush=True)
            results.append(
                {"type": kind.name, "m": m, "k": k, "weight_bytes": size, "times": times}
            )
    if options.json:
        document = {"device": gpu.info()[0], "copy_bytes_per_second": bandwidth, "runs": results}
        options.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
