"""Which way a GPU multiplies each type, by the rules of upstream's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llamabuild.advise.facts import Type, facts

__all__ = ["Grade", "Path", "abilities", "path"]

#: ``good``: the best that this GPU has. ``slow``: something is done the long way. ``avoid``: there
#: is a better type for this GPU in every respect.
Grade = Literal["good", "slow", "avoid"]


@dataclass(frozen=True)
class Path:
    """How a type is multiplied while answering (few columns) and while reading a prompt (many).

    Both are keys of ``paths`` in ``advise.toml``. ``why`` is one sentence.
    """

    decode: str
    prompt: str
    grade: Grade
    why: str


_UNCOMPUTED = {
    "ternary": "upstream's GPU module does not multiply this type",
    "other": "weights are not stored in this type",
}


def abilities(arch: str) -> frozenset[str]:
    """What a GPU can do: ``dp4a``, ``tensor-int8``.

    :param arch: "61" for compute capability 6.1; "gfx1100".
    """
    if arch.startswith("gfx"):
        table = facts()["amd"]
        return frozenset(name for name, heads in table.items() if arch.startswith(tuple(heads)))
    number = int(arch)
    return frozenset(
        name
        for name, row in facts()["nvidia"].items()
        if row["first"] <= number < row.get("below", number + 1)
        and number not in row.get("not", ())
    )


def path(kind: Type, arch: str) -> Path:
    """Say how a GPU multiplies a type."""
    able = abilities(arch)
    if kind.family == "float":
        return _floats(kind, able)
    if kind.family in _UNCOMPUTED:
        return Path("none", "none", "avoid", _UNCOMPUTED[kind.family])
    return _integers(kind, able) if "dp4a" in able else _scalar(kind, arch)


def _integers(kind: Type, able: frozenset[str]) -> Path:
    prompt = _prompt(kind, able)
    if prompt == "blas":
        return Path("dp4a", prompt, "slow", "upstream's kernels for prompts leave this type out")
    why = "integer kernels for answers and prompts"
    if prompt == "dp4a-then-blas":
        why = "tensor cores for bytes came later, with 7.5"
    elif kind.family == "iq":
        # Measured on an H200: 17.3 microseconds for IQ2_XXS, 14.4 for Q4_0 (see advise.toml).
        why = "integer kernels; its values are looked up, which saves memory rather than time"
    elif kind.family == "fp4" and prompt != "tensor-fp4":
        why = "its numbers are looked up and multiplied as bytes: only NVIDIA's 12.x has better"
    return Path("dp4a", prompt, "good", why)


def _prompt(kind: Type, able: frozenset[str]) -> str:
    if not kind.mmq:
        return "blas"
    if kind.family == "fp4" and "tensor-fp4" in able:
        return "tensor-fp4"
    if "tensor-int8" in able:
        return "tensor-int8"
    return "dp4a-then-blas" if "tensor-f16" in able else "dp4a"


def _scalar(kind: Type, arch: str) -> Path:
    """Without an instruction for four products of bytes."""
    amd = arch.startswith("gfx")
    prompt = "scalar" if amd and kind.mmq and "blas-first" not in abilities(arch) else "blas"
    if kind.family == "iq":
        why = "without DP4A the look-ups in its tables come on top of one product at a time"
        return Path("scalar", prompt, "avoid", why)
    why = "this GPU has no DP4A: sources since llamafile 0.8.13 multiply byte by byte"
    if not amd:
        why += ", and in 0.8.1 to 0.8.12 the kernels give up"
    return Path("scalar", prompt, "slow", why)


def _floats(kind: Type, able: frozenset[str]) -> Path:
    if kind.name == "BF16" and "bf16" not in able:
        why = "this GPU has no arithmetic for it, as it has for F16"
        return Path("float", "blas", "avoid", why)
    if kind.name == "F32":
        return Path("float", "float", "avoid", "twice the memory of F16 for the same answers")
    prompt = "tensor-f16" if "tensor-f16" in able else "float"
    why = "answers wait for memory: 16 bits a weight take about twice the time of 8"
    if "fast-f16" not in able:
        why = "16-bit arithmetic is slow on this GPU, so it computes in 32 bits"
    return Path("float", prompt, "slow", why)
