"""Whose a container is that runs when its kernel registers: its group's, its service's own, or nobody's."""

from tests.connector.harness import Harness, created, report

from huterox_connector.core.lifecycle import State


def test_a_dedicated_container_is_told_whose_it_is(harness: Harness) -> None:
    harness.node()
    handle = harness.service("cam", tier="dedicated")
    (meta,) = created(harness.call("cam", 1))
    assert meta.service == handle


def test_a_shared_container_belongs_to_no_service(harness: Harness) -> None:
    harness.node()
    harness.service("bert")
    (meta,) = created(harness.call("bert", 1))
    assert meta.service == 0


def test_a_dedicated_container_is_its_services_own_again_after_a_restart(harness: Harness) -> None:
    handle = harness.service("cam", tier="dedicated")
    harness.service("other", model="cam")
    harness.node(containers=[report(77, "cam", service=handle)], now_s=1.0)
    adopted = harness.hit("cam", 1)
    assert adopted is not None
    assert (adopted.id, adopted.group.dedicated) == (77, True)
    assert harness.hit("other", 2) is None


def test_a_shared_container_is_not_given_to_a_dedicated_service(harness: Harness) -> None:
    harness.service("cam", tier="dedicated")
    harness.service("other", model="cam")
    harness.node(containers=[report(77, "cam")], now_s=1.0)
    assert harness.hit("cam", 1) is None
    assert harness.hit("other", 2) is not None


def test_a_container_whose_service_was_deleted_meanwhile_is_closed(harness: Harness) -> None:
    handle = harness.service("cam", tier="dedicated")
    harness.service("other", model="cam")
    harness.ask("delete", name="cam")
    assert_is_stray(harness, handle)


def test_a_container_of_a_service_that_is_not_dedicated_is_closed(harness: Harness) -> None:
    assert_is_stray(harness, harness.service("cam"))


def test_a_container_that_is_dedicated_to_a_service_of_another_model_is_closed(harness: Harness) -> None:
    harness.deploy("cam")
    assert_is_stray(harness, harness.service("lamp", tier="dedicated"))


def assert_is_stray(harness: Harness, service: int) -> None:
    harness.node(containers=[report(77, "cam", service=service)], now_s=2.0)
    container = harness.board.registry.containers[77]
    assert container.state in (State.DRAINING, State.CLOSING)
    assert container not in container.group.ready
