"""Two kernels of one name: the first serves, the second waits, and little is said of it."""

import time

import psutil
import pytest
from tests.fault.site import START_S, Site, container_of, deploy
from tests.system.platform import eventually

import huterox

pytestmark = [pytest.mark.system, pytest.mark.alone, pytest.mark.timeout(120)]

BESIDE_S = 4.0
"""In which a kernel asks eight times to be let in."""


def test_the_second_of_two_kernels_of_one_name_waits_until_the_first_has_gone(own: Site) -> None:
    first_pid = own.pid("kernel")
    with own.client(timeout=30.0, lanes=False) as client:
        deploy(client, "steady")
        service = client.service("steady")
        worker = service.call("pid")["result"]
        second = Second(own)
        try:
            eventually(lambda: twins_told(client), START_S)
            until_s, calls = time.monotonic() + BESIDE_S, 0
            while time.monotonic() < until_s:
                assert service.call("pid")["result"] == worker
                calls += 1
            assert calls > 10
            assert [node["pid"] for node in own.listed("nodes")] == [first_pid]
            assert twins_told(client) == 1
            assert sum(event["kind"].startswith("node.") for event in client.events()) == 2
            lines = second.lines()
            assert sum("refuses this kernel" in line for line in lines) == 1, lines
            assert sum("kept waiting" in line for line in lines) == 1, lines
            own.kill("kernel")
            eventually(lambda: [node["pid"] for node in own.listed("nodes")] == [second.pid], START_S)
            assert service.call("pid", timeout=30.0)["result"] == container_of(client, "steady")["pid"] != worker
            eventually(lambda: not psutil.pid_exists(worker))
        finally:
            second.close()


def twins_told(client: huterox.Client) -> int:
    return sum(event["kind"] == "node.twin" for event in client.events())


class Second:
    """Another kernel of the site's name, with a folder of its own."""

    def __init__(self, own: Site) -> None:
        self._log = own.folder.parent / "up.log"
        config = own.folder / "second.toml"
        text = (own.folder / "kernel.toml").read_text()
        config.write_text(text.replace(f"{own.folder}/kernel'", f"{own.folder}/second'"))
        self._before = len(self._log.read_text().splitlines())
        self._process = own.run("kernel", "--config", str(config))
        self.pid = self._process.pid

    def lines(self) -> list[str]:
        """What all have said since it was started."""
        return self._log.read_text().splitlines()[self._before :]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=20)
        assert self._process.stdout is not None
        self._process.stdout.close()
