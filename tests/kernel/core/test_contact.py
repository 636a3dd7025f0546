"""A kernel without a switchboard says so, in growing pauses, and when the switchboard is back."""

from itertools import pairwise

from huterox_kernel.core.contact import PAUSE_MAX_S, Contact

HEARTBEAT_S = 0.5


def told(contact: Contact, from_s: int, to_s: int) -> list[int]:
    return [now_s for now_s in range(from_s, to_s) if contact.look(float(now_s), HEARTBEAT_S)]


def test_nothing_is_told_while_the_switchboard_answers() -> None:
    contact = Contact("ipc://x", 0.0)
    for now_s in range(100):
        assert not contact.look(float(now_s), HEARTBEAT_S)
        assert not contact.heard(float(now_s))


def test_silence_is_told_after_a_few_seconds_and_again_in_growing_pauses() -> None:
    contact = Contact("ipc://x", 0.0)
    assert told(contact, 0, 200) == [4, 10, 22, 46, 94, 190]
    days = told(contact, 200, 400_000)
    assert max(later - earlier for earlier, later in pairwise(days)) == PAUSE_MAX_S


def test_its_return_is_told_once_and_the_next_silence_is_news() -> None:
    contact = Contact("ipc://x", 0.0)
    assert "ipc://x" in contact.look(4.0, HEARTBEAT_S)
    assert contact.heard(100.0) == "the switchboard at ipc://x answers, after 100.0 s"
    assert not contact.heard(100.1)
    assert told(contact, 101, 150) == [105, 111, 123, 147]


def test_slow_heartbeats_are_no_silence() -> None:
    contact = Contact("ipc://x", 0.0)
    assert not contact.look(20.0, 10.0)
    assert contact.look(23.0, 10.0)


def test_refusal_is_told_once_and_again_in_growing_pauses() -> None:
    contact = Contact("ipc://x", 0.0)
    texts = [contact.refused("a twin is alive", float(now_s)) for now_s in range(200)]
    assert [now_s for now_s, text in enumerate(texts) if text] == [0, 60, 180]
    assert texts[0] == "the switchboard refuses this kernel: a twin is alive"
    assert contact.refused("something else", 200.0)
    contact.taken_in()
    assert contact.refused("something else", 201.0)
