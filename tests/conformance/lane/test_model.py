"""Lanes against a model: random honest ends, every byte and block accounted for, to whatever end the lane comes."""

import struct
from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.conformance.lane.lanes import (
    CALLS_MAX,
    ENTRIES,
    MAKERS,
    all_pages_are_back,
    begin,
    check_slab,
    nothing_is_out,
    pages_nbytes,
    publish,
)

from huterox_shm.errors import LaneDead, LaneDraining, LaneFull
from huterox_shm.lane import (
    CALL,
    CANCEL,
    DEAD,
    DEFINES,
    ERROR,
    INDIRECT,
    OPEN,
    PART,
    REPLY,
    REQUEST_RELEASED,
    STREAM,
)

REFERENCE = struct.Struct("<QQ")
SIZES = st.one_of(st.integers(1, 300), st.integers(1, 70_000))
MARKS = st.tuples(st.sampled_from([0, STREAM, DEFINES, STREAM | DEFINES]), st.integers(0, 2**32 - 1))


class Call(NamedTuple):
    """What the caller has sent: itself the object that comes back with the answers."""

    contents: list[bytes]
    flags: int
    signature: int
    deadline_us: int


def payload(number, nbytes):
    return (number * 2654435761 % 2**32).to_bytes(4, "little") * (nbytes // 4) + b"." * (nbytes % 4)


class LaneMachine(RuleBasedStateMachine):
    make_lane = None  # set below

    @initialize(ends_by=st.sampled_from(["nothing", "nothing", "drain", "death"]), steps=st.integers(5, 70))
    def make(self, ends_by, steps):
        self.lane = type(self).make_lane()
        self.caller, self.container, *_ = self.lane
        self.ends_by, self.steps_left = ends_by, steps
        self.number = 0
        self.sent = {}  # call id -> Call, without a final reply taken
        self.open = {}  # call id -> the taken request's blocks; at the container
        self.taken = self.begun = 0
        self.kept = {}  # call id -> blocks and contents that outlive the call
        self.owned = {}  # offset -> contents
        self.answers = deque()  # published and not yet taken: numbers mean what they meant, so the order holds for all
        self.held = {}  # reply offset -> contents; at the caller
        self.cancelled = set()
        self.draining = self.dead = self.told_dead = False

    # --- the caller -----------------------------------------------------------------------------------------------

    def claim(self, nbytes, contents=None):
        """A filled block, or None where there is none."""
        self.number += 1
        contents = payload(self.number, nbytes) if contents is None else contents
        try:
            offset = self.caller.claim(nbytes)
        except LaneFull:
            assert not self.draining
            return None
        except LaneDraining:
            assert self.draining
            return None
        assert not self.draining
        self.caller.write_view(offset, nbytes)[:] = contents
        return offset, contents

    def publish(self, offset, nbytes, contents, mark, extra_flags=0, **options):
        call = Call(contents, mark[0] | extra_flags, mark[1], self.number)
        in_flight = len(self.sent)
        try:
            if call.flags or not nbytes or options or offset in self.owned:
                call_id = self.caller.publish_call(
                    call, offset, nbytes, signature=call.signature, flags=call.flags, deadline_us=self.number, **options
                )
            else:
                call_id = self.caller.publish_block(call, offset, nbytes, call.signature, self.number)
        except LaneFull:
            producer = self.caller._producer
            assert in_flight >= CALLS_MAX or producer.published - producer.acked >= ENTRIES - 64
            return False
        assert in_flight < CALLS_MAX
        self.sent[call_id] = call
        return True

    @precondition(lambda self: not self.dead)
    @rule(count=st.integers(1, 40), nbytes=SIZES, mark=MARKS)
    def call(self, count, nbytes, mark):
        for _ in range(count):
            block = self.claim(nbytes)
            if block is None:
                return
            if not self.publish(block[0], nbytes, [block[1]], mark):
                self.caller.abandon(block[0])
                return

    @precondition(lambda self: not self.dead)
    @rule(count=st.integers(1, 70), mark=MARKS)
    def call_without_a_block(self, count, mark):
        for _ in range(count):
            if not self.publish(0, 0, [], mark):
                return

    @precondition(lambda self: not self.dead and len(self.owned) < 8)
    @rule(nbytes=SIZES)
    def own(self, nbytes):
        block = self.claim(nbytes)
        if block is not None:
            self.caller.own(block[0])
            self.owned[block[0]] = block[1]

    @precondition(lambda self: not self.dead and self.owned)
    @rule(data=st.data(), mark=MARKS)
    def call_with_an_owned_block(self, data, mark):
        offset = data.draw(st.sampled_from(sorted(self.owned)))
        contents = self.owned[offset]
        self.publish(offset, len(contents), [contents], mark)

    @precondition(lambda self: not self.dead and self.owned)
    @rule(data=st.data(), mark=MARKS, fresh_nbytes=SIZES)
    def call_with_blocks_apart(self, data, mark, fresh_nbytes):
        """One block of its own, and owned ones, perhaps the same one twice."""
        mine = data.draw(st.lists(st.sampled_from(sorted(self.owned)), min_size=1, max_size=3))
        fresh = self.claim(fresh_nbytes)
        if fresh is None:
            return
        blocks = [fresh, *((offset, self.owned[offset]) for offset in mine)]
        table = b"".join(REFERENCE.pack(offset, len(contents)) for offset, contents in blocks)
        at = self.claim(len(table), table)
        names = (fresh[0],) if at is None else (fresh[0], at[0])
        if at is None or not self.publish(
            at[0],
            len(table),
            [contents for _, contents in blocks],
            mark,
            INDIRECT,
            blocks=(at[0], *(offset for offset, _ in blocks)),
        ):
            for offset in names:
                self.caller.abandon(offset)

    @precondition(lambda self: not self.dead and self.owned)
    @rule(data=st.data())
    def disown(self, data):
        offset = data.draw(st.sampled_from(sorted(self.owned)))
        del self.owned[offset]
        self.caller.disown(offset)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data):
        call_id = data.draw(st.sampled_from(sorted(self.sent)))
        try:
            self.caller.cancel(call_id)
        except LaneFull:
            return
        self.cancelled.add(call_id)

    @rule()
    def caller_takes(self):
        try:
            replies = self.caller.take()
        except LaneDead:
            assert self.dead
            return
        for call, call_id, kind, flags, signature, offset, nbytes in replies:
            *expected, contents = self.answers.popleft()
            assert call is self.sent[call_id]
            assert [call_id, kind, flags, signature, nbytes] == [*expected, len(contents)]
            assert bytes(self.caller.view(offset, nbytes)) == contents
            if nbytes:
                assert offset not in self.held
                self.held[offset] = contents
            if kind != PART:
                del self.sent[call_id]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_reply(self, data):
        offset = data.draw(st.sampled_from(sorted(self.held)))
        contents = self.held.pop(offset)
        assert bytes(self.caller.view(offset, len(contents))) == contents
        self.caller.release(offset)

    # --- the container --------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.told_dead)
    @rule()
    def container_takes(self):
        if self.dead:
            self.told_dead = True
            with pytest.raises(LaneDead):
                self.container.take()
            return
        requests = self.container.take()
        for kind, flags, call_id, offset, nbytes, signature, deadline_us in requests:
            if kind == CANCEL:
                assert call_id in self.cancelled
                continue
            self.taken += 1
            call = self.sent[call_id]
            assert (kind, call_id, flags, signature, deadline_us) == (
                CALL,
                self.taken,
                call.flags,
                call.signature,
                call.deadline_us,
            )
            if flags & INDIRECT:
                blocks = list(REFERENCE.iter_unpack(self.container.view(offset, nbytes)))
                for at, size in blocks:
                    self.container.check_block(at, size)
            else:
                blocks = [(offset, nbytes)] if nbytes else []
            self.open[call_id] = blocks
            self.check_contents(blocks, call.contents)

    def check_contents(self, blocks, contents):
        assert [bytes(self.container.view(at, size)) for at, size in blocks] == contents

    @precondition(lambda self: self.begun < self.taken)
    @rule(count=st.integers(1, 10))
    def begin(self, count):
        self.begun = min(self.begun + count, self.taken)
        begin(self.container, self.begun)
        assert self.caller.begun == self.begun

    @precondition(lambda self: self.open and not self.dead)
    @rule(
        data=st.data(),
        count=st.integers(1, 60),
        nbytes=st.one_of(st.just(0), SIZES),
        kind=st.sampled_from([REPLY, REPLY, ERROR, PART]),
        keep=st.sampled_from(["no", "yes", "released before the answer"]),
        form=st.tuples(st.sampled_from([0, DEFINES]), st.integers(0, 2**32 - 1)),
    )
    def answer(self, data, count, nbytes, kind, keep, form):
        first = data.draw(st.sampled_from(sorted(self.open)))
        ids = [first] * count if kind == PART else sorted(self.open)[:count]
        for call_id in ids:
            if not self.answer_one(call_id, nbytes, kind, keep, form):
                return

    def answer_one(self, call_id, nbytes, kind, keep, form):
        self.number += 1
        contents, offset = payload(self.number, nbytes), 0
        if nbytes:
            try:
                offset = self.container.claim(nbytes)
            except LaneFull:
                return False
            self.container.write_view(offset, nbytes)[:] = contents
        flags = form[0] | (REQUEST_RELEASED if keep == "no" and kind != PART else 0)
        if kind != PART:
            if keep == "released before the answer":
                self.container.release_request(call_id)
            self.check_contents(self.open[call_id], self.sent[call_id].contents)
        try:
            publish(self.container, kind, call_id, offset, nbytes, flags, form[1])
        except LaneFull:
            assert kind == PART
            if nbytes:
                self.container.abandon(offset)
            return False
        self.answers.append((call_id, kind, flags, form[1], contents))
        if kind != PART:
            blocks = self.open.pop(call_id)
            if keep == "yes":
                self.kept[call_id] = (blocks, self.sent[call_id].contents)
        return True

    @precondition(lambda self: not self.dead)
    @rule(calls=st.integers(1, CALLS_MAX), finals=st.integers(0, CALLS_MAX))
    def parts_first_then_calls(self, calls, finals):
        """What fills the ring with more answers than it holds."""
        for count in (1, calls):
            for _ in range(count):
                self.publish(0, 0, [], (STREAM, 0))
            self.caller.flush()
            self.container_takes()
            while count == 1 and self.open and self.answer_one(max(self.open), 0, PART, "no", (0, 0)):
                pass
        for call_id in sorted(self.open)[:finals]:
            assert self.answer_one(call_id, 0, REPLY, "no", (0, 0))
        self.container.flush()

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def release_kept_request(self, data):
        call_id = data.draw(st.sampled_from(sorted(self.kept)))
        self.check_contents(*self.kept.pop(call_id))
        self.container.release_request(call_id)

    # --- both -----------------------------------------------------------------------------------------------------

    @rule(who=st.sampled_from(["caller", "container"]), releases=st.booleans())
    def flush(self, who, releases):
        end = getattr(self, who)
        end.flush_releases() if releases else end.flush()

    @rule()
    def trim(self):
        self.caller.trim()
        self.container.trim()

    @invariant()
    def lane_comes_to_its_end(self):
        self.steps_left -= 1
        if self.steps_left:
            return
        if self.ends_by == "drain":
            self.container.drain()
            self.draining = True
        elif self.ends_by == "death":
            self.caller.mark_dead()
            self.dead = self.draining = True

    @invariant()
    def bookkeeping_agrees(self):
        assert list(self.caller.calls) == sorted(self.sent)
        assert self.container.open_count <= CALLS_MAX
        assert self.caller.owned_count >= len(self.owned)
        for end in (self.caller, self.container):
            check_slab(end)
            assert end._producer.published - end._producer.acked <= ENTRIES
        assert set(self.held) <= set(self.container.out)
        assert set(self.owned) <= set(self.caller.out)

    def teardown(self):
        if not hasattr(self, "lane"):
            return
        if self.dead:
            self.check_death()
        else:
            self.bring_all_to_an_end()
        self.lane.close()

    def check_death(self):
        """What was published is taken, then the death is told; the calls that are left are known, begun or not."""
        self.caller_takes()
        with pytest.raises(LaneDead):
            self.caller.take()
        if not self.told_dead:
            self.container_takes()
        for end in (self.caller, self.container):
            assert end.state == DEAD
            with pytest.raises(LaneDead):
                end.claim(1)
        assert self.caller.begun == self.begun
        assert all(call is self.sent[call_id] for call_id, (call, _) in self.caller.calls.items())
        for offset, contents in self.held.items():
            assert bytes(self.caller.view(offset, len(contents))) == contents

    def bring_all_to_an_end(self):
        """Everything in flight can be brought to its end, and then nothing is out."""
        assert self.draining or self.caller.state == OPEN
        for offset in self.owned:
            self.caller.disown(offset)
        self.owned.clear()
        for _ in range(1000):
            self.container_takes()
            for call_id in sorted(self.open):
                assert self.answer_one(call_id, 0, REPLY, "no", (0, 0))
            for call_id in self.kept:
                self.container.release_request(call_id)
            self.kept.clear()
            self.container.flush()
            self.container.flush_releases()
            self.caller_takes()
            for offset in self.held:
                self.caller.release(offset)
            self.held.clear()
            self.flush("caller", True)
            if not (self.sent or self.caller.releases_pending or self.container.releases_pending):
                break
        self.container_takes()
        self.caller_takes()
        assert self.container.open_count == 0
        for end in (self.caller, self.container):
            assert all_pages_are_back(end)
            assert nothing_is_out(end)
        assert self.caller.owned_count == 0
        assert not self.caller._kept and not self.caller._released_early
        if type(self.lane.memory) is not bytearray:
            assert pages_nbytes(self.lane) <= self.lane.layout.request_half


@pytest.mark.parametrize(("kind", "examples"), [("bytearray", 80), ("segment", 20)])
def test_lane_agrees_with_a_model(kind, examples):
    class Machine(LaneMachine):
        make_lane = staticmethod(MAKERS[kind])

    Machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=80)
    Machine.TestCase().runTest()
