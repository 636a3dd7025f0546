"""Ids and their text form: whatever a peer sends as one is an id or InvalidInput, quickly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from huterox_wire.errors import InvalidInput
from huterox_wire.ids import MARK_MAX, NUMBER_BITS, id_of, text_of

NUMBERS = st.integers(0, MARK_MAX << NUMBER_BITS | (2**NUMBER_BITS - 1))


@given(NUMBERS)
def test_id_is_found_again_in_its_text(number: int) -> None:
    assert id_of("c", text_of("c", number)) == number
    assert len(text_of("c", number)) <= 19


def test_text_is_short_and_readable() -> None:
    assert text_of("c", 3 << 32 | 17) == "c3.17"
    assert text_of("s", MARK_MAX << 32 | 1) == "s1zzzzzz.1"
    assert text_of("c", 0) == "c0.0"


@given(st.text())
def test_any_text_is_an_id_or_invalid(text: str) -> None:
    try:
        number = id_of("c", text)
    except InvalidInput:
        return
    assert 0 <= number <= MARK_MAX << NUMBER_BITS | (2**NUMBER_BITS - 1)


@pytest.mark.parametrize(
    "text",
    [
        "c" + "9" * 5000 + ".1",
        "c1." + "9" * 5000,
        "c1.4294967296",
        "c2000000.1",
        "czzzzzzz.1",
        "c1.١",
        "c1.1 ",
        "c1.1\n",
        "c-1.1",
        "s1.1",
        "c.",
        "c",
        "",
        "cu.1",
        "C1.1",
    ],
)
def test_what_is_no_id_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        id_of("c", text)
    assert len(caught.value.message) < 100
