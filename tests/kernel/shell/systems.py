"""Made-up systems: /proc of a process, and mounted control groups."""

from pathlib import Path


class System:
    """/proc/PID and the mounted hierarchies of a made-up system."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = folder / "proc"
        self.process.mkdir()
        self.mounts: list[str] = []
        self.paths: list[str] = []

    def mount(self, name: str, kind: str, options: str = "rw", root: str = "/") -> Path:
        mount = self.folder / name
        mount.mkdir()
        self.mounts.append(f"30 24 0:26 {root} {mount} rw,nosuid shared:9 - {kind} {kind} {options}")
        return mount

    def write(self) -> Path:
        (self.process / "cgroup").write_text("".join(f"{path}\n" for path in self.paths))
        (self.process / "mountinfo").write_text("".join(f"{mount}\n" for mount in self.mounts))
        return self.process
