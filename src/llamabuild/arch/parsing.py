"""From a list as users, CMake, nvcc, PyTorch and ROCm write it to architectures and keywords."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache

from llamabuild.arch import facts, names
from llamabuild.arch.model import CudaArch, HipTarget, Item, Keyword
from llamabuild.errors import ArchitectureError

__all__ = ["parse", "parse_gpu"]

#: 89, 8.9, sm_89, compute_89, 89-real, 89-virtual, 8.9+PTX, all of them with a suffix too.
_CUDA = re.compile(
    r"(?P<prefix>sm_?|compute_)?"
    r"(?:(?P<number>[1-9][0-9]{1,3})|(?P<dotted>[1-9][0-9]?\.[0-9]))(?P<suffix>[a-z]?)"
    r"(?P<ending>-real|-virtual|\+ptx)?"
)
_HIP = re.compile(r"(?P<name>gfx[0-9a-z-]*)(?P<features>(?::[a-z]+[+-])*)")
#: No product in the table has a longer name, with all that a driver adds to it.
_MOST_WORDS = 10
_EXAMPLES = "for example native, all-major, 89, 8.9+PTX, 90a, gfx1100 or 'rtx 4090'"
_GPU_EXAMPLES = "for example 'gtx 1080', 6.1 or gfx1100"


def parse(text: str) -> tuple[Item, ...]:
    """Read a list of architectures, keywords and product names, in its order, without repeats.

    Items are separated by ``;``, ``,``, quotes or spaces; a product name may hold spaces itself,
    and the longest name that fits is taken. Case does not matter. A number alone means machine
    code.

    :raises ArchitectureError: the list is empty, or an item is unknown or ambiguous.
    """
    items = _items(text, gpu=False)
    if not items:
        raise ArchitectureError("the list of architectures is empty", hint=f"name one, {_EXAMPLES}")
    return tuple(dict.fromkeys(items))


def parse_gpu(name: str) -> CudaArch | HipTarget:
    """Read one GPU: its name, its compute capability or AMD's target.

    :raises ArchitectureError: nobody knows it, or it is no GPU, or more than one.
    """
    items = dict.fromkeys(_items(name, gpu=True))
    item = next(iter(items), None)
    if len(items) != 1 or item is None or isinstance(item, Keyword):
        raise ArchitectureError(f"{name!r} is not one GPU", hint=f"name one, {_GPU_EXAMPLES}")
    return item


def _items(text: str, *, gpu: bool) -> list[Item]:
    """What stands in a list; ``gpu``: speak of GPUs where it cannot be read."""
    items: list[Item] = []
    for group in re.split(r"[;,\"']", text.lower()):
        words = group.split()
        position = 0
        while position < len(words):
            found, taken = _read(words[position : position + _MOST_WORDS], gpu=gpu)
            items += found
            position += taken
    return items


def _read(words: Sequence[str], *, gpu: bool) -> tuple[Sequence[Item], int]:
    """Read what stands at the start of ``words``: its items, and how many words they took."""
    if alone := _read_word(words[0]):
        return alone, 1
    for taken in range(len(words), 0, -1):
        name = " ".join(words[:taken])
        if archs := names.product_archs(name):
            return [_product(name, archs)], taken
    if match := _CUDA.fullmatch(words[0]):
        raise _unknown_number(words[0], match, gpu=gpu)
    raise _unknown_name(words, gpu=gpu)


def _read_word(word: str) -> Sequence[Item]:
    """Read a word that stands for itself; nothing if it is not one."""
    if word in set(Keyword):
        return [Keyword(word)]
    if family := facts.families().get(word.removesuffix("+ptx")):
        return [item for part in family.lower().split() for item in _read_word(part)]
    if match := _HIP.fullmatch(word):
        return [_hip_target(match)]
    if match := _CUDA.fullmatch(word):
        return _cuda_archs(match)
    return []


def _cuda_archs(match: re.Match[str]) -> Sequence[CudaArch]:
    number, suffix = int(_number(match)), match["suffix"]
    if f"{number}{suffix}" not in _known():
        return []
    if match["prefix"] and match["ending"]:
        raise ArchitectureError(
            f"{match[0]!r} says twice whether it is machine code or PTX",
            hint=f"write {number}{suffix}-real, {number}{suffix}-virtual or {number}{suffix}+PTX",
        )
    real, ptx = CudaArch(number, suffix), CudaArch(number, suffix, virtual=True)
    if match["ending"] == "+ptx":
        return [real, ptx]
    return [ptx if match["ending"] == "-virtual" or match["prefix"] == "compute_" else real]


def _hip_target(match: re.Match[str]) -> HipTarget:
    name, features = match["name"], sorted(match["features"].split(":")[1:])
    targets = facts.hip_features()
    if name not in targets:
        near = get_close_matches(name[:60], targets, n=5)
        raise ArchitectureError(
            f"unknown AMD target {name[:60]!r}",
            hint=f"similar ones are {', '.join(near)}" if near else "rocminfo shows a GPU's target",
        )
    pinned = [feature[:-1] for feature in features]
    if len(set(pinned)) < len(pinned) or not targets[name].issuperset(pinned):
        features_of = " and ".join(sorted(targets[name]))
        raise ArchitectureError(
            f"{match[0][:60]!r} is no AMD target",
            hint=f"{name} can be pinned to {features_of} on (+) or off (-)"
            if features_of
            else f"{name} has no feature that can be pinned",
        )
    return HipTarget(name, tuple(features))


def _product(name: str, archs: Sequence[str]) -> Item:
    if len(archs) > 1:
        raise ArchitectureError(
            f"{name!r} is the name of different chips, of architecture {' or '.join(archs)}",
            hint=f"name the architecture, for example {archs[-1]}; "
            "llamabuild detect shows that of a GPU in this machine",
        )
    return HipTarget(archs[0]) if archs[0].startswith("gfx") else CudaArch(int(archs[0]))


@cache
def _known() -> frozenset[str]:
    return frozenset(arch.name for arch in facts.known_cuda())


def _number(match: re.Match[str]) -> str:
    return str(match["number"] or match["dotted"].replace(".", ""))


def _unknown_number(word: str, match: re.Match[str], *, gpu: bool) -> ArchitectureError:
    number = _number(match)
    variants = sorted(name for name in _known() if name.rstrip("af") == number)
    plain = sorted(int(name) for name in _known() if name.isdecimal())
    nearest = sorted(sorted(plain, key=lambda one: abs(one - int(number)))[:3])
    if variants:
        hint = f"of {number} there is {', '.join(variants)}"
    elif number[:-1] in _known() and number.endswith("0"):
        hint = f"if {number} is a value of __CUDA_ARCH__, write {number[:-1]}"
    elif gpu:
        hint = f"nearest are {', '.join(map(_card, nearest))}; name one, {_GPU_EXAMPLES}"
    else:
        hint = f"nearest are {', '.join(map(str, nearest))}; known are {', '.join(map(str, plain))}"
        if int(number) > plain[-1]:
            hint += "; for a GPU newer than these use native where it is, or all"
    what = "compute capability" if gpu else "architecture"
    return ArchitectureError(f"unknown {what} {word!r}", hint=hint)


def _card(number: int) -> str:
    """``6.1 (TITAN Xp)``: a compute capability, and a card that has it."""
    capability = CudaArch(number).capability
    known = names.products().get(str(number))
    return f"{capability} ({known[0]})" if known else capability


def _unknown_name(words: Sequence[str], *, gpu: bool) -> ArchitectureError:
    """Quote the words up to the next one that could be read, and say what they resemble."""
    unread = [words[0]]
    for word in words[1:4]:
        if names.product_archs(word) or _read_word(word):
            break
        unread.append(word)
    name = " ".join(unread)[:60]
    near = names.similar(name)
    return ArchitectureError(
        f"unknown {'GPU' if gpu else 'architecture or product'} {name!r}",
        hint=f"did you mean {' or '.join(near)}?"
        if near
        else f"name one, {_GPU_EXAMPLES if gpu else _EXAMPLES}",
    )
