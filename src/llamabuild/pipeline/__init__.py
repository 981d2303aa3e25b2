"""From a request to modules; the Python API and the command line stand on it.

``PLANNING`` is a tuple of stages that answer what will be built; :func:`build` then asks the cache
or the compilers.
"""

from __future__ import annotations

from llamabuild.pipeline.building import Built, build
from llamabuild.pipeline.environment import Environment, Setting, environment
from llamabuild.pipeline.serving import gpu_architecture
from llamabuild.pipeline.stages import PLANNING, Job, depends_on, detect, open_store, plan, start
from llamabuild.pipeline.trying import module_to_try, source_to_try
from llamabuild.store import Store

__all__ = [
    "PLANNING",
    "Built",
    "Environment",
    "Job",
    "Setting",
    "Store",
    "build",
    "depends_on",
    "detect",
    "environment",
    "gpu_architecture",
    "module_to_try",
    "open_store",
    "plan",
    "source_to_try",
    "start",
]
