"""Does what was built serve the GPUs that it must serve, and those that are here?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from llamabuild import arch
from llamabuild.arch import CudaArch, HipTarget
from llamabuild.errors import ModuleRejectedError
from llamabuild.events import Note
from llamabuild.inspect import Coverage, Entry, Module, coverage
from llamabuild.inspect.coverage import pick
from llamabuild.probe import Gpu

__all__ = ["gpu_architecture", "gpus_here", "require", "require_planned", "serves"]


def gpu_architecture(name: str) -> str:
    """Return the architecture of one GPU that a user names: "61" for ``gtx 1080`` or ``6.1``.

    :raises ArchitectureError: nobody knows it, or it is more than one.
    """
    item = arch.parse_gpu(name)
    # A chip runs code with and without its letter: "90a" names the GPU that "90" does.
    return str(item.number) if isinstance(item, CudaArch) else str(item)


def serves(planned: Iterable[CudaArch | HipTarget], architecture: str) -> bool:
    """Whether anything in a module that is made for ``planned`` will run on a GPU."""
    return pick(map(_code, planned), architecture)[0] != "no"


def _code(planned: CudaArch | HipTarget) -> Entry:
    """What a module will hold for an architecture; what is in it, nobody knows yet."""
    if isinstance(planned, HipTarget):
        return Entry("gcn", str(planned), 0, 0, None)
    return Entry("ptx" if planned.virtual else "sass", planned.name, 0, 0, None)


def require_planned(
    names: Iterable[str], planned: Sequence[Iterable[CudaArch | HipTarget]]
) -> None:
    """Refuse, before any is built, modules of which none runs on a GPU that must be served.

    :param names: what the user calls the GPUs.
    :param planned: what each module is to be made for.
    :raises ArchitectureError: nobody knows a GPU.
    :raises ModuleRejectedError: as :func:`require`.
    """
    for name in names:
        architecture = gpu_architecture(name)
        if not any(serves(archs, architecture) for archs in planned):
            raise _rejected(name, architecture, "nothing runs", ())


def require(wanted: Mapping[str, str], modules: Sequence[Module]) -> None:
    """Refuse modules of which none runs all its kernels on a GPU that must be served.

    :param wanted: architectures by what the user calls the GPU.
    :raises ModuleRejectedError: the first GPU that is not served.
    """
    for name, architecture in wanted.items():
        found = _best(modules, architecture)
        if not found.healthy:
            raise _rejected(name, architecture, _trouble(found), found.entries)


def _rejected(
    name: str, architecture: str, trouble: str, entries: Sequence[str]
) -> ModuleRejectedError:
    return ModuleRejectedError(
        f"on {name} ({architecture}), {trouble}: "
        f"the driver would take {', '.join(entries) or 'no'} code",
        hint=f"add {architecture} to --arch",
    )


def gpus_here(
    gpus: Iterable[Gpu], modules: Sequence[Module], levels: Collection[int]
) -> Iterator[Note]:
    """Tell of the GPUs of this machine for which something is wrong with all of the modules.

    A GPU on which nothing runs is worth a note, for modules are built for other machines too.

    :param levels: compute capabilities times ten at which the source changes its code.
    """
    vendors = {{"cuda": "nvidia", "hip": "amd"}.get(module.backend or "") for module in modules}
    kinds = {gpu.arch: gpu for gpu in gpus if gpu.vendor in vendors}
    for architecture, gpu in kinds.items():
        found = _best(modules, architecture)
        passed = _passed(found, levels)
        if found.healthy and not passed:
            continue
        card = CudaArch(int(architecture)).capability if gpu.vendor == "nvidia" else architecture
        how = {"no": "run", "jit": "compile the PTX of"}.get(found.runs, "run the code for")
        code = " and ".join(found.entries) or "nothing of this"
        trouble = "" if found.healthy or found.runs == "no" else _trouble(found)
        why = trouble or passed
        yield Note(
            "info" if found.runs == "no" else "warning",
            f"the GPU here, {gpu.name} ({card}), would {how} {code}{why and ': '}{why}; "
            f"add {architecture} to --arch",
        )


def _best(modules: Iterable[Module], architecture: str) -> Coverage:
    """What the module does that serves a GPU best."""
    return max(
        (coverage(module, architecture) for module in modules),
        key=lambda found: (
            *(found.runs == "native", found.healthy, found.runs != "no"),
            -len(found.trapped or ()),
        ),
    )


def _trouble(found: Coverage) -> str:
    """What is wrong with a module that is not healthy on a GPU."""
    if found.runs == "no":
        return "nothing runs"
    if found.trapped is None:
        return "which kernels give up is unknown"
    if found.trapped:
        return f"{len(found.trapped)} of {found.kernels} kernels give up"
    return f"{len(found.missing)} kernels that other GPUs have are missing"


def _passed(found: Coverage, levels: Collection[int]) -> str:
    """Say which change of the source's code lies between a GPU and the code that it is given."""
    if found.runs not in ("older", "jit") or found.arch.startswith("gfx"):
        return ""
    made_for = min(int(entry.rstrip("af")) for entry in found.entries)
    between = [level for level in levels if made_for < level <= int(found.arch)]
    return (
        f"the source has other code from {CudaArch(max(between)).capability} on" if between else ""
    )
