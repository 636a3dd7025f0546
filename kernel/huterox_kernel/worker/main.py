"""The worker's main program: load the model, then serve its lanes until told to end."""

import itertools
import os
import socket
import sys
import time
from typing import Any, Final, NamedTuple

from huterox_kernel.worker import control, entries, runtimes
from huterox_kernel.worker.control import ControlError, Failed, Progress, Ready, Start, StartSent
from huterox_kernel.worker.forks import end_if_forked
from huterox_kernel.worker.imports import DEAR_S, Watch, give_way
from huterox_kernel.worker.inputs import Expected
from huterox_kernel.worker.loop import DECODE, Loop
from huterox_kernel.worker.ownership import counts_are_exact
from huterox_kernel.worker.runtimes.base import Announce, LoadError, Model
from huterox_kernel.worker.threads import limit_threads
from huterox_kernel.worker.tracebacks import reason_of, traceback_of
from huterox_kernel.worker.words import Words, say
from huterox_shm.lane import ContainerEnd, LaneDescriptors
from huterox_shm.ledger import Ledger
from huterox_wire.nodes import ModelSpec

DESCRIPTORS: Final = 5  # the start file, the kernel's lane's three, the ledger


class Mark(NamedTuple):
    """A stage of the load begins. `modules`: how many have been imported until now."""

    stage: str
    at_s: float
    modules: int


class Loaded(NamedTuple):
    """A model, how long each stage of its load took, and who has seen what it imported, where that took long."""

    model: Model
    timings_s: dict[str, float]
    watch: Watch | None


def serve(control_descriptor: int, taken_s: float) -> int:
    """Be a worker. Returns the process's exit code. `taken_s` is when its making began."""
    sock = socket.socket(fileno=control_descriptor)
    received = control.receive(sock, DECODE)
    if received is None:
        return 0
    start, lane, ledger = _begin(*received)
    os.environ["CUDA_VISIBLE_DEVICES"] = start.device  # before anything touches CUDA; empty: it sees none
    words = Words()
    try:
        expected = Expected(start.model.inputs)
        loaded = _load(start, sock, taken_s)
        end_if_forked()
        if copies := not counts_are_exact():
            say("this interpreter's reference counts cannot be relied on: inputs and outputs are copied")
        loop = Loop(sock, lane, ledger, loaded.model, expected, start.spin_us, copies)
        control.send(sock, Ready(taken_s, loaded.timings_s))
        if loaded.watch is not None and (imported := loaded.watch.result(start.model.source_dir)) is not None:
            control.send(sock, imported)
        return loop.run()
    except BaseException as exc:  # noqa: BLE001 - whatever it is, the kernel must learn why there is no model any more
        return _report_failure(sock, exc, words)


def _begin(message: Any, descriptors: list[int]) -> tuple[Start, ContainerEnd, Ledger]:
    if not isinstance(message, StartSent) or len(descriptors) != DESCRIPTORS:
        raise ControlError(f"expected a start with {DESCRIPTORS} descriptors, got {message} with {len(descriptors)}")
    start_file, memfd, request_doorbell, reply_doorbell, ledger = descriptors
    lane = ContainerEnd.attach(LaneDescriptors(memfd, request_doorbell, reply_doorbell))
    return control.read_start(start_file), lane, Ledger.attach(ledger)


def _load(start: Start, sock: socket.socket, taken_s: float) -> Loaded:
    """Load the model, telling the kernel of each stage as it begins. What comes before the first is the fork's."""
    spec = start.model
    if os.path.isdir(spec.source_dir):  # noqa: PTH112 - no Path for a text that may be empty
        os.chdir(spec.source_dir)
    file = entries.file_of(spec.source_dir, spec.entry) if spec.runtime == "python" else ""
    sys.argv = [file or spec.entry]  # and not the zygote's
    if spec.runtime == "python":
        give_way(entries.places_of(spec.source_dir, file).first, file)
    watch = Watch()
    marks = [Mark("fork", taken_s, 0)]

    def announce(stage: str) -> None:
        end_if_forked()
        marks.append(Mark(stage, time.monotonic(), watch.count()))
        control.send(sock, Progress(stage))
        if stage == "load":
            watch.end_of_imports()
        if stage != "import":
            limit_threads(start.torch_threads, start.cpus)

    limit_threads(start.torch_threads, start.cpus)
    model = _runtime_of(spec, announce, start.device)
    marks.append(Mark("", time.monotonic(), watch.count()))
    stages = list(itertools.pairwise(marks))
    timings_s = {mark.stage: after.at_s - mark.at_s for mark, after in stages}
    import_s = sum(timings_s[mark.stage] for mark, after in stages if after.modules > mark.modules)
    return Loaded(model, timings_s, watch if import_s >= DEAR_S else None)


def _runtime_of(spec: ModelSpec, announce: Announce, device: str) -> Model:
    load = runtimes.RUNTIMES.get(spec.runtime)
    if load is None:
        raise LoadError(f"unknown runtime {spec.runtime!r} (known: {', '.join(runtimes.RUNTIMES)})")
    return load(spec, announce, device)


def _report_failure(sock: socket.socket, exc: BaseException, words: Words) -> int:
    """Tell the kernel, then the log. Returns the process's exit code."""
    end_if_forked()
    reason = str(exc) if type(exc) is LoadError else reason_of(exc)
    text = traceback_of(exc)
    if isinstance(exc, SystemExit) and (said := words.said()):  # it has told a person why, and nobody else
        reason += f"; it said: {said}"
    try:
        control.send(sock, Failed(reason[: control.REASON_NBYTES_MAX], text))
    except OSError:
        return control.EXIT_DESCRIPTORS
    finally:
        say(text)
    return 1
