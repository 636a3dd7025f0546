"""Every operator's verb: what the sync client sends, and that the asyncio client sends and gives the same."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import huterox

PAGE = {"rows": [{"id": "r"}], "next": ""}
EVENTS = {"events": [{"seq": 1}], "next": 1, "more": False}
ROWS, ONE = [{"id": "r"}], {"done": True}

Use = Callable[[Any], Any]

# What is done, the verb and the arguments that arrive, the answer, and the result.
VERBS: list[tuple[Use, str, dict[str, Any], Any, Any]] = [
    (lambda c: c.status(), "status", {}, ONE, ONE),
    (lambda c: c.containers(), "ps", {}, PAGE, ROWS),
    (lambda c: c.nodes(), "nodes", {}, PAGE, ROWS),
    (lambda c: c.models(), "models", {}, PAGE, ROWS),
    (lambda c: c.services(), "services", {}, PAGE, ROWS),
    (lambda c: c.services(tenant="acme"), "services", {"tenant": "acme"}, PAGE, ROWS),
    (lambda c: c.usage(), "usage", {"by": "tenant"}, PAGE, ROWS),
    (lambda c: c.usage(by="service", tenant="acme"), "usage", {"by": "service", "tenant": "acme"}, PAGE, ROWS),
    (lambda c: c.events(), "events", {"limit": 1000}, EVENTS, [{"seq": 1}]),
    (
        lambda c: c.events(after=3, limit=5, subject="vad"),
        "events",
        {"after": 3, "limit": 5, "subject": "vad"},
        EVENTS,
        [{"seq": 1}],
    ),
    (lambda c: c.pin("cam"), "pin", {"name": "cam", "tenant": "city"}, ONE, ONE),
    (lambda c: c.unpin("cam", tenant="acme"), "unpin", {"name": "cam", "tenant": "acme"}, ONE, ONE),
    (lambda c: c.drain("n1"), "drain", {"name": "n1"}, ONE, ONE),
    (lambda c: c.resume("n1"), "resume", {"name": "n1"}, ONE, ONE),
    (lambda c: c.evict("c1.1"), "evict", {"container": "c1.1"}, ONE, ONE),
    (lambda c: c.delete("cam"), "delete", {"name": "cam", "tenant": "city"}, ONE, ONE),
    (lambda c: c.undeploy("yolo", force=True), "undeploy", {"name": "yolo", "force": True}, ONE, ONE),
    (
        lambda c: c.create("cam", model="yolo"),
        "create",
        {"name": "cam", "model": "yolo", "tier": "shared", "tenant": "city"},
        ONE,
        ONE,
    ),
    (
        lambda c: c.create("cam", model="yolo", tier="dedicated", lend=True, in_flight_max=4, info={"a": "b"}),
        "create",
        {
            "name": "cam",
            "model": "yolo",
            "tier": "dedicated",
            "lend": True,
            "in_flight_max": 4,
            "info": {"a": "b"},
            "tenant": "city",
        },
        ONE,
        ONE,
    ),
    (
        lambda c: c.logs("cam", offset=0, limit=10),
        "logs",
        {"name": "cam", "tenant": "city", "offset": 0, "limit": 10},
        ONE,
        ONE,
    ),
]


@pytest.mark.parametrize(("use", "verb", "sent", "answer", "result"), VERBS)
def test_both_clients_send_the_same_and_give_the_same(double, use, verb, sent, answer, result):
    asked = []
    double.results[verb] = lambda args: asked.append(args) or answer
    with huterox.connect(double.endpoint, tenant="city") as client:
        asked.clear()  # it has asked for the status
        assert use(client) == result

    async def main() -> Any:
        async with huterox.aconnect(double.endpoint, tenant="city") as client:
            asked.pop() if verb == "status" else None
            return await use(client)

    assert asyncio.run(asyncio.wait_for(main(), 30)) == result
    assert asked == [sent, sent]


def test_every_verb_of_the_client_is_tried_here():
    not_verbs = {"admin", "check_answering", "close", "service"}
    methods = {name for name, value in vars(huterox.Client).items() if callable(value) and not name.startswith("_")}
    tried = {"containers" if verb == "ps" else verb for _, verb, *_ in VERBS}
    assert methods - not_verbs - {"deploy"} == tried  # a model file has its own tests


def test_an_asyncio_client_that_is_awaited_twice_stays_one_connection(double):
    async def main() -> None:
        client = await huterox.aconnect(double.endpoint)
        async with client as again:
            assert again is client
            assert (await again.status())["nodes_ready"] == 1
        with pytest.raises(huterox.Unavailable, match="closed"):
            await client.status()

    asyncio.run(asyncio.wait_for(main(), 30))
