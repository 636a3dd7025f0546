"""Control groups and processors, from files such as the system has them."""

import math
import os
from pathlib import Path

import pytest
from tests.kernel.shell.systems import System

from huterox_kernel.shell.cgroups import Group, groups
from huterox_kernel.shell.cpus import usable_cpus
from huterox_kernel.shell.zygotes import _environment

ALLOWED = len(os.sched_getaffinity(0))


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path)


def limit(folder: Path, quota: str, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")


def test_a_process_is_in_its_own_group_and_in_all_above_it(system: System) -> None:
    two = system.mount("unified", "cgroup2")
    one = system.mount("cpu,cpuacct", "cgroup", "rw,cpu,cpuacct")
    system.mount("memory", "cgroup", "rw,memory")
    system.paths = [
        "4:memory:/elsewhere",
        "3:cpu,cpuacct:/old",
        "1:name=systemd:/x",
        "0::/system.slice/huterox.service",
    ]
    assert groups("cpu", system.write()) == [
        Group(2, two / "system.slice/huterox.service"),
        Group(2, two / "system.slice"),
        Group(2, two),
        Group(1, one / "old"),
        Group(1, one),
    ]


def test_in_a_container_the_mount_shows_a_part(system: System) -> None:
    mount = system.mount("cgroup", "cgroup2", root="/docker/abc")
    system.paths = ["0::/docker/abc/inner"]
    assert groups("cpu", system.write()) == [Group(2, mount / "inner"), Group(2, mount)]
    system.paths = ["0::/somewhere/else"]
    assert groups("cpu", system.write()) == [Group(2, mount)]


def test_a_system_that_tells_nothing_limits_nothing(system: System) -> None:
    assert groups("cpu", system.process) == []
    assert usable_cpus(system.process) == ALLOWED


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("own", "above", "cpus"),
    [
        ("50000", "max", 1),
        ("max", "50000", 1),
        ("6400000", "100000", 1),
        ("100001", "max", 2),
        ("max", "max", math.inf),
        ("0", "garbage", math.inf),
    ],
)
def test_the_least_quota_counts_rounded_up(system: System, version: int, own: str, above: str, cpus: float) -> None:
    if version == 1:
        own, above = own.replace("max", "-1"), above.replace("max", "-1")
    kind, path = ("cgroup2", "0::/a/b") if version == 2 else ("cgroup", "2:cpu:/a/b")
    mount = system.mount("mount", kind, "rw,cpu")
    limit(mount / "a/b", own, version)
    limit(mount / "a", above, version)
    system.paths = [path]
    assert usable_cpus(system.write()) == min(cpus, ALLOWED)


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("RAYON_NUM_THREADS", "6")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sysconf", lambda name: 64)
    environment = _environment(3, 2)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    assert [environment[name] for name in names] == ["7", "3", "6", "2", "1"]
    assert "NUMBA_NUM_THREADS" not in _environment(3, 64)
