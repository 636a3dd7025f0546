"""The command: parsing, rendering, exit statuses. In-process against a switchboard double."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from huterox.cli import daemons, events, observe
from huterox_wire.errors import Unavailable

CONTAINER = {
    "id": "c1.2",
    "model": "vad",
    "version": "1",
    "algorithm": "speech",
    "node": "n1",
    "device": "cpu",
    "state": "ready",
    "created_at": 1.0,
    "run_time_s": 3700.4,
    "hits": 12,
    "last_hit_at": None,
    "footprint_declared_mb": 300,
    "footprint_measured_mb": 157.25,
    "pid": 42,
    "services": ["default/who-speaks"],
    "reason": "fault by\n\x1b[31mdefault/who-speaks",
}
SERVICE = {
    "id": "s1.1",
    "name": "who-speaks",
    "tenant": "default",
    "model": "vad",
    "tier": "shared",
    "state": "ready",
    "container": None,
    "hits": 3,
    "last_hit_at": None,
    "usage": {"calls": 3, "errors": 1, "busy_s": 0.012},
}
EVENTS = [
    {"seq": 1, "at": 0.0, "kind": "load", "subject": "vad c1.2", "reason": "fault by default/x", "details": {}},
    {"seq": 2, "at": 60.0, "kind": "evict", "subject": "vad c1.2", "reason": "least recently used", "details": {}},
]


def page(*rows: Any) -> dict[str, Any]:
    """What the switchboard answers to the verbs that list."""
    return {"rows": [*rows], "next": ""}


def test_containers_are_a_table_for_people_and_one_document_for_programs(said, double):
    double.results["ps"] = lambda args: page(CONTAINER)
    status, out, err = said("ps")
    title, row = out.splitlines()
    assert (status, err) == (0, "")
    assert title.split() == [
        *["ID", "MODEL", "VERSION", "ALGORITHM", "NODE", "DEVICE", "STATE", "AGE", "HITS", "LAST", "HIT"],
        *["MEMORY", "PID", "SERVICES", "REASON"],
    ]
    assert "1h01m" in row
    assert "157 MB of 300 MB" in row
    assert row.endswith("fault by \ufffd[31mdefault/who-speaks")
    assert title.index("REASON") == row.index("fault by")
    status, out, err = said("ps", "-o", "json")
    assert json.loads(out) == [CONTAINER]


def test_an_empty_list_is_said_on_stderr_and_empty_on_stdout(said, double):
    double.results |= {verb: lambda args: page() for verb in ("ps", "nodes", "models", "services")}
    for verb in ("ps", "nodes", "models", "services"):
        assert said(verb)[:2] == (0, "")
        assert said(verb, "-o", "json") == (0, "[]\n", "")


def test_services_show_their_usage(said, double):
    asked = []
    double.results["services"] = lambda args: asked.append(args) or page(SERVICE)
    _, out, _ = said("services")
    assert out.splitlines()[1].split() == [
        "who-speaks",
        "default",
        "vad",
        "shared",
        "ready",
        "-",
        "3",
        "-",
        "1",
        "12",
        "ms",
        "s1.1",
    ]
    said("services", "--tenant", "acme")
    assert asked == [{}, {"tenant": "acme"}]


def test_nodes_and_models_are_tables(said, double):
    double.results["nodes"] = lambda args: page(
        {"node": "n1", "host": "h", "state": "ready", "pid": 7, "slots": 8, "slots_used": 2, "host_mb": 4096}
        | {"host_mb_used": 300, "containers": 2, "last_heartbeat_at": time.time(), "kernel_version": "0.1.0"}
    )
    double.results["models"] = lambda args: page(
        {"name": "vad", "version": "1", "algorithm": "", "runtime": "python", "entry": "vad.py:Vad", "device": "cpu"}
        | {"host_mb": 300, "gpu_mb": 0, "services": 1, "containers": 0, "deployed_at": time.time() - 90}
    )
    assert "2 of 8  300 MB of 4.0 GB" in said("nodes")[1]
    assert said("models")[1].splitlines()[1].split()[:3] == ["vad", "1", "-"]
    assert "1m30s" in said("models")[1]


def test_events_show_why_oldest_first(said, double):
    asked = []
    double.results["events"] = lambda args: asked.append(args) or {"events": EVENTS, "next": 2}
    _, out, _ = said("events", "--limit", "5", "--subject", "vad")
    assert [line.split()[2] for line in out.splitlines()[1:]] == ["load", "evict"]
    assert "least recently used" in out
    assert asked == [{"limit": 5, "subject": "vad"}]
    assert json.loads(said("events", "-o", "json")[1]) == EVENTS


@pytest.mark.parametrize("output", ["text", "json"])
def test_followed_events_go_on_from_the_last_one_until_interrupted(said, double, monkeypatch, output):
    pages = [{"events": EVENTS[:1], "next": 1}, {"events": EVENTS[1:], "next": 2}, {"events": [], "next": 2}]
    asked = []

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(events.time, "sleep", interrupted)
    double.results["events"] = lambda args: asked.append(args.get("after")) or pages[len(asked) - 1]
    status, out, _ = said("events", "-f", "-o", output)
    assert status == 130
    assert asked == [None, 1, 2]
    if output == "json":
        assert [json.loads(line) for line in out.splitlines()] == EVENTS
    else:
        assert len(out.splitlines()) == 2


def test_logs_are_printed_as_they_are(said, double):
    asked = []
    piece = {"container": "c1.2", "text": "a\nb", "offset": 0, "next_offset": 3}
    double.results["logs"] = lambda args: asked.append(args) or piece
    assert said("logs", "vad", "--bytes", "100") == (0, "a\nb", "")
    assert asked == [{"name": "vad", "tenant": "", "offset": -100, "limit": 100}]
    assert json.loads(said("logs", "vad", "-o", "json")[1])["next_offset"] == 3


@pytest.fixture
def followed(said, double, monkeypatch):
    """Follow these containers' logs until nothing new comes. The last is the newest, of the first nobody writes yet."""

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(observe.time, "sleep", interrupted)

    def follow(logs: dict[str, str], kept_from: int = 0, at_once: int = 4) -> tuple[str, str]:
        newest = [next(iter(logs))]

        def answer(args):
            container = newest[-1] if args["name"] == "vad" else args["name"]
            newest.append(list(logs)[-1])
            text = logs[container]
            offset = len(text) + args["offset"] if args["offset"] < 0 else args["offset"]
            begin = 0 if args["offset"] < 0 else max(offset, kept_from)
            end = min(begin + at_once, len(text))
            return {"container": container, "text": text[begin:end], "offset": begin, "next_offset": end}

        double.results["logs"] = answer
        status, out, err = said("logs", "vad", "-f")
        assert status == 130
        return out, err

    return follow


def test_followed_logs_are_read_in_full_before_another_container_takes_over(followed):
    out, err = followed({"c1.2": "one\ntwo\nend\n", "c1.3": "new\nold\n"})
    assert out == "one\ntwo\nend\nnew\nold\n"
    assert "c1.3 follows c1.2" in err
    assert "missing" not in err


def test_followed_logs_tell_how_much_was_lost_in_between(followed):
    out, err = followed({"c1.2": "one\n" + "x" * 100 + "end\n"}, kept_from=104)
    assert out == "one\nend\n"
    assert "--- 100 bytes are missing here" in err


def test_the_status_is_told(said, double):
    double.results["status"] = lambda args: {"version": "0.1.0", "uptime_s": 65.2, "nodes_ready": 1}
    out = said("status")[1]
    assert "uptime" in out
    assert "1m05s" in out
    assert json.loads(said("status", "-o", "json")[1])["nodes_ready"] == 1


def test_changes_are_confirmed(said, double, tmp_path):
    path = tmp_path / "m.toml"
    path.write_text('name = "vad"\nentry = "vad.py:Vad"\n')
    sent = []
    double.results["deploy"] = lambda args: sent.append(args) or {"name": "vad", "version": "1", "replaced": True}
    double.results["create"] = lambda args: sent.append(args) or SERVICE
    double.results["delete"] = lambda args: sent.append(args) or {"name": "who-speaks", "tenant": "acme"}
    double.results["undeploy"] = lambda args: sent.append(args) or {"name": "vad"}
    double.results["evict"] = lambda args: sent.append(args) or {"container": "c1.2"}
    assert "replaces" in said("deploy", str(path))[1]
    assert "who-speaks (s1.1)" in said("create", "who-speaks", "--model", "vad", "--tenant", "acme")[1]
    assert "tenant acme" in said("delete", "who-speaks", "--tenant", "acme")[1]
    assert said("undeploy", "vad", "--force")[0] == 0
    assert said("evict", "c1.2", "-o", "json")[1].strip() == '{\n  "container": "c1.2"\n}'
    assert sent[0]["model"]["source_dir"] == str(tmp_path)
    assert sent[1] == {"name": "who-speaks", "model": "vad", "tier": "shared", "tenant": "acme"}
    assert sent[3] == {"name": "vad", "force": True}


def test_a_call_prints_arrays_as_dtype_shape_and_summary(said, tmp_path):
    np.save(tmp_path / "a.npy", np.arange(1000.0).reshape(10, 100))
    status, out, err = said("call", "echo", "-i", f"big=@{tmp_path}/a.npy", "-i", "n=3", "-i", "text=hello world")
    assert (status, err) == (0, "")
    assert "n     3" in out
    assert "text  hello world" in out
    assert "big   float64 [10, 100]  min 0  max 999  mean 499.5" in out


def test_inputs_are_json_text_files_and_arrays(said, tmp_path):
    (tmp_path / "v.json").write_text('{"a": [1, null]}')
    (tmp_path / "x.wav").write_bytes(b"RIFF")
    np.save(tmp_path / "a.npy", np.array([True, False]))
    texts = ["i=1", "f=1.5", "b=true", "n=null", "l=[1, 2]", "t=[1, 2", "e=", "at=@@home", "eq=a=b", 'q="1"']
    texts += [f"json=@{tmp_path}/v.json", f"wav=@{tmp_path}/x.wav", f"npy=@{tmp_path}/a.npy"]
    texts += ["x:float32=[[1, 2]]", "y:bfloat16=0.5"]
    out = said("call", "echo", "-o", "json", *(part for text in texts for part in ("-i", text)))[1]
    plain = {"i": 1, "f": 1.5, "b": True, "n": None, "l": [1, 2], "t": "[1, 2", "e": "", "at": "@home", "eq": "a=b"}
    assert json.loads(out) == plain | {
        "q": "1",
        "json": {"a": [1, None]},
        "wav": {"dtype": "bytes", "shape": [4], "data": "UklGRg=="},
        "npy": {"dtype": "bool", "shape": [2], "data": [True, False]},
        "x": {"dtype": "float32", "shape": [1, 2], "data": [[1.0, 2.0]]},
        "y": {"dtype": "bfloat16", "shape": [], "data": 0.5},
    }


def test_json_output_is_strict_whatever_the_arrays_hold(said, tmp_path):
    np.save(tmp_path / "a.npy", np.array([np.nan, np.inf, -np.inf, 1.0]))
    np.save(tmp_path / "c.npy", np.array([1 + 2j]))
    np.save(tmp_path / "z.npy", np.zeros((0, 3), "int8"))
    inputs = [part for name in "acz" for part in ("-i", f"{name}=@{tmp_path}/{name}.npy")]
    result = json.loads(said("call", "echo", "-o", "json", *inputs)[1], parse_constant=pytest.fail)
    assert result["a"]["data"] == ["NaN", "Infinity", "-Infinity", 1.0]
    assert result["c"]["data"] == [[1.0, 2.0]]
    assert (result["z"]["shape"], result["z"]["data"]) == ([0, 3], [])
    assert said("call", "echo", *inputs)[0] == 0


def test_arrays_are_saved_under_any_name(said, tmp_path):
    path = tmp_path / "r.npz"
    status, _, err = said(
        "call", "echo", "-i", "file:int16=[1, 2]", "-i", "h:bfloat16=[0.5]", "-i", "n=1", "--save", str(path)
    )
    assert status == 0
    assert "saved file, h" in err
    with np.load(path) as saved:
        assert saved["file"].dtype == np.int16
        assert saved["h"].tolist() == [0.5]


@pytest.mark.parametrize(
    ("text", "said_of_it"),
    [
        ("x", "name=VALUE"),
        ("=1", "name=VALUE"),
        ("x=@/none/a.npy", "cannot be read: No such file"),
        ("x:float99=1", "no dtype 'float99'"),
        ("x:int8=1000", "no array of int8"),
        ("x:float32=[[1], [1, 2]]", "no array of float32"),
        ("x:object=1", "not carried"),
        ("x=99999999999999999999999999", "cannot be carried"),
    ],
)
def test_a_wrong_input_is_told_in_one_line(said, text, said_of_it):
    status, out, err = said("call", "echo", "-i", text)
    assert (status, out) == (1, "")
    assert err.startswith("huterox: InvalidInput: ")
    assert said_of_it in err
    assert err.count("\n") == 1


def test_an_input_file_that_is_not_what_its_name_says_is_told(said, tmp_path):
    for name, content in {"a.npy": b"", "b.npy": b"\x93NUMPY garbage", "c.json": b"{"}.items():
        (tmp_path / name).write_bytes(content)
        status, _, err = said("call", "echo", "-i", f"x=@{tmp_path}/{name}")
        assert status == 1
        assert f"{name} is no" in err
    np.save(tmp_path / "o.npy", np.array([object()]), allow_pickle=True)
    assert "allow_pickle=False" in said("call", "echo", "-i", f"x=@{tmp_path}/o.npy")[2]
    assert "given twice" in said("call", "echo", "-i", "x=1", "-i", "x=2")[2]


def test_a_stream_is_printed_part_by_part(said):
    assert said("call", "echo", "parts", "-i", "count=3", "--stream")[1] == "index  0\nindex  1\nindex  2\n"
    assert json.loads(said("call", "echo", "parts", "-i", "count=3", "--stream", "-o", "json")[1]) == [
        {"index": 0},
        {"index": 1},
        {"index": 2},
    ]
    assert json.loads(said("call", "echo", "parts", "-i", "count=0", "--stream", "-o", "json")[1]) == []
    assert "--stream" in said("call", "echo", "--stream", "--save", "x.npz")[2]


def test_a_models_error_comes_with_its_traceback(said):
    status, out, err = said("call", "echo", "fail")
    assert (status, out) == (1, "")
    first, *rest = err.splitlines()
    assert first == "huterox: ModelError: ValueError: no such luck"
    assert rest[0] == "Traceback ..."


def test_failures_are_one_line_with_their_code(said, tmp_path):
    for argv, start in {
        ("call", "nobody"): "huterox: NotFound: no service 'nobody'",
        ("call", "echo", "silent", "--timeout", "0.1"): "huterox: DeadlineExceeded: ",
        ("call", "echo", "refuse"): "huterox: Busy: full",
        ("ps",): "huterox: InvalidInput: unknown verb ps",
        ("ps", "--endpoint", f"ipc://{tmp_path}/none.ipc"): "huterox: Unavailable: no switchboard answers at ipc://",
        ("--endpoint", "nonsense", "ps"): "huterox: InvalidInput: 'nonsense' is no endpoint",
        ("deploy", f"{tmp_path}/none.toml"): "huterox: InvalidInput: ",
        ("kernel", "--config", f"{tmp_path}/none.toml"): "huterox: InvalidInput: ",
        ("ps", "--timeout", "-1"): "huterox: InvalidInput: a timeout is above 0",
    }.items():
        status, out, err = said(*argv)
        assert (status, out, err.count("\n")) == (1, "", 1), argv
        assert err.startswith(start), err


@pytest.mark.parametrize(
    "argv", [(), ("nonsense",), ("ps", "--nonsense"), ("create", "x"), ("ps", "-o", "yaml"), ("ps", "--timeout", "x")]
)
def test_wrong_usage_is_one_line_and_status_2(said, argv):
    status, out, err = said(*argv)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("huterox: InvalidInput: ")
    assert "--help" in err


def test_every_verb_explains_itself_with_examples(said):
    daemons = ["up", "connector", "kernel"]
    changes = ["deploy", "undeploy", "create", "delete", "evict", "pin", "unpin", "drain", "resume"]
    lists = ["models", "services", "ps", "nodes", "events", "usage"]
    for verb in [*daemons, *changes, *lists, "call", "logs", "status", "top"]:
        status, out, err = said(verb, "--help")
        assert (status, err) == (0, "")
        assert "examples:" in out
        assert f"huterox {verb}" in out
    assert said("--version")[1].startswith("huterox ")


@pytest.mark.parametrize(
    ("verb", "says"),
    [
        ("pin", "This loads nothing: where the model is absent, the next call loads it."),
        ("services", "--tenant T only of this tenant (default: of all)"),
        ("usage", "--tenant T only of this tenant (default: of all)"),
        ("create", '--tenant T on whose behalf (default: the tenant "default")'),
    ],
)
def test_help_says_what_the_verb_does(said, verb, says):
    assert says in " ".join(said(verb, "--help")[1].split())


def test_what_the_daemons_lack_is_named_with_packages_that_can_be_installed(said, tmp_path, monkeypatch):
    (config := tmp_path / "f.toml").touch()
    monkeypatch.setattr(daemons, "find_spec", lambda name: None)
    for argv in (["kernel", "--config", str(config)], ["bench"], ["up"]):
        status, out, err = said(*argv)
        assert (status, out) == (1, "")
        assert "uvloop, psutil is not installed" in err
        assert "`pip install uvloop psutil nvidia-ml-py`" in err
        assert "huterox[" not in err


def test_daemons_and_bench_replace_the_process(said, tmp_path, monkeypatch):
    became = []
    monkeypatch.setattr(daemons.os, "execv", lambda path, argv: became.append(argv[2:]))
    config = tmp_path / "f.toml"
    config.touch()
    said("kernel", "--config", str(config))
    said("connector", "--config", str(config))
    said("bench", "routed", "--seconds", "2", "-o", "json")
    said("bench", "--help")
    assert became == [
        ["-m", "huterox_kernel", "--config", str(config)],
        ["-m", "huterox_connector", "--config", str(config)],
        ["-m", "huterox_bench", "routed", "--seconds", "2", "-o", "json"],
        ["-m", "huterox_bench", "--help"],
    ]


def test_the_command_starts_without_its_heavy_parts():
    code = "import sys, huterox.cli.main as m; m.make_parser(); print(*({'numpy', 'zmq', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30).stdout == "\n"


def huterox(*argv: str, **options: Any) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "huterox.cli.main", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.system
def test_a_reader_that_leaves_early_is_no_error_message(double):
    double.results["ps"] = lambda args: page(*[{**CONTAINER, "reason": "x" * 10_000}] * 100)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "huterox.cli.main", "ps", "--endpoint", double.endpoint]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_error_of_closing_what_ctrl_c_has_left_half_open_is_not_told(said, monkeypatch):
    def interrupted(*args):
        try:
            raise KeyboardInterrupt
        finally:
            raise Unavailable("this client is closed")

    monkeypatch.setattr(observe, "connected", interrupted)
    assert said("status") == (130, "", "")


@pytest.mark.system
def test_ctrl_c_ends_a_waiting_call_with_status_130(double):
    from huterox_wire.kinds import Kind

    with huterox("call", "echo", "silent", "--endpoint", double.endpoint) as process:
        double.expect(Kind.CALL)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")
    double.expect(Kind.CANCEL)
