"""Compare every type and many awkward shapes with a float64 reference, on a real GPU.

``python check.py ggml-cuda.so [--types q4_0,q4_K] [--quick]``; exit status 1 when a product is off.
More than ``llamabuild verify`` tries: batches, groups, gaps between activations, bad arguments.
"""

from __future__ import annotations

import argparse
import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from llamabuild.verify.blocks import FLOATS, QUANTIZED, random_rows, to_float64
from llamabuild.verify.kernels import Groups, KernelError, Kernels
from llamabuild.verify.products import rounded

#: ||out - ref|| / ||ref|| against the reference with the activations as the path rounds them,
#: and against the exact one; that bound is for large products, since few terms can cancel.
SAME_ACTIVATIONS, EXACT = 1e-3, 1e-2


def relative(out, reference):
    """NaN where anything is NaN, and so never below a bound."""
    return float(np.linalg.norm(out - reference) / np.linalg.norm(reference))


def check_product(gpu, kind, m, n, k, rng, *, gaps=0, batch=1):
    """The two errors of one product (or a batch) with poisoned output, and the path."""
    rows = random_rows(kind, m * batch, k, rng)
    weights = to_float64(kind, rows).reshape(batch, m, k)
    x = rng.normal(size=(batch, n, k + gaps)).astype(np.float32)
    y = np.full((batch, n, m + gaps), np.nan, np.float32)
    product = gpu.product(
        int(kind), m, n, k, weights=gpu.upload(rows), activations=gpu.upload(x),
        output=gpu.upload(y), activation_stride=k + gaps, output_stride=m + gaps, batch=batch,
        activation_batch_stride=n * (k + gaps), output_batch_stride=n * (m + gaps),
    )  # fmt: skip
    gpu.workspace(product)
    path = gpu.path(product)
    gpu.multiply(product)
    gpu.download(product.output, y)
    gpu.close()
    if gaps and not np.isnan(y[:, :, m:]).all():
        return path, np.nan, np.nan
    out = y[:, :, :m].astype(np.float64)
    x = x[:, :, :k]
    exact = np.einsum("bmk,bnk->bnm", weights, x.astype(np.float64), optimize=True)
    same = np.einsum("bmk,bnk->bnm", weights, rounded(x, path), optimize=True)
    return path, relative(out, same), relative(out, exact)


def check_groups(gpu, kind, m, k, rng):
    """The error of a mixture of experts, some of whose indices are out of range."""
    experts, columns, count = 5, 7, 23
    rows = random_rows(kind, experts * m, k, rng)
    weights = to_float64(kind, rows).reshape(experts, m, k)
    x = rng.normal(size=(columns, k)).astype(np.float32)
    expert = rng.integers(0, experts, count).astype(np.int32)
    column = rng.integers(0, columns, count).astype(np.int32)
    expert[3], column[5], expert[7] = -1, columns, experts
    y = np.full((count, m), np.nan, np.float32)
    product = gpu.product(
        int(kind), m, columns, k, weights=gpu.upload(rows), activations=gpu.upload(x),
        output=gpu.upload(y),
    )  # fmt: skip
    groups = Groups(
        size=ctypes.sizeof(Groups), experts=experts, count=count, expert=gpu.upload(expert),
        column=gpu.upload(column),
    )  # fmt: skip
    gpu.workspace(product, groups)
    gpu.multiply(product, groups)
    gpu.download(product.output, y)
    path = gpu.path(gpu.product(int(kind), m, 1, k))
    gpu.close()
    x = rounded(x, path)
    reference = np.zeros((count, m))
    for i in range(count):
        if i not in (3, 5, 7):
            reference[i] = weights[expert[i]] @ x[column[i]]
    return relative(y.astype(np.float64), reference)


def check_refusals(gpu):
    """Calls that must be refused with a message, and are not: their names."""
    product = gpu.product(2, 4, 1, 64)
    good = {
        "weights": gpu.allocate(4096), "activations": gpu.allocate(4096),
        "output": gpu.allocate(4096), "workspace": gpu.allocate(4096), "workspace_size": 4096,
    }  # fmt: skip
    wrong = {
        "size": 8, "type": 999, "device": 99, "m": 0, "n": -1, "k": 33, "weights": None,
        "activations": None, "output": None, "activation_stride": 63, "output_stride": 3,
        "batch": -1, "workspace": None, "workspace_size": 10, "weight_batch_stride": 1,
    }  # fmt: skip
    accepted = []
    for field, value in wrong.items():
        product = gpu.product(2, 4, 1, 64, **good)
        setattr(product, field, value)
        try:
            gpu.multiply(product)
            accepted.append(field)
        except KernelError as error:
            if error.status != 1 or len(str(error)) < 12:
                accepted.append(f"{field}: {error}")
    gpu.multiply(gpu.product(2, 4, 1, 64, **good))
    gpu.close()
    return accepted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", type=Path)
    parser.add_argument("--types", default="")
    parser.add_argument("--quick", action="store_true", help="few shapes, for memory checkers")
    options = parser.parse_args()
    gpu = Kernels(options.module.resolve())
    print(gpu.info(), "compiled for", gpu.architectures)
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    rng = np.random.default_rng(seed)
    wanted = options.types.upper().split(",") if options.types else []
    kinds = [kind for kind in (*QUANTIZED, *FLOATS) if not wanted or kind.name in wanted]
    sizes = (1, 7, 33) if options.quick else (1, 2, 7, 8, 33, 129)
    columns = (1, 3, 17, 33, 65) if options.quick else (1, 2, 7, 8, 33, 129)
    bad = 0
    for kind in kinds:
        block = GGML_QUANT_SIZES[kind][0] if kind in QUANTIZED else 8
        few = (block, 5 * max(block, 256))  # the latter: five stages of what is copied ahead
        lengths = few if options.quick else (block, 5 * block, 1024, 4096 + block)
        if kind in FLOATS:
            lengths += (33,)  # rows that are no whole pieces of 16 bytes
        worst: dict[str, list[float]] = {}
        for k in sorted(set(lengths)):
            for m in sizes:
                for n in columns:
                    extra = int(rng.integers(0, 2)) * 8
                    batch = 2 if (m, n) in ((7, 3), (33, 2), (8, 129)) else 1
                    path, same, exact = check_product(
                        gpu, kind, m, n, k, rng, gaps=extra, batch=batch
                    )
                    fine = same <= SAME_ACTIVATIONS and (k < 1024 or m * n < 64 or exact <= EXACT)
                    if not fine:
                        bad += 1
                        if bad < 20:
                            print(f"BAD {kind.name} {path} m={m} n={n} k={k} gaps={extra} "
                                  f"batch={batch}: {same:.2e} {exact:.2e}")  # fmt: skip
                    seen = worst.setdefault(path, [0.0, 0.0])
                    seen[0] = max(seen[0], same)
                    seen[1] = max(seen[1], exact)
        grouped = check_groups(gpu, kind, 33, 2 * max(block, 32), rng)
        bad += not grouped <= SAME_ACTIVATIONS
        text = "  ".join(f"{path} {same:.1e} {exact:.1e}" for path, (same, exact) in worst.items())
        print(f"{kind.name:8} {text}  grouped {grouped:.1e}", flush=True)
    accepted = check_refusals(gpu)
    print("refusals:", accepted or "fine")
    print("bad:", bad)
    return 1 if bad or accepted else 0


if __name__ == "__main__":
    sys.exit(main())
