"""The demo: three real models of three kinds serve three tenants, on a node that holds only two of them at once.

Who must leave, and why; what a call is told when nobody may. It starts a Huterox of its own, shows what happens as it
happens, checks every answer and ends everything again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from concurrent.futures import wait
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import inputs
import numpy as np
from node import DemoFailed, Node
from show import begin, refusal, save_boxes, say, timeline

import huterox

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "out"
SLOTS = 2
HOST_MB = 4096
CALL_TIMEOUT_S = 60.0
DEMO_TIMEOUT_S = 150.0
AGAIN_S = 0.5
START_TOLERANCE_S = 0.15
TOLD = ("load", "evict", "ready")
"""The kinds of events that tell why a call took its time."""

Result = Mapping[str, Any]


class Tenant:
    """One tenant: its own connection, and one service on it."""

    def __init__(self, node: Node, resources: ExitStack, name: str, service: str, model: str) -> None:
        self.name = name
        self.service_name = service
        self.client = resources.enter_context(huterox.connect(node.endpoint, tenant=name, timeout=CALL_TIMEOUT_S))
        self.client.create(service, model=model)
        self._service = self.client.service(service)
        say(f"tenant {name!r} creates the service {service!r} on model {model!r}")

    def call(self, what: str, **values: Any) -> Result:
        """Call the service; tell each second what the containers are doing, and in the end what the call set off."""
        begin(f"{self.name} calls {self.service_name}: {what}")
        known = _newest_event(self.client)
        start_s = time.monotonic()
        future = self._service.submit(**values)
        while wait([future], timeout=1.0).not_done:
            say(f"  ... waiting; {_standing(self.client)}")
        result: Result = future.result()
        took_s = time.monotonic() - start_s
        events = [event for event in self.client.events(after=known) if event["kind"] in TOLD]
        faulted = any(event["kind"] == "load" for event in events)
        say(f"  answered after {_duration(took_s)}: " + ("page fault" if faulted else "hit, the model was resident"))
        for event in events:
            say(f"    {event['kind']:<5} {event['subject']}: {event['reason']}{_timings(event)}")
        return result

    def pin(self) -> None:
        """Ask that the service's model never leaves."""
        self.client.pin(self.service_name)
        say(f"{self.name} pins {self.service_name}")

    def unpin(self) -> None:
        """Let it be evicted again."""
        self.client.unpin(self.service_name)
        say(f"{self.name} unpins {self.service_name}")


def _newest_event(client: huterox.Client) -> int:
    return max((event["seq"] for event in client.events(limit=1)), default=0)


def _standing(client: huterox.Client) -> str:
    rows = [f"{row['model']} {row['id']} is {row['state']}" for row in client.containers()]
    return ", ".join(rows) or "nothing is loaded yet"


def _timings(event: dict[str, Any]) -> str:
    stages = event["details"].get("timings_s", {})
    return " (" + ", ".join(f"{stage} {_duration(took_s)}" for stage, took_s in stages.items()) + ")" if stages else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


def expect(condition: bool, message: str) -> None:
    """A wrong answer is a failure of the demo."""
    if not condition:
        raise DemoFailed(message)


# The three kinds of calls: made, shown, checked.


def listen(tenant: Tenant, what: str) -> None:
    recording = inputs.recording()
    segments = tenant.call(what, audio=recording.audio)["segments"]
    show_speech(segments, recording.length_s)


def show_speech(segments: np.ndarray, length_s: float) -> None:
    heard = ", ".join(f"{start:.1f} s to {end:.1f} s" for start, end in segments)
    say(f"  speech from {heard}\n{timeline(segments, length_s)}")
    starts = np.array(inputs.SPEECH_STARTS_S)
    right = len(segments) == len(starts) and np.allclose(segments[:, 0], starts, atol=START_TOLERANCE_S)
    expect(right, f"the six sentences begin at {starts.tolist()} s, the model heard speech from {heard}")


def compare(tenant: Tenant, what: str) -> None:
    show_closest(tenant.call(what, sentences=inputs.SENTENCES)["result"])


def show_closest(vectors: np.ndarray) -> None:
    likeness = np.triu(vectors @ vectors.T, k=1)
    first, second = (int(index) for index in np.unravel_index(likeness.argmax(), likeness.shape))
    say(f"  the two closest of {len(vectors)} sentences, likeness {likeness[first, second]:.2f}:")
    for index, sentence in enumerate(inputs.SENTENCES):
        say(f"  {'>' if index in (first, second) else ' '} {sentence}")
    expect((first, second) == inputs.CLOSEST, "these are not the two sentences that mean nearly the same")


def read(tenant: Tenant, what: str, image: np.ndarray, name: str, expected: list[str]) -> None:
    show_texts(tenant.call(what, image=image), image, name, expected)


def show_texts(result: Result, image: np.ndarray, name: str, expected: list[str]) -> None:
    say("  read in the picture:")
    for text, score in zip(result["texts"], result["scores"], strict=True):
        say(f"  > {text}  ({score:.2f})")
    path = PICTURES / f"{name}.png"
    save_boxes(path, image, result["boxes"], result["texts"], result["scores"])
    say(f"  the picture with its boxes: {os.path.relpath(path)}")
    missing = [text for text in expected if text not in result["texts"]]
    expect(not missing, f"not read, though it stands there: {missing}")


# The story.


def tell(node: Node, resources: ExitStack) -> None:
    """Deploy, create, call; the third model finds the node full."""
    operator = resources.enter_context(huterox.connect(node.endpoint, timeout=CALL_TIMEOUT_S))
    for name in ("vad", "embedder", "reader"):
        path = FOLDER / "models" / f"{name}.toml"
        operator.deploy(path)
        say(f"deployed {os.path.relpath(path)}")
    radio = Tenant(node, resources, "radio", "who-speaks", "vad")
    library = Tenant(node, resources, "library", "meaning", "embedder")
    archive = Tenant(node, resources, "archive", "read-page", "reader")

    listen(radio, "ten seconds of a voice (for its first container the node imports torch, once)")
    listen(radio, "the same again")
    compare(library, f"{len(inputs.SENTENCES)} sentences")

    known = _newest_event(operator)
    full = f"a photograph of a page; the node's {SLOTS} slots are taken, somebody has to leave"
    read(archive, full, inputs.page(), "page", ["Region-based segmentation", "histogram of grey values:"])
    evicted = evicted_after(operator, known)
    read(archive, "another photograph", inputs.motorcycle(), "motorcycle", ["YAMAHA"])

    known = _newest_event(operator)
    back = f"its model {evicted} was evicted, which it has not noticed: it calls as before"
    if evicted == "vad":
        listen(radio, back)
    else:
        compare(library, back)
    absent = evicted_after(operator, known)
    tell_of_refusal(operator, {"vad": radio, "embedder": library, "reader": archive}, absent)


def tell_of_refusal(operator: huterox.Client, tenants: Mapping[str, Tenant], absent: str) -> None:
    """All that is resident is pinned: a fault ends at once, and says what would help. That is done, and helps."""
    begin(f"what if nobody may leave? {absent} is absent, the two others are resident")
    resident = [model for model in tenants if model != absent]
    for model in resident:
        tenants[model].pin()
    try:
        ask(tenants[absent], absent, f"its model {absent} finds both slots pinned")
    except huterox.ResourceInterrupt as error:
        show_refusal(error, resident)
    else:
        raise DemoFailed("a call was answered for which there was no room")

    known = _newest_event(operator)
    begin("unpinning would help, it says")
    freed = min(resident, key=("vad", "embedder", "reader").index)  # the quickest to load again
    tenants[freed].unpin()
    ask(tenants[absent], absent, "the same call once more")
    evicted = evicted_after(operator, known)
    expect(evicted == freed, f"{freed} was unpinned, but {evicted} had to leave")


def ask(tenant: Tenant, model: str, what: str) -> None:
    """A call that shows that the model works."""
    match model:
        case "vad":
            listen(tenant, what)
        case "embedder":
            compare(tenant, what)
        case _:
            read(tenant, what, inputs.page(), "page", ["Region-based segmentation"])


def show_refusal(error: huterox.ResourceInterrupt, pinned: list[str]) -> None:
    facts = error.details
    say(f"  refused after {_duration(facts['waited_s'])}: {error}\n" + indented(refusal(facts)))
    (node,) = facts["nodes"]
    stays = {holder["model"]: holder["stays_because"] for holder in node["held_by"]}
    expect(stays == dict.fromkeys(pinned, "pinned"), f"{pinned} are pinned, but the refusal says {stays}")
    expect(node["free"]["slots"] == 0, f"the node is full, but the refusal says that {node['free']} is free")
    expect(any("unpinning" in text for text in facts["would_help"]), "the refusal does not say what would help")


def indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.splitlines())


def evicted_after(operator: huterox.Client, known: int) -> str:
    """The one model that had to leave since the event `known`."""
    models = [event["subject"].split()[0] for event in operator.events(after=known) if event["kind"] == "evict"]
    expect(len(models) == 1, f"exactly one container has to leave, but {models} did")
    model: str = models[0]
    return model


def show_ps(node: Node) -> None:
    """The operator's view, as a person would ask for it."""
    begin("huterox ps")
    command = [sys.executable, "-m", "huterox.cli.main", "ps"]
    environment = {**os.environ, "HUTEROX_ENDPOINT": node.endpoint}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=CALL_TIMEOUT_S, check=False)
    print(done.stdout, flush=True)
    expect(done.returncode == 0, f"huterox ps ended with exit status {done.returncode}: {done.stderr.strip()}")
    resident = [model for model in ("vad", "embedder", "reader") if model in done.stdout]
    expect(len(resident) == SLOTS, f"a node of {SLOTS} slots holds {resident}")


def run() -> None:
    """Start a node, tell the story, end the node whatever happens."""
    say("Huterox: three models, three tenants, and a node with room for two models at once")
    node = Node(SLOTS, HOST_MB)
    try:
        say(f"starting: huterox {' '.join(node.command)}")
        for line in node.wait_ready():
            say(f"  {line}")
        with ExitStack() as resources:
            tell(node, resources)
        show_ps(node)
    except Exception:
        print(node.log_tails(), file=sys.stderr, flush=True)
        raise
    finally:
        _stop_listening()
        stubborn = node.stop()
    expect(not stubborn, f"did not end by itself and had to be killed: {', '.join(stubborn)}")
    say("done: every answer was checked, everything has ended, nothing is left running")


def main() -> int:
    """0: all went well. 1: something did not. 130: stopped by the user."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGALRM, _too_late)
    signal.setitimer(signal.ITIMER_REAL, DEMO_TIMEOUT_S)
    try:
        run()
    except KeyboardInterrupt:
        _stop_listening()
        print("the demo was stopped; nothing is left running", file=sys.stderr)
        return 130
    except (DemoFailed, huterox.HuteroxError, OSError, LookupError, ValueError, subprocess.TimeoutExpired) as error:
        print(f"the demo failed: {type(error).__name__}: {error}", file=sys.stderr)
        if isinstance(error, huterox.HuteroxError) and "traceback" in error.details:
            print(error.details["traceback"], file=sys.stderr)
        return 1
    return 0


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Stop, and say so again until it is heard: what is raised in the middle of a destructor is lost."""
    signal.signal(signal.SIGALRM, _interrupt)
    signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
    raise KeyboardInterrupt


def _too_late(signum: int, frame: FrameType | None) -> None:
    raise DemoFailed(f"the demo was not finished within {DEMO_TIMEOUT_S:.0f} s")


def _stop_listening() -> None:
    """From now on the demo only clears up, in bounded time: nothing may interrupt that."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
