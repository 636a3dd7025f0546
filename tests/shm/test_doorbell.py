import os
import select
import threading

import pytest

from huterox_shm.doorbell import BELL, Doorbell, create_eventfd
from huterox_shm.errors import HandoverError


@pytest.fixture
def bell(no_descriptor_leaks):
    made = Doorbell(create_eventfd())
    yield made
    made.close()


def test_rings_add_up_until_they_are_read(bell):
    bell.ring(3)
    bell.ring(4)
    bell.wake()
    assert bell.read() == BELL + 7
    with pytest.raises(BlockingIOError):
        bell.read()


def test_it_is_readable_while_something_was_rung(bell):
    poll = select.poll()
    poll.register(bell.fileno(), select.POLLIN)
    assert poll.poll(0) == []
    bell.ring(1)
    assert poll.poll(0) != []
    bell.read()
    assert poll.poll(0) == []


def test_full_count_refuses_to_ring_and_wakes_quietly(bell):
    bell.ring(2**64 - 2)
    with pytest.raises(BlockingIOError):
        bell.ring(1)
    bell.wake()


def test_blocking_eventfd_is_made_non_blocking(no_descriptor_leaks):
    bell = Doorbell(os.eventfd(0))
    with pytest.raises(BlockingIOError):
        bell.read()
    bell.close()
    bell.close()


def test_reading_waits_for_nobody_though_a_peer_has_made_it_blocking(bell):
    os.set_blocking(bell.fd, True)
    with pytest.raises(BlockingIOError):
        bell.read()
    bell.ring(5)
    assert bell.read() == 5


def test_who_hangs_in_a_stuffed_doorbell_is_freed_by_somebody_else(bell):
    bell.ring(2**63 - 1)
    assert not bell.unstuff()
    bell.ring(2**63 - 1)
    os.set_blocking(bell.fd, True)
    hanging = threading.Thread(target=bell.ring, args=(2,))
    hanging.start()
    hanging.join(0.1)
    assert hanging.is_alive()
    assert bell.unstuff()
    hanging.join(10.0)
    assert not hanging.is_alive()
    assert bell.read() == 2


def test_descriptor_of_another_kind_is_refused(no_descriptor_leaks):
    reading, writing = os.pipe()
    with pytest.raises(HandoverError):
        Doorbell(reading)
    os.close(reading)
    os.close(writing)
    with pytest.raises(HandoverError):
        Doorbell(reading)
