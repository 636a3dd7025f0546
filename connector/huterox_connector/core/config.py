"""Every limit and time of the core, with its unit."""

from msgspec import Struct, field


class CoreConfig(Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """The `[core]` table of the connector's configuration."""

    policy: str = "lru"  # who leaves: a name in core/replacer
    node_policies: dict[str, str] = field(default_factory=dict)  # another policy for single nodes, by node
    placement: str = "spread"  # which node: a name in core/placement

    call_timeout_s: float = 60.0  # for calls that bring no budget of their own
    calls_max: int = 16384  # calls in flight and waiting, of all callers
    calls_per_caller_max: int = 4096
    calls_per_container_max: int = 768  # in flight; below what a lane's ring takes
    turn_calls_max: int = 16  # in one container while several callers use its node; others wait for their turn
    turn_s: float = 0.002  # and no more than take about so long, but two
    calls_nbytes_max: int = 1024 * 1024 * 1024  # in flight, all frames of all calls
    waiting_per_group_max: int = 512  # calls that wait for one model to load, or for their turn
    waiting_nbytes_max: int = 640 * 1024 * 1024  # frames of waiting calls, of all models
    busy_retry_after_s: float = 0.1

    heartbeat_s: float = 0.5  # how often kernels report
    node_timeout_s: float = 3.0  # a kernel silent for so long is lost
    node_suspect_s: float = 1.5  # and nothing is loaded where it has been silent for so long
    no_node_patience_s: float = 5.0  # how long a fault waits while no kernel is registered
    room_patience_s: float = 30.0  # how long a fault waits for room that may come
    look_again_s: float = 0.1  # where no room was found and nothing has left, it is not looked for again before that

    residency_min_s: float = 0.2  # a container stays at least so long after it became ready
    residency_load_factor: float = 2.0  # and at least so many times its own load time
    residency_max_s: float = 30.0  # but is not protected for longer than this
    hot_half_life_s: float = 60.0  # after so long a call counts half towards how hot a model is
    hotter_factor: float = 8.0  # a model called so many times as often as the one that faults stays; 0: it may leave
    turn_after_s: float = 1.0  # a fault that has waited so long for room may drain containers that have calls in flight
    claim_after_s: float = 5.0  # and after so long nothing else is loaded on the node where its room will come
    overdrawn_tolerance: float = 0.02  # of a node's memory: containers that have grown by more make others leave
    big_load_mb: int = 1024  # loads from this size on go one after another on a device, or in a node's host memory
    load_timeout_s_per_gb: float = 30.0  # on top of what the model's file allows
    close_grace_s: float = 5.0  # between asking a container to end and killing it

    replica_queue: int = 8  # calls in flight per container; more, and the model gets another replica where one fits
    replica_after_s: float = 1.0  # for so long, and for at least one load time
    replica_idle_s: float = 30.0  # a replica that has not been needed for so long leaves
    accessed_window_s: float = 10.0  # a service counts as using its containers for one to two of these after a call
    lend_idle_s: float = 2.0  # a dedicated container that may be lent is lent once it has been idle for so long
    lend_call_s_max: float = 1.0  # and only for models whose calls take less: the bound within which it comes back

    sick_after: int = 3  # loads that a node refuses in a row, or models that fail there (health.py): it is left alone
    sick_s: float = 10.0  # for so long

    backoff_first_s: float = 0.5  # after a load that failed; doubles with each further failure
    backoff_max_s: float = 30.0

    journal_max: int = 10_000  # events kept
    ask_timeout_s: float = 10.0  # for questions that a kernel answers: logs, leases
    asks_max: int = 4096  # such questions without an answer
    order_again_s: float = 10.0  # a kernel that has not carried out a DRAIN or CLOSE by then is told again
    mutations_max: int = 256  # admin verbs waiting for the disk
