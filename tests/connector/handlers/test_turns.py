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
        message = turns.next()
        order.append((message.peer, int(message.frames[0])))
    assert order == [(b"a", 0), (b"b", 0), (b"c", 0), (b"a", 1), (b"c", 1), (b"a", 2)]


def test_line_of_a_peer_is_bounded_and_others_have_room() -> None:
    turns = Turns(5, 10_000)
    assert put(turns, b"a", 20) == 5
    assert put(turns, b"b", 20) == 5
    turns.next()
    assert put(turns, b"a", 2) == 1


def test_nobody_takes_the_bytes_that_are_left_for_others() -> None:
    turns = Turns(1000, 1000)
    assert put(turns, b"a", 100, nbytes=50) == 10  # half of all
    assert put(turns, b"b", 100, nbytes=50) == 5  # half of what is left
    assert put(turns, b"c", 1, nbytes=5000) == 1  # one message always has room: it is here already
    while turns:
        turns.next()
    assert (turns._nbytes, turns._nbytes_of) == (0, {})
