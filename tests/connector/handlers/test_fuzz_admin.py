"""Whatever an operator's message holds: each ADMIN has one answer, typed and bounded, and the platform lives on.

Messages go the way of real ones: bytes, decoded, dispatched; effects are encoded as the shell encodes them.
"""

import math
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.connector.harness import Harness, args_of_verbs

from huterox_connector.core import adminargs, desired
from huterox_connector.core import effects as asked
from huterox_connector.core import events as happened
from huterox_connector.core.measured import Measured
from huterox_connector.handlers.decode import CALLER_METAS, Decode
from huterox_connector.handlers.dispatch import Dispatch, event_of_caller
from huterox_connector.handlers.pipeline import Pipeline
from huterox_wire.errors import HuteroxError
from huterox_wire.kinds import Kind
from huterox_wire.leases import LeaseOrderMeta, decode_lease_order
from huterox_wire.limits import META_NBYTES_MAX
from huterox_wire.message import encode
from huterox_wire.meta import encode_meta, error_meta
from huterox_wire.nodes import CreateMeta, decode_create

CALLER = b"operator"
REFUSAL_NBYTES_MAX = 8 * 1024
"""An error says little: it does not give back what was sent."""

ARGS = args_of_verbs()


class Door:
    """A switchboard behind its callers' pipeline, with a node, a model and a service. Counts answers."""

    def __init__(self) -> None:
        self.harness = Harness(ask_timeout_s=1.0)
        self.kernel = self.harness.node("n1", slots=4)
        self.harness.service("s", tenant="t")
        self.stored: dict[str, bytes] = {}
        self.answers: list[bytes | HuteroxError] = []
        self._request_id = 0
        handlers = [Decode(CALLER_METAS), Dispatch(self.harness.board, "caller", event_of_caller)]
        self._pipeline = Pipeline(handlers, self)

    def admin(self, verb: Any, args: Any, now_s: float = 1.0) -> bytes | HuteroxError:
        """Send a verb; its one answer, encoded."""
        self.answers.clear()
        self._request_id += 1
        meta = msgspec.msgpack.encode({"verb": verb, "args": args})
        self._pipeline.inbound(CALLER, encode(Kind.ADMIN, self._request_id, 0, 0, meta), now_s)
        if not self.answers:  # a kernel was asked, and does not answer
            self.perform(self.harness.board.on(happened.Ticked(), now_s + 2.0))
        (answer,) = self.answers
        return answer

    def refuse(self, peer: bytes, request_id: int, error: HuteroxError) -> None:
        assert (peer, request_id) == (CALLER, self._request_id)
        assert len(error_meta(error)) <= REFUSAL_NBYTES_MAX, f"{error.code} of {len(error_meta(error))} bytes"
        self.answers.append(error)

    def perform(self, effects: list[asked.Effect]) -> None:
        for effect in effects:
            match effect:
                case asked.Answer(caller=caller, request_id=request_id):
                    assert (caller, request_id) == (CALLER, self._request_id)
                    self.answers.append(encode_meta(effect.meta))
                case asked.Refuse(caller=caller, request_id=request_id) if caller == CALLER:
                    self.refuse(caller, request_id, effect.error)
                case asked.Commit():
                    for write in effect.writes:
                        self.stored.pop(write.key, None)
                        if write.value is not None:
                            self.stored[write.key] = write.value
                    self.perform(self.harness.on(happened.Committed(effect.ticket), 1.0))
                case asked.Command(meta=CreateMeta() as meta):
                    assert encode_meta(decode_create(encode_meta(meta))) == encode_meta(meta), (
                        "its kernel does not understand it"
                    )
                case asked.Command() | asked.AskKernel() if effect.meta is not None:
                    encode_meta(effect.meta)
                case asked.Journalled():
                    msgspec.msgpack.encode(effect.details)

    def check_alive(self) -> None:
        """Lists can be read to their end, services called and leased, and all that is stored read back."""
        for verb in ("status", "models", "services", "ps", "nodes", "usage", "events"):
            answer = self.admin(verb, {})
            assert isinstance(answer, bytes), f"{verb}: {answer!r}"
            assert len(answer) <= META_NBYTES_MAX
        stored = desired.decode(self.stored)
        self.harness.board.restore(desired.Desired([], [], []), Measured(), [])
        for service in stored.services:
            self._check_service(service.id)

    def _check_service(self, handle: int) -> None:
        service = self.harness.board.registry.services.get(handle)
        if service is None:
            return
        order = LeaseOrderMeta(1, 7, service.id, service.title)
        assert decode_lease_order(encode_meta(order)) == order, "its kernel does not understand a lease"
        self._request_id += 1
        self.perform(self.harness.board.on(happened.CallMissed(b"c", self._request_id, handle, 10**6, [b""], 0), 1.0))
        self.harness.board.on(happened.CallCancelled(b"c", self._request_id), 1.0)


TEXTS = st.one_of(
    st.sampled_from(["", "s", "t", "n1", "default", "c1.1", "s1.1", "9" * 5000, "c" + "9" * 5000 + ".1", "c1.-1"]),
    st.sampled_from(["x" * 128, "x" * 129, "x" * 70_000, "é" * 128, "\0", "a/b", "\u202e", "c1.1\n"]),
    st.text(max_size=20),
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2**31, 2**53, 2**63 - 1, -(2**63), 2**64 - 1]),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0.0, -0.0, 1e308, math.inf, -math.inf, math.nan, 5e-324]),
)
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.binary(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=4)),
    max_leaves=8,
)
DEEP = st.sampled_from([10, 31, 40, 600]).map(lambda depth: _nested(depth))
FIELDS = [field.name for args in {*ARGS.values()} for field in msgspec.structs.fields(args)]
MODEL_FIELDS = [field.name for field in msgspec.structs.fields(adminargs.ModelSpec)]
MODELS = st.fixed_dictionaries(
    {"name": st.one_of(st.just("m"), TEXTS), "entry": st.one_of(st.just("m.py:M"), TEXTS)},
    optional={name: st.one_of(PLAIN, DEEP) for name in MODEL_FIELDS if name not in ("name", "entry")},
)
VALUES = st.one_of(PLAIN, DEEP, MODELS)


def _nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def args_of(verb: str) -> st.SearchStrategy[dict[str, Any]]:
    """Mostly fields that the verb has."""
    fields = [field.name for field in msgspec.structs.fields(ARGS[verb])]
    known = st.fixed_dictionaries({}, optional=dict.fromkeys(fields, VALUES))
    return st.one_of(known, known, st.dictionaries(st.one_of(st.sampled_from(FIELDS), TEXTS), VALUES, max_size=3))


@settings(max_examples=400)
@given(st.sampled_from(sorted(ARGS)).flatmap(lambda verb: st.tuples(st.just(verb), args_of(verb))))
@example(("evict", {"container": "c" + "9" * 5000 + ".1"}))
@example(("undeploy", {"name": "x" * 900_000}))
@example(("deploy", {"model": {"name": "m", "entry": "m.py:M", "version": "v" * 700_000}}))
@example(("deploy", {"model": {"name": "m", "entry": "m.py:M", "params": {"a": "x" * 900_000}}}))
@example(("deploy", {"model": {"name": "m", "entry": "m.py:M", "params": {"a": math.nan}}}))
@example(("deploy", {"model": {"name": "m", "entry": "m.py:M", "load_timeout_s": math.nan}}))
@example(("deploy", {"model": {"name": "m", "entry": "m.py:M", "idle_timeout_s": math.nan}}))
@example(("deploy", {"model": {"name": "m", "entry": "m.py:M", "x" * 500_000: 1}}))
@example(("create", {"name": "a", "model": "s", "tenant": "t" * 5000}))
@example(("create", {"name": "a", "model": "s", "in_flight_max": 2**64 - 1}))
@example(("services", {"after": "s" + "9" * 5000}))
@example(("events", {"after": -(2**63), "before": 2**64 - 1, "limit": 1000}))
@example(("logs", {"name": "s", "tenant": "t", "offset": -(2**63)}))
def test_every_verb_has_one_answer_of_bounded_size_and_leaves_the_platform_alive(
    request: tuple[str, dict[str, Any]],
) -> None:
    door = Door()
    verb, args = request
    answer = door.admin(verb, args)
    if verb == "deploy" and isinstance(answer, bytes):
        name = args["model"]["name"]
        assert isinstance(door.admin("create", {"name": "of it", "model": name}), bytes)
    door.check_alive()


@settings(max_examples=100)
@given(st.one_of(TEXTS, VALUES), VALUES)
def test_any_verb_with_anything_has_one_answer(verb: Any, args: Any) -> None:
    Door().admin(verb, args)


@pytest.mark.parametrize("key", ["load_timeout_s", "idle_timeout_s"])
def test_a_time_that_is_no_number_is_refused_and_never_is_said_by_infinity(key: str) -> None:
    door = Door()
    model = {"name": "m", "entry": "m.py:M", key: math.nan}
    answer = door.admin("deploy", {"model": model})
    assert isinstance(answer, HuteroxError) and key in answer.message
    assert isinstance(door.admin("deploy", {"model": {**model, key: math.inf}}), bytes)


def test_a_bug_of_ours_is_answered_and_comes_to_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door()
    monkeypatch.setattr(door.harness.board, "on", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        door.admin("status", {})
    (answer,) = door.answers
    assert isinstance(answer, HuteroxError) and answer.code == "Internal" and "ZeroDivisionError" in answer.message
