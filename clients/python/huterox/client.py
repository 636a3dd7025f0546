"""The sync client: the operator's verbs, and services to call."""

import os
from collections.abc import Mapping
from os import PathLike
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

from huterox.connection import Connection
from huterox.core import LANE_SPIN_US, Limits
from huterox.endpoint import check_listening, find_endpoint, no_switchboard
from huterox.lease import LaneOptions, lane_limits, lane_options
from huterox.leases import Leases
from huterox.modelfile import read_model
from huterox.pages import EventPages, Pages
from huterox.verbs import Row, decode_admin, decode_opening, encode_admin, encode_opening
from huterox_wire.errors import DeadlineExceeded
from huterox_wire.kinds import Kind

if TYPE_CHECKING:
    from huterox.service import Service

CONNECT_S_MAX = 5.0
"""How long `connect` waits for the switchboard's first answer, at most."""

_OPEN = int(Kind.OPEN)
_ADMIN = int(Kind.ADMIN)


def connect(
    endpoint: str | None = None,
    *,
    tenant: str | None = None,
    timeout: float = 60.0,
    lanes: bool = True,
    lane_mb: int | None = None,
    when_full: str = "wait",
    lane_spin_us: int = LANE_SPIN_US,
) -> "Client":
    """Connect to a switchboard and make sure that it answers.

    Args:
        endpoint: "ipc:///DIR/switchboard.ipc" or "tcp://HOST:PORT"; None: HUTEROX_ENDPOINT, else the default
            directory of `huterox up`.
        tenant: on whose behalf; None: the tenant "default".
        timeout: in seconds, for every call that names none of its own.
        lanes: whether services may call through memory that they share with their containers, where that is possible;
            HUTEROX_LANES=0 turns it off too.
        lane_mb: memory for the requests in flight in one lane, and as much for the answers, in MiB; taken as it is
            used. None: what the kernel gives by default. A call that does not fit at all goes by the switchboard.
        when_full: what becomes of a call for which its lane has no room now: "wait", until its deadline at most; or
            "busy", which raises `Busy` at once.
        lane_spin_us: how long a thread looks for a lane's answer before it sleeps, in microseconds, where answers come
            that soon and the machine has two processors: that saves waking it. It takes the processor meanwhile;
            0: never.
    Raises:
        Unavailable: no switchboard answers; tells which endpoint was tried and what to start.
        InvalidInput: an argument that cannot be.
    """
    endpoint = find_endpoint(endpoint)
    limits = lane_limits(when_full, lane_spin_us)
    options = lane_options(lanes, lane_mb, os.environ.get("HUTEROX_LANES", ""))
    check_listening(endpoint)
    client = Client(endpoint, tenant=tenant, timeout=timeout, limits=limits, lanes=options)
    try:
        client.check_answering()
    except BaseException:
        client.close()
        raise
    return client


class Client:
    """A connection to a switchboard, for all threads of this process. Close it, or use it in a `with` block."""

    def __init__(
        self,
        endpoint: str,
        *,
        tenant: str | None = None,
        timeout: float = 60.0,
        limits: Limits | None = None,
        lanes: LaneOptions | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.tenant = tenant or ""
        self.timeout_s = timeout
        limits = limits or Limits()
        self._connection = Connection(endpoint, limits)
        self._leases = Leases(self._connection, lanes or LaneOptions(), limits)

    def __repr__(self) -> str:
        return f"<huterox.Client of {self.endpoint}, tenant {self.tenant or 'default'!r}>"

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way and disconnect. Futures and waiting threads get `Cancelled`."""
        self._leases.close()
        self._connection.close()
        self._leases.join()

    def check_answering(self) -> None:
        """Raise Unavailable unless the switchboard answers soon."""
        timeout_s = min(self.timeout_s, CONNECT_S_MAX)
        try:
            self.admin("status", timeout=timeout_s)
        except DeadlineExceeded as exc:
            raise no_switchboard(self.endpoint, f"silent for {timeout_s:g} s") from exc

    # --- services -----------------------------------------------------------------------------------------------------

    def service(self, name: str, *, tenant: str | None = None) -> "Service":
        """The virtual container of this name, to be called: through a lane at once, if its container is resident on
        this host and gives one within a second.

        Raises:
            NotFound: the tenant has none of this name.
        """
        from huterox.service import Service

        meta = encode_opening(name, self.tenant if tenant is None else tenant)
        call = self._connection.core.prepare(_OPEN, 0, meta, (), self.timeout_s)
        self._connection.run(call)
        opened = decode_opening(call.outcome())
        return Service(self._connection, opened, self.timeout_s, self._leases.open(opened, self.timeout_s))

    def create(
        self,
        name: str,
        *,
        model: str,
        tier: str = "shared",
        lend: bool = False,
        in_flight_max: int | None = None,
        info: Mapping[str, str] | None = None,
        tenant: str | None = None,
    ) -> Row:
        """Create a virtual container of a deployed model.

        Args:
            tier: "shared": with others; "dedicated": containers of its own; "pinned": with others, and its container is
                never evicted, once a call has loaded it.
            lend: of a dedicated one: its containers may serve others while it has no call for them.
            in_flight_max: calls that may wait or run at once; more get `Busy`. None: as many as the switchboard takes.
            info: at most 16 texts of yours about the service, which its row shows.
        """
        return self._row(
            "create",
            name=name,
            model=model,
            tier=tier,
            lend=lend or None,
            in_flight_max=in_flight_max,
            info=dict(info) if info else None,
            tenant=self.tenant if tenant is None else tenant,
        )

    def delete(self, name: str, *, tenant: str | None = None) -> Row:
        """Delete a virtual container."""
        return self._row("delete", name=name, tenant=self.tenant if tenant is None else tenant)

    def services(self, *, tenant: str | None = None) -> list[Row]:
        """The virtual containers of one tenant, None: of all; with `state`, `bits`, `quota`, `info` and `usage`."""
        return self._rows("services", tenant=tenant)

    def pin(self, name: str, *, tenant: str | None = None) -> Row:
        """Make a shared virtual container pinned: its container is never evicted. This loads none: a call does."""
        return self._row("pin", name=name, tenant=self.tenant if tenant is None else tenant)

    def unpin(self, name: str, *, tenant: str | None = None) -> Row:
        """Make a pinned virtual container shared again."""
        return self._row("unpin", name=name, tenant=self.tenant if tenant is None else tenant)

    def usage(self, *, by: str = "tenant", tenant: str | None = None) -> list[Row]:
        """What has been used since the beginning: calls, errors, busy seconds, memory times seconds, faults, refusals.

        Args:
            by: "tenant", services that were deleted since included, or "service".
            tenant: only of this one; None: of all.
        """
        return self._rows("usage", by=by, tenant=tenant)

    # --- models -------------------------------------------------------------------------------------------------------

    def deploy(self, model: str | PathLike[str] | Mapping[str, Any]) -> Row:
        """Deploy a model file, or a mapping of the same shape. Relative paths in `entry` start at the file's directory.

        Raises:
            InvalidInput: the file is wrong; tells where and why.
        """
        return self._row("deploy", model=read_model(model))

    def undeploy(self, name: str, *, force: bool = False) -> Row:
        """Remove a model. With `force` also one that virtual containers still point to."""
        return self._row("undeploy", name=name, force=force)

    def models(self) -> list[Row]:
        """The deployed models."""
        return self._rows("models")

    # --- the operator's view and hand ---------------------------------------------------------------------------------

    def status(self) -> Row:
        """The switchboard in numbers."""
        return self._row("status")

    def containers(self) -> list[Row]:
        """The living containers: where each is, why, what it takes, and in `timings_s` what its creation took."""
        return self._rows("ps")

    def nodes(self) -> list[Row]:
        """The nodes, what their kernels may give and have given; in `memory`, what more of it would have saved."""
        return self._rows("nodes")

    def events(self, *, after: int = 0, limit: int = 1000, subject: str | None = None) -> list[Row]:
        """What happened and why, oldest first: at most `limit` events, each with `seq`, `at` (seconds since the epoch),
        `kind`, `subject`, `reason`, and `details`, the numbers that it was decided on.

        Args:
            after: begin with the event whose `seq` comes after this; 0: the newest events.
            subject: only of this container, model, service or node.
        """
        pages = EventPages(after, limit, self.timeout_s, monotonic())
        return self._collected("events", pages, subject=subject)

    def evict(self, container: str) -> Row:
        """Close a container, once its calls have ended; the next call of its model loads another."""
        return self._row("evict", container=container)

    def drain(self, node: str) -> Row:
        """Let a node's containers end their calls and close, and place none there until `resume`."""
        return self._row("drain", name=node)

    def resume(self, node: str) -> Row:
        """Place containers on a drained node again."""
        return self._row("resume", name=node)

    def logs(self, name: str, *, offset: int = -65536, limit: int = 65536, tenant: str | None = None) -> Row:
        """A piece of the log of a container, or of the newest container of a service or model.

        Args:
            offset: in bytes; negative: from the end.
        Returns:
            `container`, `text`, the `offset` where that begins, and `next_offset` to go on from. What lies between the
            offset that was asked for and `offset` is not kept any more.
        """
        tenant = self.tenant if tenant is None else tenant
        return self._row("logs", name=name, tenant=tenant, offset=offset, limit=limit)

    def admin(self, verb: str, /, *, timeout: float | None = None, **args: Any) -> Any:
        """Perform any verb of the switchboard's and return its result as it comes."""
        timeout_s = self.timeout_s if timeout is None else timeout
        call = self._connection.core.prepare(_ADMIN, 0, encode_admin(verb, args), (), timeout_s)
        self._connection.run(call)
        return decode_admin(call.outcome())

    def _row(self, verb: str, **args: Any) -> Row:
        row: Row = self.admin(verb, **args)
        return row

    def _rows(self, verb: str, **args: Any) -> list[Row]:
        return self._collected(verb, Pages(self.timeout_s, monotonic()), **args)

    def _collected(self, verb: str, pages: Pages, **args: Any) -> list[Row]:
        """All pages of a list."""
        while pages.where is not None:
            pages.take(self.admin(verb, timeout=pages.left_s(monotonic()), **args, **pages.where))
        return pages.rows
