"""The journal's numbers and times."""

from tests.connector.harness import Harness

from huterox_connector.core.events import Ticked
from huterox_connector.core.journal import Journal

OFFSET_S = 1000.0


def test_events_are_numbered_and_have_the_time_of_the_clock() -> None:
    journal = Journal(2, OFFSET_S)
    for now_s in (1.0, 2.0, 3.0):
        journal.record("kind", "subject", "reason", now_s)
    assert [(event.seq, event.at) for event in journal.between(0, 0, 10)] == [(2, 1002.0), (3, 1003.0)]


def test_a_clock_that_was_set_is_followed_and_told() -> None:
    journal = Journal(10, OFFSET_S)
    assert journal.follow_clock(None, 1.0) == []
    assert journal.follow_clock(OFFSET_S + 0.5, 1.0) == []  # it drifts
    (event,) = journal.follow_clock(OFFSET_S - 3600.0, 2.0)
    assert (event.kind, event.reason, event.at) == ("clock", "its clock was set by -3600.0 s", 2.0 + OFFSET_S - 3600.0)
    assert journal.follow_clock(OFFSET_S - 3600.0, 3.0) == []
    assert journal.since_start(journal.at(7.0)) == 7.0


def test_a_set_clock_changes_when_things_happened_and_nothing_else() -> None:
    harness = Harness()
    harness.node("n1")
    harness.on(Ticked(OFFSET_S + 86400.0), 1.0)
    harness.on(Ticked(OFFSET_S - 86400.0), 2.0)
    kinds = [event["kind"] for event in harness.ask("events")["events"]]
    assert kinds.count("clock") == 2
    assert "node.lost" not in kinds
