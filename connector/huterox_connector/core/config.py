"""Every limit and time of the core, with its unit."""

from msgspec import Struct


class CoreConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The `[core]` table of the connector's configuration."""

    policy: str = "lru"  # who leaves: a name in core/replacer

    call_timeout_s: float = 60.0  # for calls that bring no budget of their own
    calls_max: int = 16384  # calls in flight and waiting, of all callers
    calls_per_caller_max: int = 4096
    calls_per_container_max: int = 768  # in flight; below what a lane's ring takes
    calls_nbytes_max: int = 1024 * 1024 * 1024  # in flight, counting calls of more than one frame
    waiting_per_group_max: int = 512  # calls that wait for one model to load
    waiting_nbytes_max: int = 640 * 1024 * 1024  # frames of waiting calls, of all models
    busy_retry_after_s: float = 0.1

    heartbeat_s: float = 0.5  # how often kernels report
    node_timeout_s: float = 3.0  # a kernel silent for so long is lost
    no_node_patience_s: float = 5.0  # how long a fault waits while no kernel is registered
    room_patience_s: float = 30.0  # how long a fault waits for room that may come

    residency_min_s: float = 0.2  # a container stays at least so long after it became ready
    residency_load_factor: float = 1.0  # and at least so many times its own load time
    residency_max_s: float = 30.0  # but is not protected for longer than this
    close_grace_s: float = 5.0  # between asking a container to end and killing it

    backoff_first_s: float = 0.5  # after a load that failed; doubles with each further failure
    backoff_max_s: float = 30.0

    journal_max: int = 10_000  # events kept
    ask_timeout_s: float = 10.0  # for questions that a kernel answers: logs, leases
    asks_max: int = 4096  # such questions without an answer
    order_again_s: float = 10.0  # a kernel that has not carried out a DRAIN or CLOSE by then is told again
    mutations_max: int = 256  # admin verbs waiting for the disk
