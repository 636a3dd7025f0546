"""The real core in a simulated platform, from many seeds. `HUTEROX_SIM_SEEDS` says how many under `make soak`."""

import pytest
from tests.rounds import SEED, rounds
from tests.simulation.campaign import Played, play_many, told
from tests.simulation.play import play

pytestmark = pytest.mark.timeout(600)

EVENTS = """
    load ready evict reclaim move gone crash load_failed refused claim lend adopt tier lane.broken replica.refused
    node.registered node.lost node.twin node.sick node.drained node.resumed
    epoch store.younger store.other
"""
ENDS = """
    Busy Cancelled DeadlineExceeded ModelError ResourceInterrupt WorkerLost NotFound Unavailable Conflict
    lease.late lease.Unavailable lease.NotFound lease.DeadlineExceeded
"""
OTHERS = """
    restart adopted hit joined reused left stalled turn forwarded returned borrowed
    lane lane.call lane.refused leaves.evict leaves.reclaim leaves.move
    hung succeeded
"""


@pytest.fixture(scope="module", params=rounds("HUTEROX_SIM_SEEDS", 500, 20_000))
def played(request: pytest.FixtureRequest) -> list[Played]:
    return list(play_many(SEED, request.param))


def test_every_invariant_holds_whatever_happens(played: list[Played]) -> None:
    failures = {seed: why for part in played for seed, why in part.failures.items()}
    assert not failures, f"{len(failures)} seeds failed; to replay them:\n{told(failures)}"


@pytest.mark.parametrize("kind", [*(EVENTS + ENDS + OTHERS).split(), "store lost", "store rolled back", "gives way"])
def test_simulation_meets_what_it_should_meet(kind: str, played: list[Played]) -> None:
    """Otherwise the invariants would be checked on nothing."""
    assert sum(part.seen[kind] for part in played) > 0


def test_same_seed_replays_the_same_run() -> None:
    assert play(7).seen == play(7).seen


def test_thorough_run_is_the_same_run() -> None:
    """What is checked more often changes nothing: so a seed that fails can be looked at closely."""
    assert play(5, thorough=True).seen == play(5).seen
