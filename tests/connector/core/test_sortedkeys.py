"""Keys in order, entered and taken out in any order."""

from hypothesis import given
from hypothesis import strategies as st

from huterox_connector.core.sortedkeys import SortedKeys


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20))), st.integers(-1, 21))
def test_keys_behind_any_key_come_in_order(steps: list[tuple[bool, int]], after: int) -> None:
    keys, expected = SortedKeys[int](), set[int]()
    for adds, key in steps:
        if adds and key not in expected:
            keys.add(key)
            expected.add(key)
        elif not adds and key in expected:
            keys.remove(key)
            expected.remove(key)
    assert list(keys.after(after)) == sorted(key for key in expected if key > after)
    assert len(keys) == len(expected)
