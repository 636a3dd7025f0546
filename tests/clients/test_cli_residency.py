"""The command's view of residency: usage, tiers, nodes, causes and costs, `top`. In-process, with a double."""

import io
import json
import sys
import time
from typing import Any

import pytest

from huterox.cli import top
from huterox.cli.facts import facts_text
from huterox_wire.errors import ResourceInterrupt

AMOUNTS = {
    "calls": 7,
    "errors": 1,
    "busy_s": 1.25,
    "host_byte_s": 3600 * 1024**3 * 2,
    "device_byte_s": 0,
    "faults": 3,
    "refused": 2,
}
SERVICE = {
    "id": "s1.1",
    "name": "who-speaks",
    "tenant": "acme",
    "model": "vad",
    "algorithm": "speech",
    "tier": "dedicated",
    "lend": True,
    "quota": {"in_flight_max": 4},
    "state": "ready",
    "bits": ["present", "dedicated", "accessed"],
    "container": "c1.2",
    "containers": ["c1.2", "c1.3"],
    "created_at": 1.0,
    "run_time_s": 65.0,
    "hits": 7,
    "last_hit_at": None,
    "info": {"owner": "ops"},
    "usage": AMOUNTS,
}
CONTAINER = {
    "id": "c1.2",
    "model": "vad",
    "node": "n1",
    "state": "ready",
    "hits": 10,
    "in_flight": 1,
    "last_hit_at": None,
    "run_time_s": 5.0,
    "footprint_declared_mb": 300,
    "footprint_reserved_mb": 300,
    "footprint_measured_mb": 157.2,
    "device_measured_mb": 0,
    "lanes": 2,
    "timings_s": {"fork": 0.012, "import": 0.0, "load": 1.5, "warmup": 0.25},
    "services": ["acme/who-speaks"],
    "reason": "fault by acme/who-speaks",
}
NODE = {
    "node": "n1",
    "host": "h",
    "state": "ready",
    "pid": 7,
    "slots": 8,
    "slots_used": 2,
    "host_mb": 4096,
    "host_mb_limit": 3072,
    "host_mb_used": 300,
    "containers": 2,
    "policy": "lru",
    "devices": [{"id": "GPU-8f2a5b1c-77", "mb": 81920, "mb_limit": 77824, "mb_used": 12288}],
    "claimed_for": "llm",
    "memory": {
        "refaults": 20,
        "load_s": 9.0,
        "would_save": [
            {"more_mb": 256, "loads": 3, "load_s": 0.5},
            {"more_mb": 512, "loads": 12, "load_s": 3.4},
            {"more_mb": 1024, "loads": 18, "load_s": 8.0},
        ],
    },
    "last_heartbeat_at": 0.0,
    "kernel_version": "0.1.0",
}
INTERRUPT = {
    "model": "llm",
    "needed": {"slots": 1, "host_mb": 6000},
    "waited_s": 0.25,
    "would_help": ["coming back later", "unpinning yolo"],
    "retry_after_s": 1.5,
    "nodes_in_all": 1,
    "nodes": [
        {
            "node": "n1",
            "capacity": {"slots": 8, "host_mb": 8192},
            "free": {"slots": 3, "host_mb": 2048},
            "held_by": [
                {"container": f"c1.{n}", "model": "yolo", "slots": 1, "host_mb": 1024, "stays_because": "pinned"}
                for n in range(5)
            ],
            "held_by_others": 2,
        }
    ],
}


def page(*rows: Any) -> dict[str, Any]:
    return {"rows": [*rows], "next": ""}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


# Lists.


def test_usage_is_told_by_tenant_or_by_service(said, double):
    asked = []
    rows = {
        "tenant": {"tenant": "acme", "services": 2, **AMOUNTS},
        "service": {"service": "cam", "id": "s1.4", "tenant": "acme", "services": 1, **AMOUNTS},
    }
    double.results["usage"] = lambda args: asked.append(args) or page(rows[args["by"]])
    titles, row = said("usage")[1].splitlines()
    assert cells(titles)[:4] == ["TENANT", "SERVICES", "CALLS", "ERRORS"]
    assert cells(row) == ["acme", "2", "7", "1", "2", "3", "1.2 s", "2", "0"]
    titles, row = said("usage", "--by", "service", "--tenant", "acme")[1].splitlines()
    assert cells(row)[:3] == ["cam", "acme", "7"]
    assert cells(row)[-1] == "s1.4"
    assert json.loads(said("usage", "-o", "json")[1]) == [rows["tenant"]]
    assert asked == [{"by": "tenant"}, {"by": "service", "tenant": "acme"}, {"by": "tenant"}]
    assert said("usage", "--by", "model")[0] == 2


def test_wide_services_show_bits_quota_and_texts(said, double):
    double.results["services"] = lambda args: page(SERVICE)
    titles, row = said("services", "-o", "wide")[1].splitlines()
    told = dict(zip(cells(titles), cells(row), strict=False))
    assert told["BITS"] == "present, dedicated, accessed"
    assert "4 in flight" in row
    assert "owner=ops" in row
    assert "c1.2, c1.3" in row
    assert "BITS" not in said("services")[1]
    assert json.loads(said("services", "-o", "json")[1]) == [SERVICE]


def test_wide_containers_show_what_their_creation_took(said, double):
    double.results["ps"] = lambda args: page(CONTAINER)
    titles, row = said("ps", "-o", "wide")[1].splitlines()
    assert titles.split()[-7:-2] == ["ZYGOTE", "FORK", "IMPORT", "LOAD", "WARMUP"]
    assert "-  12 ms    0 ms  1.5 s  250 ms" in row
    assert "FORK" not in said("ps")[1]


def test_nodes_say_how_much_more_memory_would_have_saved(said, double):
    double.results["nodes"] = lambda args: page(NODE)
    out = said("nodes")[1]
    assert "512 MB more would have saved 12 of 20 reloads, 3.4 s" in out

    assert "300 MB of 4.0 GB, others have 1.0 GB" in out
    assert "GPU-8f2a5b1c 12.0 GB of 76.0 GB" in out
    assert "llm" in out
    double.results["nodes"] = lambda args: page({**NODE, "memory": {"refaults": 0, "load_s": 0, "would_save": []}})
    assert "more would" not in said("nodes")[1]


def test_nodes_name_slots_where_those_were_short(double, said):
    short = {"refaults": 9, "load_s": 5.0, "would_save": []}
    short["slots_would_save"] = [
        {"more_slots": 2, "loads": 8, "load_s": 4.5},
        {"more_slots": 4, "loads": 9, "load_s": 5.0},
    ]
    double.results["nodes"] = lambda args: page({**NODE, "memory": short})
    assert "2 slots more would have saved 8 of 9 reloads, 4.5 s" in said("nodes")[1]


# The operator's hand.


@pytest.mark.parametrize(
    ("argv", "sent", "told"),
    [
        (("pin", "cam", "--tenant", "acme"), {"name": "cam", "tenant": "acme"}, "where it is absent, a call loads it"),
        (("unpin", "cam"), {"name": "cam", "tenant": ""}, "it is shared now"),
        (("drain", "n1"), {"name": "n1"}, "draining n1"),
        (("resume", "n1"), {"name": "n1"}, "n1 takes containers again"),
    ],
)
def test_each_change_is_sent_and_confirmed(said, double, argv, sent, told):
    asked = []
    double.results[argv[0]] = lambda args: asked.append(args) or {**SERVICE, "node": "n1"}
    assert told in said(*argv)[1]
    assert json.loads(said(*argv, "-o", "json")[1])["name"] == "who-speaks"
    assert asked == [sent, sent]


def test_a_service_is_created_with_all_that_it_can_have(said, double):
    asked = []
    double.results["create"] = lambda args: asked.append(args) or SERVICE
    options = ["--tier", "dedicated", "--lend", "--in-flight-max", "4", "--info", "owner=ops", "--info", "why=a=b"]
    assert said("create", "cam", "--model", "yolo", *options)[0] == 0
    assert asked == [
        {
            "name": "cam",
            "model": "yolo",
            "tier": "dedicated",
            "lend": True,
            "in_flight_max": 4,
            "info": {"owner": "ops", "why": "a=b"},
            "tenant": "",
        }
    ]


@pytest.mark.parametrize(
    "options",
    [
        ("--tier", "golden"),
        ("--in-flight-max", "0"),
        ("--in-flight-max", "-3"),
        ("--in-flight-max", "many"),
        ("--info", "owner"),
        ("--info", "=ops"),
    ],
)
def test_a_wrong_option_of_create_is_told_and_nothing_is_sent(said, double, options):
    double.results["create"] = lambda args: pytest.fail("sent")
    status, out, err = said("create", "cam", "--model", "yolo", *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert options[0] in err


# Causes and costs.


def test_an_event_is_followed_by_its_numbers_unless_it_is_to_be_brief(said, double):
    event = {
        "seq": 1,
        "at": 0.0,
        "kind": "evict",
        "subject": "vad c1.2",
        "reason": "room for reader",
        "details": {
            "node": "n1",
            "frees": {"slots": 1, "host_mb": 157},
            "reload_s": 0.42,
            "idle_s": 4.0,
            "policy": "lru",
        },
    }
    plain = {**event, "seq": 2, "kind": "create", "details": {}}
    double.results["events"] = lambda args: {"events": [event, plain], "next": 2, "more": False}
    _, first, numbers, second = said("events")[1].splitlines()
    assert first.endswith("room for reader")
    assert "create" in second
    assert numbers.strip() == "node n1; frees 1 slot, 157 MB; to load it again 420 ms; idle 4.0 s; policy lru"
    assert numbers.index("node") == first.index("evict")
    assert len(said("events", "--brief")[1].splitlines()) == 3


def test_the_numbers_of_a_load_are_told():
    assert facts_text(
        {
            "node": "n1",
            "needs": {"slots": 1, "host_mb": 48, "device": "GPU-1", "device_mb": 3000},
            "free": {"slots": 0, "host_mb": 75, "devices_mb": {"GPU-1": 100}},
            "load_s_expected": 0.24,
            "waiting": 3,
            "timings_s": {"fork": 0.02, "load": 1.5},
            "refault": {"more_mb_would_have_kept_it": 48, "gone_for_s": 3.9, "made_room_for": "m4"},
            "makes_leave": ["c1.8"],
            "cost_s": 0.092,
            "stays": {"c1.6": "dedicated", "c1.7": "2 calls in flight"},
        }
    ).split("; ") == [
        "node n1",
        "needs 1 slot, 48 MB, 2.9 GB on GPU-1",
        "free 0 slots, 75 MB, 100 MB on GPU-1",
        "expected to load in 240 ms",
        "calls waiting 3",
        "took fork 20 ms, load 1.5 s",
        "48 MB more would have kept it (gone for 3.9 s, evicted for m4)",
        "makes leave c1.8",
        "to load them again 92 ms",
        "stays c1.6 dedicated, c1.7 2 calls in flight",
    ]


def test_the_facts_of_a_refusal_are_told():
    text = facts_text(INTERRUPT)
    assert "needed 1 slot, 5.9 GB; waited 250 ms; would help coming back later, unpinning yolo" in text
    assert "n1 has 3 slots, 2.0 GB free of 8 slots, 8.0 GB; held by yolo c1.0 (1.0 GB: pinned)" in text
    assert text.endswith("and 2 more")


def test_what_nobody_knows_of_is_left_out_and_long_lists_are_cut():
    assert facts_text({}) == ""
    assert facts_text({"a": None, "b": [], "c": {}, "d": "", "load_s_expected": 0.0}) == ""
    assert facts_text({"services": [f"s{n}" for n in range(10)]}).endswith("s7, and 2 more")
    assert (
        facts_text({"odd": "\x1b[31m\nred", "share": 0.5, "flag": True}) == "odd \ufffd[31m red; share 0.5; flag True"
    )


def test_a_call_without_room_ends_in_one_line_with_what_would_help(said, double):
    def refuse(name: str, tenant: str) -> Any:
        raise ResourceInterrupt("no room for model 'llm'", **INTERRUPT)

    double._open = refuse
    status, out, err = said("call", "writer")
    assert (status, out) == (1, "")
    assert err == (
        "huterox: ResourceInterrupt: no room for model 'llm'; what would help: coming back later, unpinning yolo"
        " (room may come in 1.5 s)\n"
    )


# top


@pytest.fixture
def platform(double: Any) -> Any:
    """A switchboard with one node and three containers."""
    usage = {"tenant": "acme", "services": 1, **AMOUNTS}
    double.results |= {
        "status": lambda args: {"uptime_s": 65.0, "nodes": 1, "containers": 3, "services": 4, "models": 5},
        "nodes": lambda args: page(NODE),
        "ps": lambda args: page(*({**CONTAINER, "id": f"c1.{n}", "model": f"m{n}"} for n in range(3))),
        "usage": lambda args: page(usage),
    }
    return double


def test_top_shows_one_frame_where_once_is_asked_for(said, platform):
    status, out, err = said("top", "--once")
    assert (status, err) == (0, "")
    assert "up 1m05s" in out
    assert "1 nodes, 3 containers, 4 services, 5 models" in out
    assert "300 MB of 4.0 GB  [#" in out
    assert "\x1b" not in out
    assert json.loads(said("top", "--once", "-o", "json")[1])["nodes"] == [NODE]


@pytest.mark.parametrize("output", ["text", "json"])
def test_top_goes_on_until_it_is_interrupted(said, platform, monkeypatch, output):
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(top.time, "sleep", sleep)
    status, out, _ = said("top", "--interval", "0.5", "-o", output)
    assert (status, slept) == (130, [0.5] * 3)
    if output == "json":
        assert [json.loads(line)["status"]["models"] for line in out.splitlines()] == [5] * 3
    else:
        assert out.count("1 nodes, 3 containers") == 3


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_top_draws_a_terminals_screen_anew_and_keeps_within_it(said, platform, monkeypatch):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "6")
    assert said("top", "--once")[0] == 0
    clear, *lines = terminal.getvalue().removesuffix("\n").splitlines()
    assert clear.startswith("\x1b[H\x1b[2J")
    assert len(lines) == 4
    assert all(len(line) <= 40 for line in lines)


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "inf"])
def test_top_refuses_an_interval_that_cannot_be(said, platform, interval):
    status, _, err = said("top", "--interval", interval)
    assert (status, err.count("\n")) == (1, 1)
    assert "--interval is at least 0.1 s" in err


def sample(at_s: float, hits: dict[str, int], calls: int) -> top.Sample:
    rows = [{**CONTAINER, "id": name, "hits": count} for name, count in hits.items()]
    return top.Sample(at_s, {"uptime_s": 1.0}, [NODE], rows, [{"tenant": "acme", **AMOUNTS, "calls": calls}])


def test_rates_are_those_since_the_frame_before_and_the_busiest_come_first():
    now_s = time.time()
    first = sample(now_s, {"a": 10, "b": 10}, calls=20)
    second = sample(now_s + 2.0, {"a": 12, "b": 50, "new": 8}, calls=70)
    lines = top.frame(second, first)
    assert "25 calls/s" in lines[0]
    at = next(index for index, line in enumerate(lines) if line.startswith("CONTAINER"))
    assert [line.split()[0] for line in lines[at + 1 : at + 4]] == ["b", "new", "a"]
    assert [line.split()[4] for line in lines[at + 1 : at + 4]] == ["20", "4.0", "1.0"]
    assert "- calls/s" in top.frame(first, None)[0]


def test_an_empty_platform_has_a_frame_too():
    nothing = top.Sample(0.0, {"uptime_s": 1.0}, [], [], [])
    lines = top.frame(nothing, None)
    assert "no nodes: no kernel has registered" in lines
    assert "no containers: nothing is resident" in lines
    assert top.bar(5, 0) == "[" + "." * 20 + "]"
    assert top.bar(500, 100) == "[" + "#" * 20 + "]"
