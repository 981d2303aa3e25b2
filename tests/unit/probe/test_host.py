"""Cores and memory that a build may use, read from made-up file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamabuild.probe import HostLimits, host_limits

GIB = 2**30


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)


def machine(root: Path, files: dict[str, str], *, available: int = 32 * GIB) -> Path:
    files = {
        "proc/meminfo": f"MemTotal: {64 * GIB // 1024} kB\nMemAvailable: {available // 1024} kB\n",
        **files,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


pytestmark = pytest.mark.usefixtures("eight_cores")


def test_without_groups_the_affinity_and_the_free_memory_count(tmp_path: Path) -> None:
    assert host_limits(machine(tmp_path, {})) == HostLimits(8, 32 * GIB)


def test_a_kernel_without_memavailable_gives_its_total(tmp_path: Path) -> None:
    root = machine(tmp_path, {"proc/meminfo": "MemTotal:       2048 kB\nMemFree: 1 kB\n"})
    assert host_limits(root).memory_bytes == 2048 * 1024


def test_version_2_in_a_container(tmp_path: Path) -> None:
    """The container's own group is the root of what it sees."""
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/memory.max": f"{6 * GIB}\n",
        },
    )
    assert host_limits(root) == HostLimits(3, 6 * GIB)


def test_the_limit_of_a_group_above_holds_below(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/user.slice/build.scope\n",
            "sys/fs/cgroup/user.slice/cpu.max": "200000 100000\n",
            "sys/fs/cgroup/user.slice/memory.max": f"{4 * GIB}\n",
            "sys/fs/cgroup/user.slice/build.scope/cpu.max": "max 100000\n",
            "sys/fs/cgroup/user.slice/build.scope/memory.max": "max\n",
        },
    )
    assert host_limits(root) == HostLimits(2, 4 * GIB)


def test_memory_high_is_a_limit_too(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "0::/a\n",
            "sys/fs/cgroup/a/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/a/memory.high": f"{5 * GIB}\n",
        },
    )
    assert host_limits(root).memory_bytes == 5 * GIB


def test_version_1_with_shared_and_single_controllers(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "5:cpu,cpuacct:/job\n4:memory:/job\n3:name=systemd:/job\n0::/\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "250000\n",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{3 * GIB}\n",
        },
    )
    assert host_limits(root) == HostLimits(3, 3 * GIB)


def test_a_container_of_version_1_that_sees_its_hosts_path(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/0123abcd\n2:cpu:/docker/0123abcd\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GIB}\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert host_limits(root) == HostLimits(1, 2 * GIB)


def test_no_limit_in_version_1_is_no_limit(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n2:cpu:/\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    assert host_limits(root) == HostLimits(8, 32 * GIB)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("0 100000", 1),
        ("10000 100000", 1),
        ("150000 100000", 2),
        ("1600000 100000", 8),
        ("100000 0", 8),
        ("", 8),
    ],
)
def test_a_part_of_a_core_counts_as_one(tmp_path: Path, quota: str, cores: int) -> None:
    root = machine(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota})
    assert host_limits(root).cores == cores


def test_a_group_path_cannot_climb_out_of_the_mount(tmp_path: Path) -> None:
    root = machine(
        tmp_path,
        {"proc/self/cgroup": "0::/../../../secret\n", "secret/memory.max": "1\n"},
    )
    assert host_limits(root).memory_bytes == 32 * GIB


def test_pinned_to_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert host_limits(machine(tmp_path, {})).cores == 1


def test_a_system_that_cannot_pin_counts_its_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert host_limits(machine(tmp_path, {})).cores == 64


def test_a_system_without_proc_still_has_cores_and_memory(tmp_path: Path) -> None:
    limits = host_limits(tmp_path)
    assert limits.cores == 8
    assert limits.memory_bytes > 0


def test_this_machine_has_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    limits = host_limits()
    assert 1 <= limits.cores <= (os.cpu_count() or 1)
    assert limits.memory_bytes > 0


@given(st.text(), st.text(), st.text(), st.text())
def test_whatever_the_files_hold(
    tmp_path_factory: pytest.TempPathFactory, groups: str, quota: str, limit: str, meminfo: str
) -> None:
    root = machine(
        tmp_path_factory.mktemp("root"),
        {
            "proc/self/cgroup": f"0::/\n{groups.encode('utf-8', 'ignore').decode()}",
            "proc/meminfo": meminfo.encode("utf-8", "ignore").decode(),
            "sys/fs/cgroup/cpu.max": quota.encode("utf-8", "ignore").decode(),
            "sys/fs/cgroup/memory.max": limit.encode("utf-8", "ignore").decode(),
        },
    )
    limits = host_limits(root)
    assert limits.cores >= 1
    assert limits.memory_bytes >= 0
