"""Compare every type and many awkward shapes with a float64 reference, on a real GPU.

``python check.py ggml-cuda.so [--types q4_0,q4_K] [--quick]``; exit status 1 when a product is off.
The products are those of ``llamabuild verify``, here of more lengths or (--quick) of few shapes.
Then come arguments that must be refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
from llamabuild.verify.blocks import FLOATS, QUANTIZED
from llamabuild.verify.kernels import KernelError, Kernels
from llamabuild.verify.products import SIZES, check_type


def check_refusals(gpu):
    """Calls that must be refused with a message, and are not: their names."""
    product = gpu.product(2, 4, 2, 64)
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
        product = gpu.product(2, 4, 2, 64, **good)
        setattr(product, field, value)
        try:
            gpu.multiply(product)
            accepted.append(field)
        except KernelError as error:
            if error.status != 1 or len(str(error)) < 12:
                accepted.append(f"{field}: {error}")
    gpu.multiply(gpu.product(2, 4, 2, 64, **good))
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
    shapes = {"rows": SIZES, "columns": SIZES}
    if options.quick:
        shapes = {"rows": (1, 7, 33), "columns": (1, 3, 17, 33, 65)}
    bad = 0
    for kind in kinds:
        block = GGML_QUANT_SIZES[kind][0] if kind in QUANTIZED else 8
        lengths = {block, 5 * block, 1024, 1280, 4096 + block}
        if options.quick:
            lengths = {block, 5 * max(block, 256)}  # five stages of what is copied ahead
        if kind in FLOATS:
            lengths.add(33)  # rows that are no whole pieces of 16 bytes
        worst: dict[str, tuple[float, float]] = {}
        for row in check_type(gpu, kind, rng, lambda _: None, lengths=sorted(lengths), **shapes):
            errors = [np.nan if one is None else one for one in (row.same, row.error)]
            if not row.right:
                bad += 1
                if bad < 20:
                    print(f"BAD {row.type} {row.path} {row.form} m={row.m} n={row.n} k={row.k}: "
                          "{:.2e} {:.2e}".format(*errors))  # fmt: skip
            name = row.path if row.form == "plain" else f"{row.path} {row.form}"
            worst[name] = tuple(np.maximum(worst.get(name, (0.0, 0.0)), errors))
        text = "  ".join(f"{name} {same:.1e} {exact:.1e}" for name, (same, exact) in worst.items())
        print(f"{kind.name:8} {text}", flush=True)
    accepted = check_refusals(gpu)
    print("refusals:", accepted or "fine")
    print("bad:", bad)
    return 1 if bad or accepted else 0


if __name__ == "__main__":
    sys.exit(main())
