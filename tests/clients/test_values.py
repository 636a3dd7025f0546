"""Values of all kinds through both clients, by the switchboard and by a lane: as they are, or a typed error."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.clients.containers import MIB, WAIT_S, ContainerDouble
from tests.clients.lanes import grants
from tests.rounds import seeds
from tests.values import KINDS, REFUSED, Source, same, several

import huterox

CALLS = 30

by_ways = pytest.mark.parametrize("way", ["routed", "lane"])


@pytest.fixture
def containers(double: Any, kernel: Any, way: str) -> Iterator[None]:
    """By the way "lane", each lease is granted by a container."""
    made: list[ContainerDouble] = []
    if way == "lane":
        kernel.answer = lambda peer: ContainerDouble(half_nbytes=4 * MIB, peer=peer, made=made)
        double.lease = grants(kernel)
    yield
    for container in made:
        container.close()


def check(got: Any, expected: Any, value: Any) -> None:
    if expected is REFUSED or got is REFUSED:
        assert got is expected, value
        return
    assert set(got) == set(expected), value
    for name in expected:
        assert same(got[name], expected[name]), (name, got[name], value)


@by_ways
@pytest.mark.parametrize("seed", seeds(3, 20))
def test_what_is_called_with_comes_back_or_is_refused(containers: None, client: Any, way: str, seed: int) -> None:
    source = Source(seed)
    service = client.service("echo")
    assert service.path == way
    calls: list[Callable[..., Any]] = [service, lambda **values: service.submit(**values).result(WAIT_S)]
    for turn in range(CALLS):
        value, expected = several(source, KINDS)
        try:
            got = calls[turn % 2](**value)
        except huterox.InvalidInput:
            got = REFUSED
        check(got, expected, value)
    assert service.path == way


@by_ways
@pytest.mark.parametrize("seed", seeds(3, 20))
def test_the_same_by_asyncio(containers: None, double: Any, run: Any, way: str, seed: int) -> None:
    source = Source(seed)

    async def calls() -> None:
        async with huterox.aconnect(double.endpoint, timeout=WAIT_S) as client:
            service = await client.service("echo")
            assert service.path == way
            for _ in range(CALLS):
                value, expected = several(source, KINDS)
                try:
                    got = await service(**value)
                except huterox.InvalidInput:
                    got = REFUSED
                check(got, expected, value)
            assert service.path == way

    run(calls())
