"""A pair of rings without doorbells."""

from huterox_shm.layout import CALL, ENTRY_NBYTES
from huterox_shm.ring import Consumer, Producer

ENTRIES = 128
OUT, BACK = 64, 64 + ENTRIES * ENTRY_NBYTES


class Side:
    """One end of a pair of rings."""

    def __init__(self, buffer, outgoing, incoming, start=0):
        self.consumer = Consumer(buffer, incoming, ENTRIES)
        self.producer = Producer(buffer, outgoing, ENTRIES, self.consumer)
        self.consumer.consumed = self.consumer.acknowledged = start
        self.producer.published = self.producer.flushed = self.producer.acked = start

    def flush(self):
        count = self.producer.published - self.producer.flushed
        self.producer.flushed = self.producer.published
        return count

    def take(self, count):
        entries = list(self.consumer.take(count))
        for entry in entries:
            self.producer.on_acked(entry[3])
        return entries


def make_sides(start=0):
    buffer = bytearray(64 + 2 * ENTRIES * ENTRY_NBYTES)
    return Side(buffer, OUT, BACK, start), Side(buffer, BACK, OUT, start)


def publish(side, number, kept=0):
    side.producer.publish(
        CALL, number & 0xFF, number, 64 * number, number & 0xFFFFFFFF, number & 0xFFFFFFFF, number, kept
    )
