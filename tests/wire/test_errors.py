"""The tree of errors, and its way over the wire."""

import copy
import inspect
import pickle
from typing import Any

import pytest

from huterox_wire import errors
from huterox_wire.errors import (
    Busy,
    CallerError,
    Fault,
    HuteroxError,
    InvalidInput,
    ModelError,
    Unavailable,
    WorkerLost,
    from_wire,
)
from huterox_wire.limits import META_NBYTES_MAX
from huterox_wire.meta import decode_error, decode_error_meta, error_meta

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, HuteroxError)]


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls not in (HuteroxError, CallerError)])
def test_an_error_comes_back_as_the_class_that_was_sent(cls: type[HuteroxError]) -> None:
    back = decode_error(error_meta(cls("no room", need=3, names=["a"])))
    assert type(back) is cls
    assert (back.code, back.message, str(back)) == (cls.code, "no room", "no room")
    assert back.retryable is cls.retryable_by_default
    assert back.details == {"need": 3, "names": ["a"]}


def test_codes_are_unique() -> None:
    leaves = [cls for cls in CLASSES if cls not in (HuteroxError, CallerError)]
    assert len({cls.code for cls in leaves}) == len(leaves)


def test_retryable_of_the_sender_wins() -> None:
    assert decode_error(error_meta(Busy("no", retryable=False))).retryable is False
    assert decode_error(error_meta(InvalidInput("no", retryable=True))).retryable is True


def test_the_branches_tell_who_must_act() -> None:
    assert issubclass(InvalidInput, CallerError)
    assert issubclass(WorkerLost, Unavailable)
    assert not issubclass(ModelError, CallerError | Unavailable | Fault)


def test_an_unknown_code_is_carried_to_the_user() -> None:
    error = from_wire("Shiny", "new", True, {"n": 1})
    assert type(error) is HuteroxError
    assert error.retryable
    assert error.details == {"n": 1, "code": "Shiny"}


def test_an_error_survives_copying_and_other_processes() -> None:
    error = WorkerLost("gone", executed="maybe")
    for twin in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is WorkerLost
        assert (twin.message, twin.retryable, twin.details) == ("gone", True, {"executed": "maybe"})


class _Stubborn:
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    "details",
    [
        {"traceback": "lone \udc80 surrogate"},
        {"shape": {1: 2}},
        {"deep": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
        {"many": "x" * META_NBYTES_MAX},
        {"k" * META_NBYTES_MAX: 1, "\udc80": 2},
        {"huge": 2**64},
        {"object": object(), "stubborn": _Stubborn()},
        {str(i): "ü" * META_NBYTES_MAX for i in range(20)},
    ],
    ids=["surrogate", "integer-key", "deep", "long", "long-key", "integer", "object", "many-long"],
)
def test_facts_that_cannot_be_carried_become_text_and_the_code_is_kept(details: dict[str, Any]) -> None:
    error = Busy("full")
    error.details = details
    data = error_meta(error)
    back = decode_error(data)
    assert len(data) <= META_NBYTES_MAX
    assert type(back) is Busy
    assert back.message == "full"
    assert all(isinstance(value, str) for value in back.details.values())


def test_a_message_that_cannot_be_carried_is_mended() -> None:
    assert decode_error(error_meta(ModelError("caf\udce9"))).message == "caf?"
    assert len(decode_error(error_meta(ModelError("é" * META_NBYTES_MAX))).message) == META_NBYTES_MAX // 16


def test_a_malformed_error_is_invalid_input() -> None:
    for data in (b"", b"\xc1", b"\x80", b"\x81\xa4code\x01"):
        with pytest.raises(InvalidInput):
            decode_error_meta(data)
