"""Whose fault it is that a load failed: that decides who waits.

What a model does wrong is its own affair: it backs off, and is tried elsewhere first where there is an elsewhere. A
node is sick, and left alone for a while, by what only a node can be blamed for: it refuses loads one after another
(it has no descriptors, cannot fork, its zygotes die); or models of several tenants, each of which has loaded well
before, fail there one after another. So nobody who deploys broken models keeps others out.
"""

from typing import Final

from huterox_connector.core.config import CoreConfig
from huterox_connector.core.effects import Effect
from huterox_connector.core.journal import Journal
from huterox_connector.core.records import Container, Node

REFUSED: Final = "refused"
"""The cause that is the node's own: no process came to be."""

_MAY_BE_THE_NODES: Final = frozenset({"crashed", "load_timeout"})
TENANTS_MIN: Final = 2
"""Of the models that are evidence against a node."""


class Health:
    """Owns what nodes are blamed for."""

    def __init__(self, journal: Journal, config: CoreConfig) -> None:
        self._journal = journal
        self._config = config

    def went_well(self, node: Node) -> None:
        """A load did: nothing is wrong there."""
        node.refusals = 0
        node.failures.clear()

    def failed(self, container: Container, cause: str, now_s: float) -> list[Effect]:
        """A load did. Returns the news where the node is sick from now on."""
        node, config = container.node, self._config
        if cause == REFUSED:
            node.refusals += 1
        elif cause in _MAY_BE_THE_NODES and len(container.model.footprints):
            node.failures[container.spec.name] = cause, _tenant_of(container)
        if now_s < node.sick_until_s:
            return []
        if node.refusals >= config.sick_after:
            return self._sicken(node, f"it refused {node.refusals} loads one after another", now_s)
        tenants = {tenant for _, tenant in node.failures.values()}
        if len(node.failures) >= config.sick_after and len(tenants) >= TENANTS_MIN:
            why = f"loads of {len(node.failures)} models of {len(tenants)} tenants, which went well before, failed"
            return self._sicken(node, why, now_s)
        return []

    def _sicken(self, node: Node, why: str, now_s: float) -> list[Effect]:
        causes = {model: cause for model, (cause, _) in node.failures.items()}
        node.sick_until_s, node.sick_because = now_s + self._config.sick_s, why
        node.failures.clear()
        node.refusals = min(node.refusals, self._config.sick_after - 1)  # it is tried once more, then left alone again
        reason = f"{why}; nothing is loaded there for a while"
        return [self._journal.record("node.sick", node.name, reason, now_s, causes=causes, for_s=self._config.sick_s)]


def _tenant_of(container: Container) -> str:
    """Who asked for the load: whose call waits longest, else anybody that uses the model."""
    group = container.group
    if group.waiting:
        return group.waiting.oldest.service.tenant
    return next((service.tenant for service in group.services.values()), "")
