"""An offline bound: what nobody who serves these calls in this order can have spent less than on loading.

**What is bounded.** Calls are given in the order in which they were answered, with the size and the load cost of each
model, and the memory of all nodes together. Every schedule is allowed that (1) has a call's model resident when the
call is answered, and (2) never holds more than the memory. It knows the future, loads and unloads in no time, drains
nobody, keeps no guards, and may move models between nodes for nothing. The real core obeys (1) and (2), so it cannot
have done with less. Calls that were refused are left out: nobody had to load anything for them.

**How.** Between two calls of one model, i and next(i), the model is either kept, or loaded again for next(i): x_i = 1
if it is kept. When call k is answered, its own model is resident beside all those that are kept across it. So

    loading  =  the first load of each model  +  sum of cost_i (1 - x_i)
    for each call k:    sum of size_i x_i over i < k < next(i)    <=    memory - size_k

Choosing x from {0, 1} would be the optimum of such schedules, which is NP-hard to find. Letting it be anything in
[0, 1] can only lower the minimum: this linear program is the bound. Two things make it tighter than the one for caches
in front of an origin. A call's own model takes room (no bypassing: a call is not answered without its model). And what
does not fit beside the model of some call in between cannot be kept, not even in part: x_i = 0.

**Which number is given.** By duality any prices p_k >= 0 for room at call k give a bound, too:

    certain loads  +  sum of min(cost_i, size_i x sum of p_k over i < k < next(i))  -  sum of p_k (memory - size_k)

and the best prices give the program's minimum. So the number is always worked out from prices by this formula, and is a
bound however they were found: for short traces by HiGHS, exactly; for long ones beginning with one price for all (that
is PFOO-L) and made better step by step. Rounding is taken off.

Source: Berger, Beckmann and Harchol-Balter 2018, "Practical Bounds on Optimal Caching with Variable Object Sizes"
(FOO, and PFOO-L), with costs of their own and without bypassing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import ceil
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from huterox_wire.errors import Fault, InvalidInput

EXACT_MAX: Final = 5_000
"""Calls up to which the program is solved exactly, which takes a second; ten times as many take a minute."""
STEPS: Final = 1000
"""By which the prices of longer traces are made better: to within a few thousandths of the exact bound."""
STEPS_MIN: Final = 250
STEPS_CALLS: Final = 50_000_000
"""Fewer steps for very long traces: not more than this, times calls. Within a hundredth then."""
STEP: Final = 10.0
"""Length of the first steps, as a multiple of the mean price at the beginning."""
MOMENTUM: Final = 0.95
DECAY: Final = 0.1
"""After this share of the steps they are half as long."""
ROUNDING: Final = 1e-9
"""Taken off as a share, so that sums of doubles stay on the safe side."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bound:
    """No schedule has fewer `loads` or `load_seconds`; the two may not be reached by the same one."""

    loads: int
    load_seconds: float


def offline_bound(
    order: Sequence[int],
    sizes_mb: Sequence[float],
    loads_s: Sequence[float],
    memory_mb: float,
    *,
    exact: bool | None = None,
) -> Bound:
    """Bound the loads, and the seconds of loading, of every schedule that answers these calls in this order.

    Args:
        order: the numbers of the models, call by call.
        sizes_mb, loads_s: of each model, by its number.
        memory_mb: of all nodes together. No called model is larger.
        exact: solve the program exactly; by default where it is small enough.
    """
    calls = np.asarray(order, dtype=np.int64)
    if not len(calls):
        return Bound(0, 0.0)
    check_court_extra()
    sizes, costs = np.asarray(sizes_mb, dtype=np.float64), np.asarray(loads_s, dtype=np.float64)
    program = _Program(calls, sizes / memory_mb)
    exact = len(calls) <= EXACT_MAX if exact is None else exact
    seconds = program.solve(costs, exact)
    loads = program.solve(np.ones_like(costs), exact)
    return Bound(ceil(loads - 1e-6), seconds)


def check_court_extra() -> None:
    """Raise InvalidInput where what the court alone needs is not installed."""
    missing = [name for name in ("scipy", "matplotlib") if find_spec(name) is None]
    if missing:
        raise InvalidInput(f"{', '.join(missing)} is not installed; the court needs `pip install scipy matplotlib`")


class _Program:
    """The linear program of one order of calls. Sizes are shares of the memory.

    An interval goes from call `begin` to call `end`, the next of the same model, and spans the calls in between.
    """

    def __init__(self, calls: Ints, shares: Floats) -> None:
        if shares[calls].max() > 1.0 + 1e-12:
            raise InvalidInput("a model that was called is larger than all the memory")
        calls = calls[np.concatenate(([True], calls[1:] != calls[:-1]))]  # a call after its like costs nothing
        self._firsts = np.unique(calls)
        by_model = np.argsort(calls, kind="stable")
        again = calls[by_model][1:] == calls[by_model][:-1]
        begin, end = by_model[:-1][again], by_model[1:][again]
        self._calls = calls
        self._room = np.maximum(0.0, 1.0 - shares[calls])
        may_stay = shares[calls[begin]] <= _least_within(self._room, begin + 1, end) + 1e-12
        self._reloaded = calls[begin[~may_stay]]
        self._begin, self._end = begin[may_stay], end[may_stay]
        self._model = calls[self._begin]
        self._size = shares[self._model]

    def solve(self, costs: Floats, exact: bool) -> float:
        """The bound on the sum of costs, one for each load."""
        certain = float(costs[self._firsts].sum() + costs[self._reloaded].sum())
        saved = costs[self._model]
        if not len(saved) or not saved.any():
            return certain
        prices = self._exact_prices(saved) if exact else self._good_prices(saved)
        return (certain + max(0.0, self._value(prices, saved))) * (1.0 - ROUNDING)

    def _value(self, prices: Floats, saved: Floats) -> float:
        """The dual's value: a bound on what is loaded again, for any prices that are not negative."""
        paid = np.minimum(saved, self._size * self._spans(prices))
        return float(paid.sum() - (prices * self._room).sum())

    def _spans(self, per_call: Floats) -> Floats:
        """The sum over the calls strictly inside each interval."""
        sums = np.concatenate(([0.0], np.cumsum(per_call)))
        spans: Floats = sums[self._end] - sums[self._begin + 1]
        return spans

    # Prices.

    def _exact_prices(self, saved: Floats) -> Floats:
        """From HiGHS: what one more unit of room at each call would save.

        z_k is what is kept across call k, by its size: between 0 and the room beside the call's own model. From call to
        call it changes by what was just called, if that is kept, and by what is called next, if that was.
        """
        from scipy.optimize import linprog
        from scipy.sparse import coo_array

        count, intervals = len(self._calls), len(saved)
        rows = np.arange(count - 1)
        entries: list[tuple[Any, Any, Any]] = [
            (rows, intervals + rows + 1, np.ones(count - 1)),
            (rows, intervals + rows, -np.ones(count - 1)),
            (self._begin, np.arange(intervals), -self._size),
            (self._end - 1, np.arange(intervals), self._size),
        ]
        row, column, value = (np.concatenate([entry[part] for entry in entries]) for part in range(3))
        matrix = coo_array((value, (row, column)), shape=(count - 1, intervals + count)).tocsr()
        bounds = np.zeros((intervals + count, 2))
        bounds[:intervals, 1] = 1.0
        bounds[intervals:, 1] = self._room
        bounds[intervals, 1] = 0.0  # nothing is resident before the first call
        scale = saved.max()
        solved = linprog(
            np.concatenate((-saved / scale, np.zeros(count))),
            A_eq=matrix,
            b_eq=np.zeros(count - 1),
            bounds=bounds,
            method="highs",
        )
        if solved.status != 0:
            raise Fault(f"HiGHS did not solve the bound's program: {solved.message}")
        prices: Floats = np.maximum(0.0, -solved.upper.marginals[intervals:]) * scale
        return prices

    def _good_prices(self, saved: Floats) -> Floats:
        """One price for all, the best there is; then subgradient steps, each price by what is short at its call."""
        best = self._flat_prices(saved)
        best_value = self._value(best, saved)
        prices, velocity = best.copy(), np.zeros_like(best)
        scale = max(float(best.mean()), 1e-12)
        steps = max(STEPS_MIN, min(STEPS, STEPS_CALLS // len(self._calls)))
        for number in range(steps):
            kept = np.where(self._size * self._spans(prices) < saved, self._size, 0.0)
            short = self._across(kept) - self._room
            velocity = MOMENTUM * velocity + (1.0 - MOMENTUM) * short
            prices = np.maximum(0.0, prices + STEP * scale * velocity / (1.0 + number / (DECAY * steps)))
            value = self._value(prices, saved)
            if value > best_value:
                best, best_value = prices.copy(), value
        return best

    def _flat_prices(self, saved: Floats) -> Floats:
        """The best single price: intervals that save most for their size and length are kept until the room is full."""
        ones = np.ones(len(self._calls))
        taken = self._size * self._spans(ones)
        worth = saved / np.maximum(taken, 1e-300)
        ranked = np.argsort(-worth)
        full = int(np.searchsorted(np.cumsum(taken[ranked]), self._room.sum()))
        return ones * (worth[ranked[full]] if full < len(ranked) else 0.0)

    def _across(self, kept: Floats) -> Floats:
        """For each call, what is kept across it."""
        change = np.zeros(len(self._calls) + 1)
        np.add.at(change, self._begin + 1, kept)
        np.add.at(change, self._end, -kept)
        return np.cumsum(change)[:-1]


def _least_within(values: Floats, first: Ints, last: Ints) -> Floats:
    """The least of `values[first:last]`, for many such ranges, none of them empty."""
    lengths = last - first
    least = np.empty(len(first))
    table, step = values, 1  # table[at]: the least of values[at : at + step]
    while len(lengths) and step <= lengths.max():
        now = (lengths >= step) & (lengths < 2 * step)
        least[now] = np.minimum(table[first[now]], table[last[now] - step])
        table, step = np.minimum(table[:-step], table[step:]), 2 * step
    return least
