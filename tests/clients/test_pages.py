"""Lists in pages: all of them, in order, within one timeout and a bound. Sans-IO, and through both clients."""

from collections.abc import Callable
from typing import Any

import pytest

import huterox
from huterox import pages as pages_module
from huterox.pages import EventPages, Pages
from huterox_wire.errors import DeadlineExceeded, Fault, TooLarge

JOURNAL = [{"seq": seq, "kind": "load", "subject": "even" if seq % 2 == 0 else "odd"} for seq in range(1, 31)]
PAGE = 4


def in_pages(names: list[str]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A switchboard's list, three rows a page."""

    def answer(args: dict[str, Any]) -> dict[str, Any]:
        left = [name for name in names if name > args.get("after", "")]
        rows = [{"name": name} for name in left[:3]]
        return {"rows": rows, "next": left[2] if len(left) > 3 else ""}

    return answer


def journal(args: dict[str, Any]) -> dict[str, Any]:
    """The switchboard's `events`, of which an answer holds four at most."""
    after, before, limit = args.get("after", 0), args.get("before", 0), args["limit"]
    found = [e for e in JOURNAL if e["seq"] > after and (not before or e["seq"] < before)]
    found = [e for e in found if args.get("subject", "") in e["subject"]]
    taken = min(limit, PAGE)
    events = found[:taken] if after else found[-taken:]
    more = len(events) < min(len(found), limit) or len(events) == limit
    return {"events": events, "next": events[-1]["seq"] if events else after, "more": more}


def seqs(events: list[dict[str, Any]]) -> list[int]:
    return [event["seq"] for event in events]


def test_a_list_of_many_pages_comes_whole_and_in_order(double, client):
    names = [f"n{index:02}" for index in range(17)]
    asked = []
    answer = in_pages(names)
    double.results["services"] = lambda args: asked.append(args) or answer(args)
    assert [row["name"] for row in client.services(tenant="acme")] == names
    assert asked[0] == {"tenant": "acme"}
    assert asked[1] == {"tenant": "acme", "after": "n02"}
    assert len(asked) == 6


def test_the_asyncio_client_puts_pages_together_likewise(double, run):
    names = [f"n{index}" for index in range(7)]
    double.results |= {verb: in_pages(names) for verb in ("ps", "nodes", "models", "services", "usage")}
    double.results["events"] = journal

    async def main():
        async with huterox.aconnect(double.endpoint) as client:
            for rows in (
                await client.containers(),
                await client.nodes(),
                await client.models(),
                await client.services(),
                await client.usage(),
            ):
                assert [row["name"] for row in rows] == names
            assert seqs(await client.events(limit=10)) == list(range(21, 31))

    run(main())


@pytest.mark.parametrize("length", [0, 1, 3, 4])
def test_a_list_whose_last_page_is_full_or_empty_ends(double, client, length):
    names = [f"n{index}" for index in range(length)]
    double.results["nodes"] = in_pages(names)
    assert [row["name"] for row in client.nodes()] == names


def test_the_newest_events_are_gathered_backwards(double, client):
    double.results["events"] = journal
    assert client.events() == JOURNAL
    assert seqs(client.events(limit=10)) == list(range(21, 31))
    assert seqs(client.events(limit=1)) == [30]
    assert seqs(client.events(limit=5, subject="odd")) == [21, 23, 25, 27, 29]


def test_events_after_one_are_gathered_forwards(double, client):
    double.results["events"] = journal
    assert seqs(client.events(after=1)) == list(range(2, 31))
    assert seqs(client.events(after=10, limit=6)) == list(range(11, 17))
    assert client.events(after=30) == []


def test_no_more_is_asked_for_than_the_switchboard_gives_at_once():
    pages = EventPages(0, 5000, 1.0, now_s=0.0)
    assert pages.where == {"limit": 1000}
    pages.take({"events": JOURNAL, "more": True})
    assert pages.where is None  # nothing comes before the first event


def test_all_pages_together_have_the_time_of_one_answer():
    pages = Pages(2.0, now_s=10.0)
    assert pages.left_s(10.0) == 2.0
    pages.take({"rows": [{}], "next": "a"})
    assert pages.left_s(11.5) == pytest.approx(0.5)
    with pytest.raises(DeadlineExceeded, match="1 rows of it have come"):
        pages.left_s(12.0)


def test_a_list_that_does_not_go_on_is_a_fault():
    pages = Pages(1.0, now_s=0.0)
    pages.take({"rows": [{}], "next": "a"})
    with pytest.raises(Fault, match="does not go on"):
        pages.take({"rows": [{}], "next": "a"})
    with pytest.raises(Fault, match="does not go on"):
        Pages(1.0, now_s=0.0).take({"rows": [], "next": "a"})
    events = EventPages(5, 100, 1.0, now_s=0.0)
    with pytest.raises(Fault, match="does not go on"):
        events.take({"events": [{"seq": 5}], "more": True})


def test_an_endless_list_is_ended(monkeypatch):
    monkeypatch.setattr(pages_module, "ROWS_MAX", 10)
    pages = Pages(1.0, now_s=0.0)
    pages.take({"rows": [{}] * 10, "next": "a"})
    with pytest.raises(TooLarge, match="more than 10 rows"):
        pages.take({"rows": [{}], "next": "b"})


@pytest.mark.parametrize("page", [None, [], {}, {"rows": []}, {"rows": {}, "next": ""}, {"rows": [], "next": None}])
def test_an_answer_that_is_no_page_is_a_fault(page):
    with pytest.raises(Fault, match="malformed"):
        Pages(1.0, now_s=0.0).take(page)
