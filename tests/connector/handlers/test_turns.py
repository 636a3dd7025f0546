"""Messages of many peers are worked off in turns."""

from huterox_connector.handlers.turns import Turns


def put(turns: Turns, peer: bytes, count: int, nbytes: int = 10) -> int:
    """So many messages, numbered; how many found room."""
    return sum(turns.put(peer, [b"%05d" % number, bytes(nbytes - 5)], 0.0) for number in range(count))


def test_peers_take_turns_and_each_keeps_its_order() -> None:
    turns = Turns(100, 10_000)
    put(turns, b"a", 3)
    put(turns, b"b", 1)
    put(turns, b"c", 2)
    assert len(turns) == 3
    order = []
    while turns:
        message = turns.next(0.0)
        order.append((message.peer, int(message.frames[0])))
    assert order == [(b"a", 0), (b"b", 0), (b"c", 0), (b"a", 1), (b"c", 1), (b"a", 2)]


def order_of(turns: Turns, count: int) -> list[bytes]:
    return [turns.next(0.0).peer for _ in range(count)]


def test_who_had_nothing_in_line_comes_before_those_who_are_behind() -> None:
    turns = Turns(100, 10_000)
    for flooder in (b"a", b"b", b"c"):
        put(turns, flooder, 9)
    assert order_of(turns, 4) == [b"a", b"b", b"c", b"a"]
    put(turns, b"polite", 1)
    assert turns.has_fresh
    assert order_of(turns, 2) == [b"polite", b"b"]
    put(turns, b"polite", 2)  # the second is one of many
    assert order_of(turns, 5) == [b"polite", b"c", b"a", b"b", b"polite"]
    assert not turns.has_fresh


def test_who_is_behind_is_known_as_long_as_he_is() -> None:
    turns = Turns(100, 10_000)
    behind = turns.behind
    put(turns, b"a", 2)
    assert b"a" not in behind
    turns.next(0.0)
    assert b"a" in behind
    turns.next(0.0)
    assert b"a" not in behind
    assert not turns


def test_message_knows_how_long_it_has_waited() -> None:
    turns = Turns(100, 10_000)
    turns.put(b"a", [b"x"], 2.0)
    message = turns.next(2.5)
    assert (message.waited_s, message.now_s) == (0.5, 2.5)


def test_line_of_a_peer_is_bounded_and_others_have_room() -> None:
    turns = Turns(5, 10_000)
    assert put(turns, b"a", 20) == 5
    assert put(turns, b"b", 20) == 5
    turns.next(0.0)
    assert put(turns, b"a", 2) == 1


def test_nobody_takes_the_bytes_that_are_left_for_others() -> None:
    turns = Turns(1000, 1000)
    assert put(turns, b"a", 100, nbytes=50) == 10  # half of all
    assert put(turns, b"b", 100, nbytes=50) == 5  # half of what is left
    assert put(turns, b"c", 1, nbytes=5000) == 1  # one message always has room: it is here already
    while turns:
        turns.next(0.0)
    assert (turns._nbytes, turns._nbytes_of) == (0, {})
