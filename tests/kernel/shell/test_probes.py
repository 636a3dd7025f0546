"""What a machine offers of memory, and has free: within the limits of all control groups around the kernel."""

from pathlib import Path

import pytest
from tests.kernel.shell.systems import System

from huterox_kernel.shell.probes import host_bytes_free, host_bytes_total

MIB = 1024 * 1024
TOTAL, AVAILABLE = 8000 * MIB, 5000 * MIB


@pytest.fixture
def system(tmp_path: Path) -> System:
    made = System(tmp_path)
    text = f"MemTotal: {TOTAL // 1024} kB\nMemFree: 1 kB\nMemAvailable: {AVAILABLE // 1024} kB\n"
    (tmp_path / "meminfo").write_text(text)
    return made


def two(folder: Path, limit: str = "max", used_mb: int = 0, cache_mb: int = 0, high: str = "max") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.high").write_text(f"{high}\n")
    (folder / "memory.current").write_text(f"{used_mb * MIB}\n")
    (folder / "memory.stat").write_text(f"anon 5\ninactive_file {cache_mb * MIB}\nactive_file 7\n")
    return folder


def one(folder: Path, limit: int = 0x7FFFFFFFFFFFF000, used_mb: int = 0, cache_mb: int = 0, least: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{used_mb * MIB}\n")
    stat = (
        f"cache 3\ninactive_file 1\nhierarchical_memory_limit {least or limit}\ntotal_inactive_file {cache_mb * MIB}\n"
    )
    (folder / "memory.stat").write_text(stat)
    return folder


def mib(system: System) -> tuple[int, int]:
    """Total and free."""
    process, meminfo = system.write(), system.folder / "meminfo"
    return host_bytes_total(process, meminfo) // MIB, host_bytes_free(process, meminfo) // MIB


def test_without_limits_it_is_the_machines(system: System) -> None:
    assert mib(system) == (8000, 5000)
    two(system.mount("cgroup", "cgroup2") / "system.slice")
    system.paths = ["0::/system.slice"]
    assert mib(system) == (8000, 5000)


def test_the_limit_of_a_unit_counts(system: System) -> None:
    unit = two(system.mount("cgroup", "cgroup2") / "system.slice/huterox.service", str(1000 * MIB), used_mb=300)
    system.paths = ["0::/system.slice/huterox.service"]
    assert mib(system) == (1000, 700)
    assert (unit / "memory.max").exists()


def test_the_least_limit_counts_and_each_for_what_is_free(system: System) -> None:
    """A slice that is nearly full leaves little to a unit with a limit of its own, and with more of it free."""
    mount = system.mount("cgroup", "cgroup2")
    two(mount / "a.slice", str(4000 * MIB), used_mb=3900)
    two(mount / "a.slice/b.slice")
    two(mount / "a.slice/b.slice/huterox.service", str(2000 * MIB), used_mb=500)
    system.paths = ["0::/a.slice/b.slice/huterox.service"]
    assert mib(system) == (2000, 100)


def test_files_that_nobody_reads_are_free(system: System) -> None:
    two(system.mount("cgroup", "cgroup2") / "unit", str(1000 * MIB), used_mb=900, cache_mb=600)
    system.paths = ["0::/unit"]
    assert mib(system) == (1000, 700)


def test_a_group_over_its_limit_has_nothing_free(system: System) -> None:
    two(system.mount("cgroup", "cgroup2") / "unit", str(1000 * MIB), used_mb=1200)
    system.paths = ["0::/unit"]
    assert mib(system) == (1000, 0)


def test_what_is_slowed_down_from_there_on_is_a_limit(system: System) -> None:
    two(system.mount("cgroup", "cgroup2") / "unit", str(2000 * MIB), used_mb=100, high=str(1500 * MIB))
    system.paths = ["0::/unit"]
    assert mib(system) == (1500, 1400)


def test_version_1_with_the_groups_above(system: System) -> None:
    mount = system.mount("memory", "cgroup", "rw,memory")
    one(mount)
    one(mount / "batch", 3000 * MIB, used_mb=1000, cache_mb=400)
    one(mount / "batch/huterox")
    system.paths = ["4:memory:/batch/huterox", "0::/elsewhere"]
    assert mib(system) == (3000, 2400)


def test_version_1_in_a_container_knows_limits_that_it_cannot_see(system: System) -> None:
    mount = system.mount("memory", "cgroup", "rw,memory", root="/docker/c1")
    one(mount, used_mb=100, least=700 * MIB)
    system.paths = ["4:memory:/docker/c1"]
    assert mib(system) == (700, 600)


def test_both_versions_at_once(system: System) -> None:
    system.mount("unified", "cgroup2")
    one(system.mount("memory", "cgroup", "rw,memory") / "m", 900 * MIB, used_mb=200)
    system.paths = ["4:memory:/m", "0::/"]
    assert mib(system) == (900, 700)


def test_in_a_namespace_the_mount_is_the_own_group(system: System) -> None:
    """The path is not below what is mounted, or leads out of it."""
    two(system.mount("cgroup", "cgroup2", root="/kubepods/pod1"), str(600 * MIB), used_mb=50)
    for path in ("/", "/../other", "/kubepods/pod2"):
        system.paths = [f"0::{path}"]
        assert mib(system) == (600, 550)
        host_bytes_total.__globals__["_groups"].cache_clear()


def test_files_that_are_missing_or_make_no_sense_limit_nothing(system: System) -> None:
    folder = system.mount("cgroup", "cgroup2") / "unit"
    folder.mkdir()
    (folder / "memory.max").write_text("\n")
    (folder / "memory.high").write_text("none of it\n")
    system.paths = ["0::/unit"]
    assert mib(system) == (8000, 5000)
    (folder / "memory.max").write_text(f"{300 * MIB}\n")  # and nothing tells what is used
    assert mib(system) == (300, 300)
