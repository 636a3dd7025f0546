import os
import socket

import pytest

from huterox_shm.errors import HandoverError, TooManyTokens
from huterox_shm.handover import TOKEN_NBYTES, Tokens, peer_uid, receive_descriptors, send_descriptors


@pytest.fixture
def pair(no_descriptor_leaks):
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right:
        left.settimeout(10)
        right.settimeout(10)
        yield left, right


@pytest.fixture
def files(pair, tmp_path):
    """Descriptors to give away; closed afterwards."""
    made = []
    for number in range(6):
        path = tmp_path / str(number)
        path.write_text(str(number))
        made.append(os.open(path, os.O_RDONLY))
    yield made
    for fd in made:
        os.close(fd)


def test_descriptors_arrive_in_order_with_their_payload_and_are_not_inherited(pair, files):
    left, right = pair
    send_descriptors(left, b"three files", files[:3])
    payload, fds = receive_descriptors(right, 100, 3)
    assert payload == b"three files"
    assert [os.read(fd, 10) for fd in fds] == [b"0", b"1", b"2"]
    for fd in fds:
        assert not os.get_inheritable(fd)
        os.close(fd)


def test_message_without_descriptors_arrives_without(pair):
    left, right = pair
    send_descriptors(left, b"x", [])
    assert receive_descriptors(right, 100, 3) == (b"x", [])


@pytest.mark.parametrize(("sent", "expected"), [(1, 0), (4, 3), (2, 1), (6, 1)])
def test_surplus_descriptors_are_closed_and_refused(pair, files, fds, sent, expected):
    left, right = pair
    before = fds()
    send_descriptors(left, b"x", files[:sent])
    with pytest.raises(HandoverError):
        receive_descriptors(right, 100, expected)
    assert fds() == before
    send_descriptors(left, b"next", [])
    assert receive_descriptors(right, 100, 0) == (b"next", [])


def test_payload_over_the_limit_is_refused_and_its_descriptors_closed(pair, files, fds):
    left, right = pair
    before = fds()
    send_descriptors(left, bytes(101), files[:2])
    with pytest.raises(HandoverError):
        receive_descriptors(right, 100, 3)
    assert fds() == before


def test_empty_payload_is_refused(pair):
    with pytest.raises(HandoverError):
        send_descriptors(pair[0], b"", [])


def test_closed_peer_reads_as_nothing(pair):
    left, right = pair
    left.close()
    assert receive_descriptors(right, 100, 3) == (b"", [])
    with pytest.raises(BrokenPipeError):
        send_descriptors(right, b"x", [])


def test_non_blocking_socket_says_that_nothing_is_here(pair):
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        receive_descriptors(pair[1], 100, 3)


def test_peer_uid_is_that_of_the_process_at_the_other_end(pair):
    assert peer_uid(pair[0]) == os.getuid()


def make_tokens(**options):
    numbers = iter(range(1, 1000))
    return Tokens(10.0, random_bytes=lambda nbytes: next(numbers).to_bytes(nbytes, "little"), **options)


def test_token_is_good_for_one_redemption():
    tokens = make_tokens()
    token = tokens.issue(0.0)
    other = tokens.issue(0.0)
    assert tokens.redeem(token, 1.0)
    assert not tokens.redeem(token, 1.0)
    assert tokens.redeem(other, 1.0)


def test_token_expires():
    tokens = make_tokens()
    token = tokens.issue(0.0)
    assert not tokens.redeem(token, 10.0)
    assert len(tokens) == 0


@pytest.mark.parametrize("wrong", [b"", b"x", bytes(TOKEN_NBYTES), bytes(1000)])
def test_wrong_token_is_refused_and_the_right_one_stays_good(wrong):
    tokens = make_tokens()
    token = tokens.issue(0.0)
    assert not tokens.redeem(wrong, 1.0)
    assert tokens.redeem(token, 1.0)


def test_tokens_beyond_the_limit_are_refused_until_some_expire():
    tokens = make_tokens(tokens_max=2)
    tokens.issue(0.0)
    tokens.issue(5.0)
    with pytest.raises(TooManyTokens):
        tokens.issue(9.0)
    tokens.issue(10.0)
    with pytest.raises(TooManyTokens):
        tokens.issue(10.0)


def test_tokens_are_random_by_default():
    tokens = Tokens(10.0)
    first, second = tokens.issue(0.0), tokens.issue(0.0)
    assert first != second
    assert len(first) == TOKEN_NBYTES
