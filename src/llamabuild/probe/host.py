"""How many cores and how much memory a build may use here: the machine's or the container's."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostLimits", "host_limits"]

#: Where nothing tells: what a small machine has.
_UNKNOWN_MEMORY = 4 * 2**30


@dataclass(frozen=True)
class HostLimits:
    """What a build may use.

    :param cores: processors this process may run on at once; at least one.
    :param memory_bytes: memory it may take.
    """

    cores: int
    memory_bytes: int


def host_limits(root: Path = Path("/")) -> HostLimits:
    """Find the tightest limits that hold for this process.

    Cores: those of the machine, those that the process is pinned to, and the CPU quota of each
    control group that it is in. A quota of one and a half cores counts as two: a compiler too many
    waits, a compiler too few wastes. Memory: what the machine has free now (MemAvailable, so that
    a build beside a browser does not push it out), and the limit of each control group. The group's
    limit counts in full, since what its page cache holds can be taken back.

    Control groups are read in version 2 and 1, each from the process's own group up to the root: a
    group's limit holds for all below it.

    :param root: the root of the file system.
    """
    quotas = [math.ceil(quota) for quota in _cpu_quotas(root)]
    cores = min([_pinned_cores(), *quotas])
    memory = min([_free_memory(root), *_memory_limits(root)])
    return HostLimits(max(1, cores), memory)


def _pinned_cores() -> int:
    if sys.platform != "win32" and hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _free_memory(root: Path) -> int:
    table = "\n".join(_lines(root / "proc/meminfo"))
    for field in ("MemAvailable", "MemTotal"):  # the first since Linux 3.14
        if match := re.search(rf"^{field}: *([0-9]+) kB", table, re.MULTILINE):
            return int(match[1]) * 1024
    return _memory_without_proc() or _UNKNOWN_MEMORY


if sys.platform == "win32":

    def _memory_without_proc() -> int:
        import ctypes

        class MemoryStatus(ctypes.Structure):
            """MEMORYSTATUSEX of the Windows API."""

            _fields_ = (
                ("length", ctypes.c_uint32),
                ("load", ctypes.c_uint32),
                ("total", ctypes.c_uint64),
                ("available", ctypes.c_uint64),
                ("rest", ctypes.c_uint64 * 5),
            )

        status = MemoryStatus(length=ctypes.sizeof(MemoryStatus))
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return int(status.available)

else:

    def _memory_without_proc() -> int:
        with suppress(OSError, ValueError):
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return 0


def _cpu_quotas(root: Path) -> Iterator[float]:
    """CPU quotas, in cores. Version 2 has quota and period in one file, version 1 in two."""
    for group in _groups(root, "cpu"):
        one_file = _words(group / "cpu.max")
        two_files = _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
        for words in (one_file, two_files):
            if len(words) == 2 and all(word.isdecimal() for word in words) and int(words[1]):
                yield int(words[0]) / int(words[1])  # "max" and -1 are no quota


def _memory_limits(root: Path) -> Iterator[int]:
    """Memory limits, in bytes. Above memory.high a group is slowed down until it stands still."""
    for group in _groups(root, "memory"):
        for file in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            for word in _words(group / file):
                if word.isdecimal():  # "max" is no limit; version 1 has a huge number for it
                    yield int(word)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of the control groups that this process is in, from its own to the root's.

    Some may not exist: a container that sees its host's path has only the end of it mounted.
    """
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":  # version 2, alone or beside version 1
            mounts = ("", "unified")
        elif controller in controllers.split(","):
            mounts = (controllers, controller)
        else:
            continue
        steps = [step for step in path.split("/") if step not in ("", "..")]
        for mount in mounts:
            for depth in range(len(steps), -1, -1):
                yield root.joinpath("sys/fs/cgroup", mount, *steps[:depth])


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except (OSError, ValueError):
        return []
