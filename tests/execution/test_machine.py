"""What a job may use: the least of what control groups, SLURM, resource limits and the machine allow."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from gpucube.execution.machine import core_limits, least, memory_limits, open_files_raised

GROUP_MEMORY, GROUP_CORES = "the control group's memory limit", "the control group's CPU quota"


def root_with(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return folder


GROUPS: dict[str, tuple[dict[str, str], int | None, int | None]] = {
    "version 2": (
        {
            "proc/self/cgroup": "0::/job",
            "sys/fs/cgroup/job/memory.max": "1500",
            "sys/fs/cgroup/job/memory.current": "200",
            "sys/fs/cgroup/job/cpu.max": "200000 100000",
        },
        1300,
        2,
    ),
    "version 2, limited by a parent": (
        {
            "proc/self/cgroup": "0::/slice/job/step",
            "sys/fs/cgroup/slice/memory.max": "900",
            "sys/fs/cgroup/slice/memory.current": "100",
            "sys/fs/cgroup/slice/cpu.max": "150000 100000",
            "sys/fs/cgroup/slice/job/step/memory.max": "max",
            "sys/fs/cgroup/slice/job/step/cpu.max": "max 100000",
        },
        800,
        1,
    ),
    "version 2, the page cache is not in the way": (
        {
            "proc/self/cgroup": "0::/",
            "sys/fs/cgroup/memory.max": "1000",
            "sys/fs/cgroup/memory.current": "950",
            "sys/fs/cgroup/memory.stat": "anon 50\ninactive_file 600\nactive_file 300",
        },
        950,
        None,
    ),
    "version 2, throttled before it is killed": (
        {"proc/self/cgroup": "0::/", "sys/fs/cgroup/memory.max": "1000", "sys/fs/cgroup/memory.high": "700"},
        700,
        None,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/job\n0::/",
            "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1500",
            "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "400",
            "sys/fs/cgroup/memory/job/memory.stat": "inactive_file 7\ntotal_inactive_file 100\ntotal_active_file 0",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "300000",
            "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        },
        1200,
        3,
    ),
    "version 1, in a container that shows the host's path": (
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n1:cpu:/docker/abc",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "600",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        600,
        1,
    ),
    "no limits": (
        {
            "proc/self/cgroup": "4:memory:/\n1:cpu:/\n0::/",
            "sys/fs/cgroup/memory.max": "max",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        None,
        None,
    ),
    "no control groups": ({}, None, None),
    "nonsense": ({"proc/self/cgroup": "what?", "sys/fs/cgroup/memory.max": "plenty"}, None, None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_limits_of_control_groups(name: str, tmp_path: Path) -> None:
    files, memory, quota = GROUPS[name]
    root = root_with(tmp_path, files)
    assert memory_limits(root, {}).get(GROUP_MEMORY) == memory
    assert core_limits(root, {}).get(GROUP_CORES) == quota


@pytest.mark.parametrize(
    ("environment", "memory", "cores"),
    [
        ({"SLURM_MEM_PER_NODE": "2"}, (2 << 20, "SLURM_MEM_PER_NODE"), None),
        ({"SLURM_MEM_PER_CPU": "3", "SLURM_CPUS_ON_NODE": "1"}, (3 << 20, "SLURM_MEM_PER_CPU"), (1, "SLURM_CPUS_ON_NODE")),
        ({"SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "64"}, None, (1, "SLURM_CPUS_PER_TASK")),
        ({"SLURM_MEM_PER_NODE": "0", "SLURM_CPUS_PER_TASK": "many"}, None, None),
        ({"SLURM_CPUS_ON_NODE": "0"}, None, None),
        ({"SLURM_CPUS_ON_NODE": "9" * 5000, "SLURM_MEM_PER_NODE": "-1", "ID": "9" * 5000}, None, None),
    ],
)  # fmt: skip
def test_the_limits_of_slurm(
    environment: dict[str, str], memory: tuple[int, str] | None, cores: tuple[int, str] | None, tmp_path: Path
) -> None:
    free, affinity = memory_limits(tmp_path, {}), core_limits(tmp_path, {})
    found = memory_limits(tmp_path, environment)
    assert least(found) == memory if memory else set(found) == set(free)
    assert least(core_limits(tmp_path, environment | {"": ""})) == (cores or least(affinity))


def test_the_affinity_of_the_process_limits_its_cores(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert core_limits(tmp_path, {}) == {"the affinity of the process": 1}
    finally:
        os.sched_setaffinity(0, before)


def test_without_affinity_the_cores_of_the_machine_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert core_limits(tmp_path, {}) == {"the machine": os.cpu_count()}


@pytest.mark.parametrize(("kind", "name"), [("RLIMIT_AS", "address space"), ("RLIMIT_DATA", "data")])
def test_the_resource_limits_of_a_process(kind: str, name: str) -> None:
    """What the process has mapped already and does not hold counts against the limit."""
    code = (
        f"import resource; resource.setrlimit(resource.{kind}, (4 * 10**9,) * 2)\n"
        "from gpucube.execution.machine import *; print(least(process_memory_limits()))"
    )
    amount, source = eval(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
    assert name in source
    assert 2e9 < amount <= 4e9


def test_open_files_go_up_to_the_hard_limit_and_back(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
    try:
        with open_files_raised():
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(soft, 256), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
