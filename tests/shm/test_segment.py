import errno
import os

import pytest

from huterox_shm.errors import HandoverError, LaneFull
from huterox_shm.segment import Segment, create_memfd, reserve_pages

MIB = 1 << 20


@pytest.fixture
def segment(no_descriptor_leaks):
    made = Segment(create_memfd(64 * MIB))
    yield made
    made.close()


def pages_nbytes(segment):
    return os.fstat(segment.fd).st_blocks * 512


@pytest.mark.parametrize("nbytes", [0, 4096, 128 * MIB])
def test_sealed_segment_refuses_another_size(segment, nbytes):
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, nbytes)


def test_descriptor_is_not_inherited(segment):
    assert not os.get_inheritable(segment.fd)


def test_fresh_segment_is_large_and_has_no_pages(segment):
    assert segment.nbytes == len(segment.buffer) == 64 * MIB
    assert pages_nbytes(segment) == 0


def test_reserved_span_has_pages_and_a_punched_one_has_none(segment):
    segment.reserve(4 * MIB, 2 * MIB)
    assert pages_nbytes(segment) == 2 * MIB
    segment.buffer[4 * MIB : 4 * MIB + 5] = b"hello"
    segment.punch(4 * MIB, MIB)
    assert pages_nbytes(segment) == MIB
    segment.punch(5 * MIB, MIB)
    assert pages_nbytes(segment) == 0
    assert segment.buffer[4 * MIB : 4 * MIB + 5] == bytes(5)


def test_two_mappings_see_the_same_bytes(segment):
    other = Segment(os.dup(segment.fd))
    segment.buffer[100:103] = b"abc"
    assert other.buffer[100:103] == b"abc"
    other.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_system_without_memory_is_a_full_lane(segment, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(LaneFull):
        segment.reserve(0, 4096)
    with pytest.raises(LaneFull):
        reserve_pages(segment.fd, 0, 4096)


def test_other_refusals_of_the_system_are_told_as_they_are(segment):
    with pytest.raises(PermissionError):  # it would have to grow
        segment.reserve(0, 128 * MIB)


def test_file_on_disk_is_refused(tmp_path, no_descriptor_leaks):
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(4096)
        with pytest.raises(HandoverError):
            Segment(file.fileno())


def test_unsealed_memfd_is_refused(no_descriptor_leaks):
    fd = os.memfd_create("unsealed", os.MFD_ALLOW_SEALING)
    with pytest.raises(HandoverError, match="sealed"):
        Segment(fd)
    os.close(fd)


def test_empty_memfd_is_refused(no_descriptor_leaks):
    fd = create_memfd(0)
    with pytest.raises(HandoverError, match="empty"):
        Segment(fd)
    os.close(fd)


def test_view_outlives_the_close_and_keeps_its_bytes(fds):
    before = fds()
    segment = Segment(create_memfd(MIB))
    segment.buffer[:4] = b"kept"
    view = memoryview(segment.buffer)[:4]
    segment.close()
    segment.close()
    assert bytes(view) == b"kept"
    view.release()
    del view
    assert fds() == before


def test_nothing_is_left_when_the_memfd_cannot_be_made(no_descriptor_leaks):
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        create_memfd(-1)
