"""What was measured of a model, by node."""

from huterox_connector.core.footprints import NODES_MAX, Footprint, Footprints

CPU = Footprint(100, 0, 1.0)
GPU = Footprint(50, 200, 3.0, on_device=True)


def test_measured_there_comes_before_measured_elsewhere() -> None:
    seen = Footprints()
    seen.learn("n1", CPU)
    seen.learn("n2", GPU)
    assert seen.on("n1") == CPU
    assert seen.on("n3") is None
    assert (seen.load_s("n1"), seen.load_s("n3")) == (1.0, 3.0)  # elsewhere: as last measured
    assert seen.nodes() == ["n2", "n1"]


def test_with_and_without_a_device_are_two_sizes() -> None:
    seen = Footprints()
    seen.learn("n1", CPU)
    assert seen.anywhere(on_device=True) is None
    seen.learn("n2", GPU)
    assert (seen.anywhere(True), seen.anywhere(False)) == (GPU, CPU)


def test_nodes_are_bounded_and_the_one_measured_longest_ago_is_forgotten() -> None:
    seen = Footprints()
    forgotten = [seen.learn(f"n{number}", CPU) for number in range(NODES_MAX + 1)]
    assert forgotten == [None] * NODES_MAX + ["n0"]
    assert len(seen) == NODES_MAX
    assert seen.learn("n1", GPU) is None


def test_all_is_remembered_and_only_what_differs_noticeably_from_what_is_on_disk_is_written() -> None:
    seen = Footprints()
    told = [Footprint(100, 0, 1.0), Footprint(103, 0, 1.0), Footprint(106, 0, 1.0), Footprint(103, 0, 1.0)]
    written = []
    for footprint in told:
        seen.learn("n1", footprint)
        assert seen.on("n1") == footprint
        written.append(seen.must_write("n1"))
    assert written == [True, False, True, False]


def test_what_was_read_from_disk_is_not_written_again() -> None:
    seen = Footprints()
    seen.recall("n1", CPU)
    assert seen.on("n1") == CPU
    assert not seen.must_write("n1")
    seen.clear()
    seen.learn("n1", CPU)
    assert seen.must_write("n1")  # it is of another version now


def test_only_what_differs_noticeably_is_worth_writing() -> None:
    assert CPU.is_like(Footprint(104, 0, 1.04))
    assert not CPU.is_like(Footprint(106, 0, 1.0))
    assert not CPU.is_like(Footprint(100, 0, 1.2))
    assert not CPU.is_like(None)
    assert not CPU.is_like(Footprint(100, 0, 1.0, on_device=True))


def test_another_version_knows_nothing() -> None:
    seen = Footprints()
    seen.learn("n1", CPU)
    seen.clear()
    assert len(seen) == 0
    assert seen.load_s("n1") == 0.0
