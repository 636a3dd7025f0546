"""What refaults tell of the memory that is missing."""

from tests.connector.harness import Harness, closed, created

from huterox_connector.core.ghosts import GHOSTS_MAX, Ghosts
from huterox_connector.core.vectors import MIB


def test_refault_tells_what_was_evicted_since_itself_included() -> None:
    ghosts = Ghosts()
    ghosts.evicted("a", 100 * MIB, load_s=2.0, made_room_for="b", now_s=1.0)
    ghosts.evicted("b", 300 * MIB, load_s=5.0, made_room_for="c", now_s=2.0)
    refault = ghosts.refault("a", now_s=4.0)
    assert refault is not None
    assert refault.facts() == {"more_mb_would_have_kept_it": 400, "gone_for_s": 3.0, "made_room_for": "b"}
    later = ghosts.refault("b", now_s=4.0)
    assert later is not None
    assert later.more_nbytes == 300 * MIB


def test_page_that_was_not_evicted_is_no_refault() -> None:
    ghosts = Ghosts()
    ghosts.evicted("a", 1, 1.0, "b", 1.0)
    assert ghosts.refault("b", 2.0) is None
    assert ghosts.refault("a", 2.0) is not None
    assert ghosts.refault("a", 3.0) is None  # it came back once


def test_summary_says_how_many_loads_each_step_of_memory_would_have_saved() -> None:
    ghosts = Ghosts()
    for page, mb, load_s in (("small", 200, 1.0), ("large", 700, 4.0)):
        ghosts.evicted(page, mb * MIB, load_s, "x", 1.0)
        ghosts.refault(page, 2.0)
    summary = ghosts.summary()
    assert (summary["refaults"], summary["load_s"]) == (2, 5.0)
    assert summary["would_save"][0] == {"more_mb": 256, "loads": 1, "load_s": 1.0}
    assert summary["would_save"][1] == {"more_mb": 512, "loads": 1, "load_s": 1.0}
    assert summary["would_save"][2] == {"more_mb": 1024, "loads": 2, "load_s": 5.0}


def test_ghosts_are_bounded_and_the_oldest_is_forgotten() -> None:
    ghosts = Ghosts()
    for page in range(GHOSTS_MAX + 10):
        ghosts.evicted(page, 1, 1.0, "x", 1.0)
    assert len(ghosts) == GHOSTS_MAX
    assert ghosts.refault(9, 2.0) is None
    assert ghosts.refault(10, 2.0) is not None


def test_where_slots_were_short_and_memory_was_not_slots_are_named() -> None:
    ghosts = Ghosts()
    for number, page in enumerate("abc"):
        ghosts.evicted(page, 100 * MIB, 1.0, "x", float(number), for_memory=False, for_slot=True)
    refault = ghosts.refault("b", 5.0)
    assert refault is not None
    assert refault.facts() == {"more_slots_would_have_kept_it": 2, "gone_for_s": 4.0, "made_room_for": "x"}
    summary = ghosts.summary()
    assert summary["would_save"] == []
    assert summary["slots_would_save"][0] == {"more_slots": 2, "loads": 1, "load_s": 1.0}


def test_where_both_were_short_neither_alone_is_said_to_help() -> None:
    ghosts = Ghosts()
    ghosts.evicted("a", 100 * MIB, 1.0, "x", 0.0, for_memory=True, for_slot=True)
    refault = ghosts.refault("a", 1.0)
    assert refault is not None
    assert (refault.more_nbytes, refault.more_slots) == (100 * MIB, 1)
    summary = ghosts.summary()
    assert (summary["refaults"], summary["would_save"], summary["slots_would_save"]) == (1, [], [])


def test_who_leaves_for_a_slot_does_not_ask_for_memory() -> None:
    harness = Harness()
    node = harness.node(slots=1, host_mb=1000)
    for name in ("a", "b"):
        harness.service(name)
    for request_id, name in enumerate("aba"):
        now_s = 10.0 * (request_id + 1)
        effects = harness.call(name, request_id + 1, now_s)
        for close in closed(effects):
            effects += harness.gone(node, close.container, now_s)
        (create,) = created(effects)
        harness.ready(node, create.container, now_s)
        harness.answer(node, request_id + 1)
    (row,) = harness.ask("nodes", 40.0)
    assert row["memory"]["would_save"] == []
    assert row["memory"]["slots_would_save"][0]["more_slots"] == 1
