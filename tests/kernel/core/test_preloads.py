"""What zygotes import beyond the configured modules."""

import pytest

from huterox_kernel.core import preloads
from huterox_kernel.core.preloads import (
    FRESH_MAX,
    INTERPRETERS_MAX,
    LEARNED_MAX,
    SKIPPED_MAX,
    Learned,
    Level,
    Plan,
    Preloads,
)

OWN = ""
SLOW_S = 0.5


def settled(*names: str, took_s: float = SLOW_S) -> Preloads:
    """These have been learned and tried."""
    known = Preloads([], True, {})
    known.learn(OWN, names)
    known.settle(OWN, known.wanted(OWN), dict.fromkeys(names, took_s), {}, "fp")
    return known


def test_what_a_load_imported_is_wanted_by_the_next_zygote_in_the_same_order() -> None:
    known = Preloads([], True, {})
    assert not known.has_fresh(OWN)
    known.learn(OWN, ["scipy", "scipy.signal", "cv2"])
    assert known.has_fresh(OWN)
    assert known.wanted(OWN) == ["scipy", "scipy.signal", "cv2"]


def test_memory_that_came_with_what_is_fresh_is_counted_once_and_until_it_was_tried() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, ["scipy", "scipy.signal"], 30)
    known.learn(OWN, ["scipy.signal", "scipy"], 31)  # the same again: the next model imports them, too
    assert known.fresh_nbytes(OWN) == 30
    known.learn(OWN, ["scipy", "cv2"], 50)
    assert known.fresh_nbytes(OWN) == 80
    assert known.fresh_nbytes("/env/python") == 0
    known.settle(OWN, ["scipy", "scipy.signal"], {"scipy": SLOW_S}, {}, "fp")
    assert known.fresh_nbytes(OWN) == 50
    known.drop_fresh(OWN)
    assert known.fresh_nbytes(OWN) == 0


def test_interpreters_learn_apart() -> None:
    known = Preloads([], True, {})
    known.learn("/env/python", ["scipy"])
    assert known.wanted(OWN) == []


def test_dear_modules_are_kept_and_those_that_came_with_them_are_not() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, ["scipy", "scipy.signal", "colorsys"])
    known.settle(OWN, known.wanted(OWN), {"scipy": SLOW_S, "colorsys": 0.0001}, {}, "fp")
    assert known.wanted(OWN) == ["scipy"]
    assert not known.has_fresh(OWN)


def test_cheap_modules_are_not_tried_again() -> None:
    known = settled("colorsys", took_s=0.0001)
    known.learn(OWN, ["colorsys", "scipy"])
    assert known.wanted(OWN) == ["scipy"]


def test_a_module_that_came_with_one_that_is_gone_is_learned_by_itself() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, ["outer", "inner"])
    known.settle(OWN, ["outer", "inner"], {"outer": SLOW_S}, {}, "fp")
    known.avoid(OWN, ["outer"], "no good")
    known.learn(OWN, ["outer", "inner"])
    assert known.wanted(OWN) == ["inner"]


def test_what_is_known_is_not_fresh_again() -> None:
    known = settled("scipy")
    known.learn(OWN, ["scipy"])
    assert not known.has_fresh(OWN)


def test_skipped_modules_are_not_tried_again_nor_what_is_in_them() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, ["grpc"])
    known.settle(OWN, ["grpc"], {}, {"grpc": "it starts 3 threads"}, "fp")
    known.learn(OWN, ["grpc", "grpc.aio", "grpcio"])
    assert known.wanted(OWN) == ["grpcio"]
    assert known.known()[OWN].skipped == {"grpc": "it starts 3 threads"}


def test_skipped_and_cheap_modules_are_tried_again_when_packages_have_changed() -> None:
    known = settled("colorsys", took_s=0.0001)
    known.avoid(OWN, ["grpc"], "it starts 3 threads")
    known.settle(OWN, [], {}, {}, "other packages")
    known.learn(OWN, ["grpc", "colorsys"])
    assert known.wanted(OWN) == ["grpc", "colorsys"]


def test_what_must_not_be_preloaded_is_no_longer_wanted() -> None:
    known = settled("onnxruntime", "scipy")
    known.learn(OWN, ["onnxruntime.capi", "cv2"])
    known.avoid(OWN, ["onnxruntime", "onnxruntime.capi"], "its model sets environment variables")
    assert known.wanted(OWN) == ["scipy", "cv2"]
    assert list(known.known()[OWN].skipped) == ["onnxruntime"]


def test_fresh_modules_that_no_zygote_could_try_are_learned_by_the_next_load() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, ["scipy"])
    known.drop_fresh(OWN)
    assert not known.has_fresh(OWN)
    known.learn(OWN, ["scipy"])
    assert known.has_fresh(OWN)


def test_what_comes_while_a_zygote_tries_stays_fresh() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, ["scipy"])
    tried = known.wanted(OWN)
    known.learn(OWN, ["cv2"])
    known.settle(OWN, tried, {"scipy": SLOW_S}, {}, "fp")
    assert known.has_fresh(OWN)
    assert known.wanted(OWN) == ["scipy", "cv2"]


def test_with_too_many_the_oldest_make_way() -> None:
    known = settled(*(f"old{index}" for index in range(LEARNED_MAX)))
    known.learn(OWN, ["new"])
    known.settle(OWN, known.wanted(OWN), {"new": SLOW_S} | dict.fromkeys(known.wanted(OWN), SLOW_S), {}, "fp")
    assert len(known.wanted(OWN)) == LEARNED_MAX
    assert known.wanted(OWN)[-1] == "new"
    assert "old0" not in known.wanted(OWN)


def test_everything_is_bounded() -> None:
    known = Preloads([], True, {})
    known.learn(OWN, (f"m{index}" for index in range(10_000)))
    assert len(known.wanted(OWN)) == FRESH_MAX
    known.avoid(OWN, [f"a{index}" for index in range(10_000)], "x" * 10_000)
    assert len(known.known()[OWN].skipped) == SKIPPED_MAX
    assert max(map(len, known.known()[OWN].skipped.values())) == preloads.REASON_NBYTES_MAX
    known.learn(OWN, ["another"])
    assert "another" not in known.wanted(OWN)
    for index in range(100):
        known.learn(f"/env{index}/python", ["scipy"])
    assert len(known.known()) == INTERPRETERS_MAX


@pytest.mark.parametrize("name", ["", "os; import sys", "a..b", "x" * 1000, "a-b", "a,b"])
def test_what_is_no_module_name_is_not_learned(name: str) -> None:
    known = Preloads([], True, {})
    known.learn(OWN, [name])
    assert known.wanted(OWN) == []


def test_what_was_kept_is_wanted_at_once() -> None:
    assert Preloads([], True, {OWN: Learned(["scipy"])}).wanted(OWN) == ["scipy"]


def test_nothing_is_learned_where_that_is_switched_off() -> None:
    known = Preloads([], False, {OWN: Learned(["scipy"])})
    known.learn(OWN, ["cv2"])
    known.avoid(OWN, ["cv2"], "no")
    known.settle(OWN, [], {}, {}, "fp")
    assert known.wanted(OWN) == []
    assert not known.has_fresh(OWN)
    assert known.known() == {}


def test_a_model_whose_loads_went_well_before_is_plain_once_one_fails() -> None:
    known = settled("scipy")
    known.loaded(OWN, "yolo 1")
    assert known.level_of(OWN, "yolo 1") is Level.LEARNED
    assert known.failed(OWN, "yolo 1")
    assert known.level_of(OWN, "yolo 1") is Level.CONFIGURED
    assert known.level_of(OWN, "yolo 2") is Level.LEARNED
    assert known.level_of("/env/python", "yolo 1") is Level.LEARNED
    assert not known.failed(OWN, "yolo 1")  # that is known, and changes nothing


def test_a_model_that_never_loaded_is_to_blame_itself() -> None:
    known = settled("scipy")
    assert not known.failed(OWN, "yolo 1")
    assert known.level_of(OWN, "yolo 1") is Level.LEARNED


def test_plain_models_get_another_chance_when_packages_have_changed() -> None:
    known = settled("scipy")
    known.loaded(OWN, "yolo 1")
    known.failed(OWN, "yolo 1")
    known.settle(OWN, [], {}, {}, "other packages")
    assert known.level_of(OWN, "yolo 1") is Level.LEARNED


def test_what_is_known_of_models_is_bounded() -> None:
    known = settled("scipy")
    for index in range(5000):
        known.loaded(OWN, f"m{index} 1")
    assert not known.failed(OWN, "m0 1")
    for index in range(5000 - preloads.LOADED_MAX, 5000):
        assert known.failed(OWN, f"m{index} 1")
    assert len(known.known()[OWN].plain) == preloads.PLAIN_MAX


def test_a_level_says_how_much_is_imported() -> None:
    known = Preloads(["numpy", "torch"], True, {OWN: Learned(["scipy"])})
    assert known.plan(OWN, Level.LEARNED) == Plan(["numpy", "torch"], ["scipy"])
    assert known.plan(OWN, Level.CONFIGURED) == Plan(["numpy", "torch"], [])
    assert known.plan(OWN, Level.BARE) == Plan([], [])


def test_a_configured_module_that_no_zygote_survives_is_left_out_and_not_learned_instead() -> None:
    known = Preloads(["numpy", "torch"], True, {})
    known.leave_out(OWN, "torch", "hung")
    known.learn(OWN, ["torch", "torch.nn", "scipy"])
    assert known.plan(OWN, Level.LEARNED) == Plan(["numpy"], ["scipy"])
    assert known.left_out(OWN) == {"torch": "hung"}
    assert known.plan("/env/python", Level.CONFIGURED) == Plan(["numpy", "torch"], [])
    assert Preloads(["numpy", "torch"], True, known.known()).plan(OWN, Level.CONFIGURED).modules == ["numpy", "torch"]


def test_a_learned_module_that_no_zygote_survives_is_left_out() -> None:
    known = Preloads(["numpy"], True, {OWN: Learned(["scipy", "cv2"])})
    known.leave_out(OWN, "scipy", "hung")
    assert known.plan(OWN, Level.LEARNED) == Plan(["numpy"], ["cv2"])
    assert known.left_out(OWN) == {}
