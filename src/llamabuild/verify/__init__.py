"""Runs a module on a GPU of this machine, in a child process, and compares with a reference.

    verdict = verify(Path("ggml-cuda.so"), environ=os.environ)
    if not verdict.passed:
        raise verdict.error

What can be shown depends on the module: our own kernels are multiplied type by type through their
C ABI; a classic or ggml module is loaded and driven as its user's program would, which takes the
headers of the source that it was built from. :func:`bench` times our own kernels.
"""

from __future__ import annotations

from llamabuild.verify.model import Card, Row, Timing, Timings, Unshown, Verdict
from llamabuild.verify.verifying import bench, verify

__all__ = ["Card", "Row", "Timing", "Timings", "Unshown", "Verdict", "bench", "verify"]
