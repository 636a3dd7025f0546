"""Inputs of the command line: what they become, and what is refused. Nothing is changed in silence."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from huterox.cli.inputs import parse_inputs
from huterox_wire.errors import InvalidInput


def one(text: str) -> Any:
    (value,) = parse_inputs([text]).values()
    return value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x:int32=[1, 2.0, -3]", np.array([1, 2, -3], np.int32)),
        ("x:int32=7", np.array(7, np.int32)),
        ("x:int8=[-128, 127]", np.array([-128, 127], np.int8)),
        ("x:uint64=[18446744073709551615]", np.array([2**64 - 1], np.uint64)),
        ("x:int64=[9007199254740993]", np.array([2**53 + 1], np.int64)),
        ("x:bool=[true, false, 0, 1]", np.array([True, False, False, True])),
        ("x:float64=[9007199254740992, 0.1]", np.array([2.0**53, 0.1])),
        ("x:float32=[0.1, 16777216, 3e38]", np.array([0.1, 2**24, 3e38], np.float32)),
        ("x:float16=[[0.1], [65504]]", np.array([[0.1], [65504]], np.float16)),
        ("x:float16=[0, -0.0]", np.array([0.0, -0.0], np.float16)),
        ("x:float32=[NaN, Infinity, -Infinity]", np.array([np.nan, np.inf, -np.inf], np.float32)),
        ("x:bfloat16=[0.1, 256]", np.array([0.1, 256], ml_dtypes.bfloat16)),
        ("x:complex64=[1.5]", np.array([1.5], np.complex64)),
        ("x:float32=[]", np.empty(0, np.float32)),
        ("x:float32=[[], []]", np.empty((2, 0), np.float32)),
    ],
)
def test_what_fits_is_kept(text: str, expected: Any) -> None:
    value = one(text)
    assert value.dtype == expected.dtype
    assert value.shape == expected.shape
    assert value.tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x:int32=[1.5]", "1.5 is no whole number"),
        ("x:int32=[NaN]", "nan is no whole number"),
        ("x:int64=[Infinity]", "inf is no whole number"),
        ("x:int64=[1e30]", "not between"),
        ("x:int8=300", "300 is not between -128 and 127"),
        ("x:uint8=[-1]", "-1 is not between 0 and 255"),
        ("x:uint64=[18446744073709551616]", "not between"),
        ("x:bool=[2]", "2 is neither true nor false"),
        ("x:bool=[0.5]", "neither"),
        ("x:int32=[true]", "true is a boolean"),
        ("x:float32=true", "true is a boolean"),
        ("x:float32=[1e39]", "beyond its range"),
        ("x:float16=[70000.5]", "beyond its range"),
        ("x:float16=[1e-20]", "beyond its range"),
        ("x:bfloat16=[257]", "cannot be kept exactly"),
        ("x:float32=[16777217]", "cannot be kept exactly"),
        ("x:float64=[9007199254740993]", "cannot be kept exactly"),
        ("x:float64=[1" + "0" * 400 + "]", "too large"),
        ("x:float16=[100000]", "cannot be kept exactly"),
        ('x:int32=["3"]', "3 is no number"),
        ("x:int32=three", "three is no number"),
        ("x:int32=null", "None is no number"),
        ('x:int32={"a": 1}', "is no number"),
        ("x:float32=[[1], [1, 2]]", "different lengths"),
        ("x:float32=[[1], 2]", "different lengths"),
        ("x:float32=[1, [2]]", "nested unequally"),
        ("x:float32=" + "[" * 40 + "]" * 40, "nested 40 deep"),
        ("x:float33=[1]", "no dtype 'float33'"),
        ("x:object=[1]", "input 'x': arrays of dtype object"),
        ("x:=1", "name:DTYPE=VALUE"),
        ("=1", "name=VALUE"),
        (":int32=1", "name=VALUE"),
        ("  =1", "name=VALUE"),
        ("x", "name=VALUE"),
        ("timeout=3", "cannot be named 'timeout'"),
        ('x={"a": 1, "a": 2}', "'a' comes twice"),
        ('x=[{"b": {"a": 1, "a": 2}}]', "'a' comes twice"),
        ("x=1e400", "beyond what a number can be"),
        ("x=[-1e999]", "beyond what a number can be"),
        ("x=" + "9" * 5000, "digits"),
        ("x=" + "[" * 100_000, "x"),
    ],
    ids=lambda text: text[:30],
)
def test_what_does_not_fit_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_inputs([text])
    assert reason in str(caught.value)


def test_a_name_given_twice_is_refused() -> None:
    for texts in (["x=1", "x=2"], ["x=1", "x:int8=2"]):
        with pytest.raises(InvalidInput, match="given twice"):
            parse_inputs(texts)


def test_plain_values_are_json_or_text() -> None:
    assert parse_inputs(["a=1", "b=1.5", "c=true", "d=null", "e=hello", "f={broken", "g=", "h=@@at", "i=a=b"]) == {
        "a": 1,
        "b": 1.5,
        "c": True,
        "d": None,
        "e": "hello",
        "f": "{broken",
        "g": "",
        "h": "@at",
        "i": "a=b",
    }


@pytest.mark.parametrize(
    ("array", "dtype", "fits"),
    [
        (np.arange(6.0).reshape(2, 3), "int8", True),
        (np.asfortranarray(np.arange(6.0).reshape(2, 3)), "float32", True),
        (np.arange(3, dtype=">i4"), "int32", True),
        (np.arange(3, dtype=">f8"), "float32", True),
        (np.array([1.5]), "int32", False),
        (np.array([np.nan]), "int32", False),
        (np.array([300]), "uint8", False),
        (np.array([-1]), "uint64", False),
        (np.array([2**53 + 1]), "float64", False),
        (np.array([2**53 + 1]), "bfloat16", False),
        (np.array([2**64 - 1], np.uint64), "float64", False),
        (np.array([1e39]), "float32", False),
        (np.array([1e-60]), "float32", False),
        (np.array([np.inf, np.nan, 0.1]), "float16", True),
        (np.array([2]), "bool", False),
        (np.array([0, 1]), "bool", True),
        (np.array([True]), "int32", False),
        (np.array([1j]), "float32", False),
        (np.array(["3"]), "int32", False),
        (np.array(["2020-01-01"], "datetime64[D]"), "int64", False),
    ],
)
def test_arrays_of_files_are_converted_by_the_same_rules(tmp_path: Path, array: Any, dtype: str, fits: bool) -> None:
    np.save(tmp_path / "a.npy", array)
    text = f"x:{dtype}=@{tmp_path}/a.npy"
    if fits:
        value = one(text)
        assert value.dtype.name == dtype
        with np.errstate(all="ignore"):
            assert np.array_equal(value, array.astype(dtype), equal_nan=dtype.startswith("float"))
        return
    with pytest.raises(InvalidInput, match="no array of"):
        one(text)


def test_files_that_are_not_what_they_are_called_are_refused(tmp_path: Path, said: Any) -> None:
    np.save(tmp_path / "whole.npy", np.arange(100))
    whole = (tmp_path / "whole.npy").read_bytes()
    huge = whole.replace(b"(100,), }", b"(9999999999999,), }")
    contents = {
        "cut.npy": whole[:-10],
        "head.npy": whole[:20],
        "empty.npy": b"",
        "text.npy": b"hello",
        "pickle.npy": b"\x80\x04K\x01.",
        "huge.npy": huge,
        "twice.json": b'{"a": 1, "a": 2}',
        "cut.json": b"[1, 2",
        "latin.json": b'"\xe9"',
        "digits.json": b"1" * 5000,
        "huge.json": b"[1e400]",
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "z.npz", a=np.zeros(3))
    (tmp_path / "z.npz").rename(tmp_path / "z.npy")
    for name in [*contents, "object.npy", "z.npy", "missing.npy", "."]:
        status, out, err = said("call", "echo", "-i", f"x=@{tmp_path}/{name}")
        assert (status, out) == (1, ""), name
        assert err.startswith("huterox: InvalidInput: input 'x': "), err
        assert err.count("\n") == 1
    status, _, err = said("call", "echo", "-i", f"x:uint8=@{tmp_path}/cut.json", "-i", "y=1")
    assert (status, err.count("\n")) == (1, 1)
    (tmp_path / "b.bin").write_bytes(b"abc")
    assert "the bytes of a file are no numbers" in said("call", "echo", "-i", f"x:uint8=@{tmp_path}/b.bin")[2]
