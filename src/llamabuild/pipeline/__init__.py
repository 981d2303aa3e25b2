"""From a request to modules; the Python API and the command line stand on it.

``PLANNING`` is a tuple of stages that answer what will be built; :func:`build` then asks the cache
or the compilers.
"""

from __future__ import annotations

from llamabuild.pipeline.building import Built, build, gpu_architecture
from llamabuild.pipeline.stages import PLANNING, Job, depends_on, detect, open_store, plan, start
from llamabuild.store import Store

__all__ = [
    "PLANNING",
    "Built",
    "Job",
    "Store",
    "build",
    "depends_on",
    "detect",
    "gpu_architecture",
    "open_store",
    "plan",
    "start",
]
