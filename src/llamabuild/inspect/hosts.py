"""Who loads a module, and how, told by its symbols. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from llamabuild import source
from llamabuild.inspect.model import Module

__all__ = ["Host", "flavor", "hosts"]

_GGML = ("ggml_", "gguf_")


@dataclass(frozen=True)
class Host:
    """A program, and where it matters its releases; an empty ``last`` means all later ones."""

    program: str
    first: str = ""
    last: str = ""

    @property
    def releases(self) -> str:
        """``0.8.13 to 0.9.3``; empty where any release will do."""
        if self.first and not self.last:
            return f"{self.first} and later"
        return self.first if self.first == self.last else f"{self.first} to {self.last}"


def hosts(module: Module) -> tuple[Host, ...]:
    """Every program that could load the module.

    Of several releases of a program only one range may be right: see :func:`source.loaders`.
    """
    found = []
    if "ggml_backend_init" in module.exported:
        found.append(Host("llama.cpp"))
    if not _borrows(module):
        ranges = source.loaders(module.exported)
        found += [Host("llamafile", first, last) for first, last in ranges]
    return tuple(found)


def flavor(module: Module) -> str | None:
    """How a host uses the module; None where it is none of ours and no ggml module."""
    exported = set(module.exported)
    if "llamabuild_multiply" in exported:
        return "bundled"
    if "ggml_cuda_link" in exported:
        return "classic"
    if not any(name.startswith("ggml_") for name in exported):
        return None
    if _borrows(module) or "ggml_backend_init" in exported:
        return "backend-dl"
    return "self-contained"


def _borrows(module: Module) -> bool:
    """Does it take functions of ggml from others? llamafile lends none by name."""
    return any(name.startswith(_GGML) for name in module.undefined)
