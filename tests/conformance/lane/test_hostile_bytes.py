"""A peer that writes anything anywhere: an honest end goes on or says that the lane is over, and touches only its own.

Each life of a lane follows from its seed: `live("caller", make_memory_lane, "7/13")` is one again.
"""

import random

import pytest
from tests.conformance.lane.lanes import check_slab, make_memory_lane, make_segment_lane
from tests.conformance.lane.liars import OVER, HonestCaller, HonestContainer, LyingCaller, LyingContainer
from tests.rounds import seeds

PAIRS = {"caller": (HonestCaller, LyingContainer), "container": (HonestContainer, LyingCaller)}
STEPS = 60


def untouched(before, memory, places):
    """Is all of memory as before, except in these places?"""
    at = 0
    for start, end in [*sorted(places), (len(before), len(before))]:
        if memory[at:start] != before[at:start]:
            return False
        at = end
    return True


def live(who, maker, seed):
    """One life of a lane. Returns how many steps it had before it was over."""
    rng = random.Random(f"{who} {seed}")
    lane = maker()
    honest_kind, liar_kind = PAIRS[who]
    honest = honest_kind(lane, rng, can_wait=maker is make_segment_lane)
    liar = liar_kind(lane, rng)
    if who == "container":
        liar.unseen = honest.claimed
    steps = 0
    over = None
    while steps < STEPS and over is None:
        steps += 1
        liar.act()
        for _ in range(rng.choice([1, 1, 3])):
            before = lane.memory[:]
            try:
                honest.act()
            except OVER as exc:
                over = exc
                break
            finally:
                assert untouched(before, lane.memory, honest.places)
    check_slab(honest.end)
    if over is not None:
        check_that_it_stays_over(honest, liar)
    honest.end.mark_dead()
    lane.close()
    return steps


def check_that_it_stays_over(honest, liar):
    """Whatever the liar does, the end that has seen through it hands nothing out that is not the liar's."""
    for _ in range(5):
        liar.act()
        before = honest.lane.memory[:]
        try:
            honest.take()
        except OVER:
            pass
        assert untouched(before, honest.lane.memory, honest.places)


@pytest.mark.parametrize("batch", seeds(6, 40))
@pytest.mark.parametrize("who", PAIRS)
def test_honest_end_survives_a_liar(who, batch):
    steps = [live(who, make_memory_lane, f"{batch}/{number}") for number in range(60)]
    assert sum(steps) > 60 * 15  # or the liars are too stupid to be of use


@pytest.mark.parametrize("batch", seeds(4, 20))
@pytest.mark.parametrize("who", PAIRS)
def test_honest_end_of_a_real_lane_survives_a_liar(who, batch):
    for number in range(25):
        live(who, make_segment_lane, f"{batch}/{number}")
