"""A lane over a bytearray against a model: random honest ends, every byte and every block accounted for."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from huterox_shm.errors import LaneFull, LaneTooSmall
from huterox_shm.lane import CALL, CANCEL, ERROR, PART, REPLY


class LaneMachine(RuleBasedStateMachine):
    maker = None  # set by the test

    @initialize()
    def make(self):
        self.caller, self.container, *_ = type(self).maker()
        self.next_id = 1
        self.sent = {}  # call id -> payload, without a final reply taken
        self.open = {}  # call id -> request; at the container
        self.kept = []  # requests that outlive their call
        self.held = {}  # reply offset -> payload; at the caller
        self.parts = {}  # call id -> payloads published and not yet taken
        self.cancelled = set()

    def payload(self, number, nbytes):
        return (number * 2654435761 % 2**32).to_bytes(4, "little") * (nbytes // 4) + b"." * (nbytes % 4)

    @rule(count=st.integers(1, 40), nbytes=st.integers(1, 70_000), stream=st.booleans())
    def call(self, count, nbytes, stream):
        for _ in range(count):
            try:
                offset = self.caller.claim(nbytes)
            except (LaneFull, LaneTooSmall):
                return
            payload = self.payload(self.next_id, nbytes)
            self.caller.write_view(offset, nbytes)[:] = payload
            try:
                self.caller.publish_call(self.next_id, offset, nbytes, deadline_us=self.next_id, stream=stream)
            except LaneFull:
                self.caller.abandon(offset)
                return
            self.sent[self.next_id] = payload
            self.next_id += 1

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def cancel(self, data):
        call_id = data.draw(st.sampled_from(sorted(self.sent)))
        try:
            self.caller.publish_cancel(call_id)
        except LaneFull:
            return
        self.cancelled.add(call_id)

    @rule(who=st.sampled_from(["caller", "container"]), releases=st.booleans())
    def flush(self, who, releases):
        end = getattr(self, who)
        end.flush_releases() if releases else end.flush()

    @rule()
    def container_takes(self):
        for request in self.container.take():
            if request.kind == CANCEL:
                assert request.call_id in self.cancelled
                continue
            assert request.kind == CALL
            assert request.deadline_us == request.call_id
            assert bytes(self.container.view(request.offset, request.nbytes)) == self.sent[request.call_id]
            self.open[request.call_id] = request

    @precondition(lambda self: self.open)
    @rule(data=st.data(), nbytes=st.integers(0, 70_000), kind=st.sampled_from([REPLY, ERROR, PART]), keep=st.booleans())
    def answer(self, data, nbytes, kind, keep):
        call_id = data.draw(st.sampled_from(sorted(self.open)))
        offset = 0
        if nbytes:
            try:
                offset = self.container.claim(nbytes)
            except LaneFull:
                return
            self.container.write_view(offset, nbytes)[:] = self.payload(call_id, nbytes)
        released = kind != PART and not keep
        try:
            self.container.publish_reply(kind, call_id, offset, nbytes, request_released=released)
        except LaneFull:
            assert kind == PART
            if nbytes:
                self.container.abandon(offset)
            return
        self.parts.setdefault(call_id, []).append((kind, nbytes))
        if kind != PART:
            request = self.open.pop(call_id)
            if keep:
                self.kept.append((request, self.sent[call_id]))

    @rule()
    def caller_takes(self):
        for reply in self.caller.take():
            assert (reply.kind, reply.nbytes) == self.parts[reply.call_id].pop(0)
            payload = self.payload(reply.call_id, reply.nbytes)
            assert bytes(self.caller.view(reply.offset, reply.nbytes)) == payload
            if reply.nbytes:
                assert reply.offset not in self.held
                self.held[reply.offset] = payload
            if reply.kind != PART:
                del self.sent[reply.call_id]

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def release_kept_request(self, data):
        request, payload = self.kept.pop(data.draw(st.integers(0, len(self.kept) - 1)))
        assert bytes(self.container.view(request.offset, request.nbytes)) == payload
        self.container.release_request(request.offset)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release_reply(self, data):
        offset = data.draw(st.sampled_from(sorted(self.held)))
        payload = self.held.pop(offset)
        assert bytes(self.caller.view(offset, len(payload))) == payload
        self.caller.release(offset)

    @rule()
    def trim(self):
        self.caller.trim()
        self.container.trim()

    def teardown(self):
        """Everything in flight can be brought to its end, and then nothing is out."""
        for _ in range(1000):
            self.container_takes()
            for call_id in list(self.open):
                self.open.pop(call_id)
                self.parts.setdefault(call_id, []).append((REPLY, 0))
                self.container.publish_reply(REPLY, call_id, 0, 0, request_released=True)
            for request, _ in self.kept:
                self.container.release_request(request.offset)
            self.kept.clear()
            self.container.flush()
            self.container.flush_releases()
            self.caller_takes()
            for offset in self.held:
                self.caller.release(offset)
            self.held.clear()
            self.caller.flush()
            self.caller.flush_releases()
            if not (self.sent or self.caller.releases_pending or self.container.releases_pending):
                break
        self.container.take()
        self.caller.take()
        for end in (self.caller, self.container):
            end.trim()
            stats = end.slab_stats()
            assert (stats.claimed_count, stats.lent_count, stats.reserved_nbytes) == (0, 0, 0)
            assert end.claim(end.nbytes_max) > 0


def test_lane_agrees_with_a_model(memory_lane_maker):
    class Machine(LaneMachine):
        maker = staticmethod(memory_lane_maker)

    Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=80, deadline=None)
    Machine.TestCase().runTest()
