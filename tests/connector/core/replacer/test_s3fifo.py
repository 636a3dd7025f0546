"""S3-FIFO: on probation first, in the main queue when used twice or when back soon."""

from tests.connector.core.replacer.pool import Pool, evict, filled, insert, order_of

from huterox_connector.core.replacer.fifo import Fifo
from huterox_connector.core.replacer.lru import Lru
from huterox_connector.core.replacer.s3fifo import GHOSTS_MAX, S3Fifo


def with_main(*cids: int) -> S3Fifo:
    """`cids` in the main queue, each without a bit set; nothing in the small one."""
    replacer = S3Fifo()
    for cid in (*cids, 0):
        insert(replacer, cid)
        replacer.record_access(cid, 2)
    replacer.record_access(0, -2)
    assert evict(replacer, (*cids, 0)) == 0
    return replacer


def test_one_that_was_used_once_more_leaves_with_those_on_probation() -> None:
    replacer = filled(S3Fifo, 1, 2)
    replacer.record_access(1)
    assert order_of(replacer, {1, 2}) == [1, 2]


def test_one_that_was_used_twice_more_goes_on_to_the_main_queue() -> None:
    replacer = filled(S3Fifo, 1, 2, 3)
    replacer.record_access(1, 2)
    assert order_of(replacer, {1, 2, 3}) == [2, 3, 1]
