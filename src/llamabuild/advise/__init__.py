"""Which quantizations and flags suit a GPU, and what of a model fits on it.

Pure, but for reading a model's head: what the machine has is told by who calls.
"""

from __future__ import annotations

from llamabuild.advise.advice import (
    Advice,
    Card,
    FlagAdvice,
    MixtureAdvice,
    ModelAdvice,
    TypeAdvice,
    advise,
    measured_flag,
)
from llamabuild.advise.gguf import Model, read_model

__all__ = [
    "Advice",
    "Card",
    "FlagAdvice",
    "MixtureAdvice",
    "Model",
    "ModelAdvice",
    "TypeAdvice",
    "advise",
    "measured_flag",
    "read_model",
]
