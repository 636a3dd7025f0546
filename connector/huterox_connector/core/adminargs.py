"""The arguments of every verb, checked before anything is done."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from huterox_wire.meta import Name
from huterox_wire.nodes import ModelSpec, Text

Info = dict[Annotated[str, Meta(min_length=1, max_length=64)], Annotated[str, Meta(max_length=256)]]


class Args(Struct, forbid_unknown_fields=True):
    """What all have in common."""


class NoArgs(Args):
    pass


class DeployArgs(Args):
    model: ModelSpec


class UndeployArgs(Args):
    name: Text
    force: bool = False


class CreateArgs(Args):
    name: Name
    model: Name
    tenant: Text = ""
    tier: Literal["shared", "dedicated", "pinned"] = "shared"
    lend: bool = False
    in_flight_max: Annotated[int, Meta(ge=0, le=2**31)] = 0
    info: Annotated[Info, Meta(max_length=16)] = field(default_factory=dict)


class ServiceArgs(Args):
    """Of `delete`, `pin` and `unpin`."""

    name: Text
    tenant: Text = ""


class NodeArgs(Args):
    """Of `drain` and `resume`."""

    name: Name


class PageArgs(Args):
    """Of lists: rows after the one that `after` names, as the last page's `next` says."""

    after: Text = ""


class ServicesArgs(Args):
    tenant: Text = ""
    after: Text = ""


class UsageArgs(Args):
    tenant: Text = ""
    by: Literal["tenant", "service"] = "tenant"
    after: Text = ""


class EventsArgs(Args):
    """Events after one number and before another, 0: any. Where there are too many: the newest, unless `after` is
    given, then the oldest.
    """

    after: int = 0
    before: Annotated[int, Meta(ge=0)] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000
    subject: Text = ""


class EvictArgs(Args):
    container: Text


class LogsArgs(Args):
    name: Text
    tenant: Text = ""
    offset: int = -65536
    limit: Annotated[int, Meta(ge=1, le=262144)] = 65536
