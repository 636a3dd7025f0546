"""Every step of the check in a process of its own, each with its time; then a summary and a table. See docs/gpu.md.

A step that takes longer than its time is killed with all that it has started, and what it noted until then is kept.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from steps import STEPS

TOTAL_S = 440.0
DOUBLES = Path(__file__).parents[2] / "tests" / "kernel" / "driver"
GIB = 1024**3


def main() -> int:
    made = argparse.ArgumentParser(prog="tools/gpu_check.sh", description="Try what needs a GPU on this machine.")
    made.add_argument("--out", type=Path, default=Path("build/gpu"), help="where results go (default %(default)s)")
    made.add_argument("--doubles", action="store_true", help="without a GPU: NVML and CUDA are played")
    made.add_argument("--seconds", type=float, default=TOTAL_S, help="for all steps together (default %(default)s)")
    made.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), help="some steps alone")
    made.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parsed = made.parse_args()
    parsed.out.mkdir(parents=True, exist_ok=True)
    if parsed.step:
        return run(parsed.step, parsed.out)
    with tempfile.TemporaryDirectory(prefix="hxg-") as folder:
        if parsed.doubles:
            play(Path(folder))
        return run_all(parsed.only, parsed.out, time.monotonic() + parsed.seconds)


def play(folder: Path) -> None:
    """Have all processes from here on see the doubles of a device of 80 GiB."""
    state = folder / "nvml.json"
    device = {"uuid": "GPU-8f6e2c1a-0000-4000-8000-000000000001", "name": "Double 80GB", "processes": []}
    state.write_text(json.dumps({"devices": [{**device, "total": 80 * GIB, "free": 80 * GIB}]}))
    os.environ["HUTEROX_TEST_NVML"] = str(state)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(DOUBLES), *filter(None, [os.environ.get("PYTHONPATH")])])


def run(name: str, out: Path) -> int:
    """One step in this process; its file is written anew with every note."""
    file, found, begun_s = out / f"{name}.json", {}, time.monotonic()

    def write(ok: bool | None, why: str = "") -> None:
        took_s = round(time.monotonic() - begun_s, 1)
        new = file.with_suffix(".new")
        new.write_text(json.dumps({"step": name, "ok": ok, "why": why, "took_s": took_s, "found": found}, indent=1))
        new.replace(file)

    def note(key: str, value: Any) -> None:
        found[key] = value
        write(None, "it did not come to its end")

    try:
        STEPS[name][0](note)
    except BaseException as exc:  # noqa: BLE001 - whatever it is, it is what was found
        traceback.print_exc()
        write(False, f"{type(exc).__name__}: {exc}"[:2000])
        return 1
    write(True)
    return 0


def run_all(names: list[str], out: Path, until_s: float) -> int:
    """All steps, one after the other, whatever becomes of each; returns how many have failed."""
    done = []
    for name in names:
        limit_s = min(float(STEPS[name][1]), until_s - time.monotonic())
        done.append(run_apart(name, out, limit_s) if limit_s > 5.0 else left_out(name, "no time was left for it"))
        one = done[-1]
        sys.stdout.write(f"{name}: {'ok' if one['ok'] else 'FAILED: ' + one['why']} ({one['took_s']} s)\n")
        sys.stdout.flush()
        (out / "summary.json").write_text(json.dumps({one["step"]: {**one, "found": None} for one in done}, indent=1))
        (out / "table.md").write_text(table(done))
    return sum(not one["ok"] for one in done)


def run_apart(name: str, out: Path, limit_s: float) -> dict[str, Any]:
    """A step in a process of its own, with what it has noted, and the end of what it said where it failed."""
    file = out / f"{name}.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__)), "--step", name, "--out", str(out)]
    begun_s = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, start_new_session=True)
        why = ""
        try:
            process.wait(limit_s)
        except subprocess.TimeoutExpired:
            why = f"it took longer than its {limit_s:.0f} s"
        finally:
            end(process)
        told = json.loads(file.read_text()) if file.exists() else left_out(name, "it said nothing")
        told["took_s"] = round(time.monotonic() - begun_s, 1)
        if why:
            told |= {"ok": False, "why": why}
        if not told["ok"]:
            told["ok"] = False
            said.seek(0)
            told["said"] = said.read()[-4000:]
    file.with_suffix(".new").unlink(missing_ok=True)
    file.write_text(json.dumps(told, indent=1))
    return dict(told)


def end(process: "subprocess.Popen[str]") -> None:
    """The step and all of its group; workers follow their kernel."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait(10.0)


def left_out(name: str, why: str) -> dict[str, Any]:
    return {"step": name, "ok": False, "why": why, "took_s": 0.0, "found": {}}


def table(done: list[dict[str, Any]]) -> str:
    """What docs/gpu.md takes over."""
    by_name = {one["step"]: one["found"] for one in done}
    lines = ["| step | result | seconds |", "|---|---|--:|"]
    lines += [f"| {one['step']} | {'ok' if one['ok'] else cell(one['why'])} | {one['took_s']} |" for one in done]
    found = by_name.get("nvml", {})
    figures = [
        ("memory of a CUDA context, MiB", found.get("context_mb")),
        ("memory back after kill -9, s", found.get("memory_back_after_s")),
        ("call that evicts and loads 12 GiB, s", by_name.get("paging", {}).get("median_call_s")),
        ("inputs in lanes are pinned", by_name.get("paging", {}).get("inputs_in_lanes_are_pinned")),
    ]
    lines += ["", "| figure | |", "|---|--:|", *(f"| {name} | {cell(value)} |" for name, value in figures)]
    if rows := by_name.get("bandwidth", {}).get("rows"):
        lines += ["", "| copy | bytes | GB/s | p50 us | p99 us | rate / pinned |", "|---|--:|--:|--:|--:|--:|"]
        keys = ("name", "nbytes", "gb_per_s", "p50_us", "p99_us", "ratio_to_pinned")
        lines += [f"| {' | '.join(cell(row[key]) for key in keys)} |" for row in rows]
    starts = by_name.get("fault", {})
    if stages := sorted({stage for start in starts.values() for stage in start}):
        lines += ["", f"| fault, s | {' | '.join(starts)} |", f"|---|{'--:|' * len(starts)}"]
        lines += [f"| {s} | {' | '.join(cell(start.get(s)) for start in starts.values())} |" for s in stages]
    return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
    return "-" if value is None else str(value).replace("\n", " ").replace("|", "/")[:200]


if __name__ == "__main__":
    sys.exit(main())
