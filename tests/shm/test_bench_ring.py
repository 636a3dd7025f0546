"""What the hot path of a lane costs in one process, without a wake-up. Run by `make bench`."""

import pytest

from huterox_shm.lane import BEGUN, REPLY, REQUEST_RELEASED, CallerEnd, ContainerEnd, LaneConfig, create_lane
from huterox_shm.layout import CALL, ENTRY_NBYTES
from huterox_shm.ring import Consumer, Producer
from huterox_shm.slab import Slab

pytestmark = pytest.mark.bench
ENTRIES = 1024


@pytest.mark.parametrize("count", [1, 64])
def test_bench_ring_publish_and_take(benchmark, count):
    buffer = bytearray(2 * ENTRIES * ENTRY_NBYTES)
    left, right = Consumer(buffer, ENTRIES * ENTRY_NBYTES, ENTRIES), Consumer(buffer, 0, ENTRIES)
    producer = Producer(buffer, 0, ENTRIES, left)

    def publish_and_take():
        for call_id in range(count):
            producer.publish(CALL, 0, call_id, 4096, 1024, 0, 0, 64)
        producer.flushed = producer.published
        taken = list(right.take(count))
        right.acknowledged = right.consumed
        producer.on_acked(right.consumed & 0xFFFFFFFF)
        return taken

    assert len(benchmark(publish_and_take)) == count


@pytest.mark.parametrize("nbytes", [1024, 4_915_200])
def test_bench_slab_claim_and_release(benchmark, nbytes):
    slab = Slab(0, 512 << 20)

    def claim_and_release():
        slab.release(slab.claim(nbytes))

    benchmark(claim_and_release)
    assert not slab.out


@pytest.mark.parametrize("count", [1, 64])
def test_bench_lane_round_trip(benchmark, count):
    descriptors = create_lane(LaneConfig(), 1)
    payload = bytes(1024)
    with CallerEnd.attach(descriptors.duplicate()) as caller, ContainerEnd.attach(descriptors) as container:

        def round_trip():
            for _ in range(count):
                offset = caller.claim(1024)
                caller.write_view(offset, 1024)[:] = payload
                caller.publish_call(None, offset, 1024)
            caller.flush()
            for _, _, call_id, offset, nbytes, _, _ in container.take():
                container.header[BEGUN] = call_id
                reply_at = container.claim(nbytes)
                container.write_view(reply_at, nbytes)[:] = container.view(offset, nbytes)
                container.publish_reply(REPLY, REQUEST_RELEASED, call_id, reply_at, nbytes)
                container.count(1, 1)
            container.flush()
            replies = caller.take()
            for *_, offset, _ in replies:
                caller.release(offset)
            return replies

        assert len(benchmark(round_trip)) == count
