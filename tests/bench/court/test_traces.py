"""Trace files: what is read back, and what is said of those that are wrong."""

import io
from pathlib import Path

import pytest

from huterox_bench.court import traces
from huterox_bench.court.generators import Plan, generate
from huterox_bench.court.traces import Cost, Request, parse_trace, read_trace, write_trace
from huterox_wire.errors import InvalidInput

HEADER = "time_s,tenant,model,size_mb,load_s,service_s"


def parsed(*rows: str) -> traces.Trace:
    return parse_trace(iter(f"{row}\n" for row in (HEADER, *rows)))


def test_a_file_gives_requests_and_what_their_models_cost() -> None:
    trace = parsed("0,a,m,100,2,0.5", "0.25,b,n,1.5,0,0", "", "0.25,a,m,100,2,0.75")
    assert trace.requests == [
        Request(0.0, "a", "m", 0.5),
        Request(0.25, "b", "n", 0.0),
        Request(0.25, "a", "m", 0.75),
    ]
    assert trace.models == {"m": Cost(100.0, 2.0), "n": Cost(1.5, 0.0)}


def test_what_is_written_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    trace = generate("bursts", Plan(requests=200, models=20, seed=3))
    odd = traces.Trace([Request(0.1 + 0.2, 'a "b", c', "m", 1 / 3)], {"m": Cost(1e-3, 2 / 3)})
    for number, written in enumerate((trace, odd)):
        path = tmp_path / f"{number}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            write_trace(written, file)
        assert read_trace(path) == written


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["1,a,m,100,2"], "line 2: 5 columns, 6 are needed"),
        (["1,a,m,100,2,3,4"], "line 2: 7 columns"),
        (["soon,a,m,100,2,3"], "line 2, column time_s: 'soon' is not a number"),
        (["nan,a,m,100,2,3"], "line 2, column time_s: 'nan' is not from 0"),
        (["-1,a,m,100,2,3"], "line 2, column time_s"),
        (["1,a,m,100,2,3", "0.5,a,m,100,2,3"], "line 3, column time_s: 0.5 comes after 1.0: times go back"),
        (["1,,m,100,2,3"], "line 2, column tenant: '' is not a name"),
        (["1,a,\x07,100,2,3"], "line 2, column model"),
        ([f"1,a,{'m' * 129},100,2,3"], "line 2, column model"),
        (["1,a,m,0,2,3"], "line 2, column size_mb: '0' is not above 0"),
        (["1,a,m,inf,2,3"], "line 2, column size_mb: 'inf' is not from"),
        (["1,a,m,1e9,2,3"], "line 2, column size_mb"),
        (["1,a,m,100,-2,3"], "line 2, column load_s"),
        (["1,a,m,100,2,1e6"], "line 2, column service_s"),
        (["1,a,m,100,2,3", "2,b,m,101,2,3"], "line 3, column size_mb: model 'm' has 100.0 in line 2, not 101.0"),
        (["1,a,m,100,2,3", "2,b,m,100,4,3"], "line 3, column load_s: model 'm' has 2.0 in line 2, not 4.0"),
        (['1,a,"m,100,2,3'], "line 2: unexpected end of data"),
        ([], "no request follows the header"),
    ],
)
def test_what_is_wrong_is_named_by_line_and_column(rows: list[str], said: str) -> None:
    with pytest.raises(InvalidInput, match="^" + said.replace("(", r"\(")):
        parsed(*rows)


@pytest.mark.parametrize("first", ["", "1,a,m,100,2,3", "time_s,tenant,model,size_mb,load_s"])
def test_the_header_must_be_there(first: str) -> None:
    with pytest.raises(InvalidInput, match="line 1: the header must be time_s,tenant"):
        parse_trace([first])


def test_requests_and_models_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MODELS_MAX", 1)
    with pytest.raises(InvalidInput, match="line 3: more than 1 models"):
        parsed("1,a,m,100,2,3", "1,a,n,100,2,3")
    monkeypatch.setattr(traces, "REQUESTS_MAX", 1)
    with pytest.raises(InvalidInput, match="line 3: more than 1 requests"):
        parsed("1,a,m,100,2,3", "1,a,m,100,2,3")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad").write_text("a,b\n")
    for path, said in (
        (tmp_path / "none", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "not UTF-8"),
        (tmp_path / "bad", "line 1"),
    ):
        with pytest.raises(InvalidInput, match=f"^{path}: {said}"):
            read_trace(path)


def test_a_written_file_has_one_line_for_each_request() -> None:
    trace = generate("zipf", Plan(requests=50, models=5))
    file = io.StringIO()
    write_trace(trace, file)
    lines = file.getvalue().splitlines()
    assert (lines[0], len(lines)) == (HEADER, 51)
