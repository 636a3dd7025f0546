"""`huterox up` says when its platform cannot be called, in growing pauses, and when it can again."""

from huterox.cli.watch import Watch


def test_trouble_is_told_at_once_and_again_in_growing_pauses() -> None:
    watch = Watch()
    assert watch.look("", 0.0) == ""
    told = [now_s for now_s in range(5, 200, 5) if watch.look("it sleeps", float(now_s))]
    assert told == [5, 15, 35, 75, 155]


def test_another_trouble_is_news() -> None:
    watch = Watch()
    assert watch.look("it sleeps", 5.0) == "no calls can be made: it sleeps"
    assert watch.look("no kernel", 6.0) == "no calls can be made: no kernel"
    assert watch.look("no kernel", 7.0) == ""


def test_the_end_of_trouble_is_told_once() -> None:
    watch = Watch()
    watch.look("it sleeps", 5.0)
    watch.look("no kernel", 6.0)
    assert watch.look("", 25.0) == "calls can be made again, after 20 s"
    assert watch.look("", 26.0) == ""
