"""The control groups that this process is in: a limit of any of them counts, its own group's and those above.

Version 2 has one hierarchy for all controllers, version 1 one for each; systems that mount both are common. In a
container the mount may show only a part of the hierarchy: what is above that part cannot be seen, and limits there are
met by whoever made it.
"""

from pathlib import Path
from typing import Final, NamedTuple

_SELF: Final = Path("/proc/self")


class Group(NamedTuple):
    """One control group, as a folder. `version`: 1 or 2, whose files have other names."""

    version: int
    folder: Path


def groups(controller: str, process: Path = _SELF) -> list[Group]:
    """The process's groups that this controller (v1: "memory", "cpu", ...) may be in, each before those above it.

    Args:
        process: its folder under /proc.
    """
    paths = _paths(process, controller)
    found = []
    for version, root, mount in _mounts(process, controller):
        path = paths.get(version)
        if path is not None:
            folder = mount / path.relative_to(root) if path.is_relative_to(root) else mount
            found += [Group(version, above) for above in (folder, *folder.parents) if above.is_relative_to(mount)]
    return found


def read(group: Group, name: str) -> list[str]:
    """The words in one of its files; none where there is no such file."""
    try:
        return (group.folder / name).read_text().split()
    except (OSError, UnicodeDecodeError):
        return []


def _paths(process: Path, controller: str) -> dict[int, Path]:
    """By version, where in the hierarchy the process is."""
    paths = {}
    for line in _lines(process / "cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths[2] = Path(path)
        elif controller in controllers.split(","):
            paths[1] = Path(path)
    return paths


def _mounts(process: Path, controller: str) -> list[tuple[int, Path, Path]]:
    """Version, the part of the hierarchy that is shown, and where."""
    mounts = []
    for line in _lines(process / "mountinfo"):
        before, _, after = line.partition(" - ")
        _, _, _, root, mount, *_ = before.split(" ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            mounts.append((2, Path(root), _unescaped(mount)))
        elif kind == "cgroup" and controller in options.split(","):
            mounts.append((1, Path(root), _unescaped(mount)))
    return mounts


def _unescaped(path: str) -> Path:
    return Path(path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
