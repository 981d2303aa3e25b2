"""What will be built, decided completely before anything runs.

One :class:`Plan` for both makers' GPUs: :mod:`.cuda` and :mod:`.hip` decide what differs.
"""

from __future__ import annotations

from llamabuild.planning.cuda import needs_cublas
from llamabuild.planning.hip import rocm_needs
from llamabuild.planning.making import make_plan
from llamabuild.planning.plan import RECIPE, Plan

__all__ = ["RECIPE", "Plan", "make_plan", "needs_cublas", "rocm_needs"]
