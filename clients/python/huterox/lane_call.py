"""One call in a lane, as its shell and its core see it."""

from collections import deque
from math import inf
from typing import Any

from huterox_wire.forms import Form
from huterox_wire.header import Buffer

Answer = tuple[Form | None, Any]
"""The form (None: a whole message) and the bytes."""

Request = tuple[bytes, list[Buffer]]
"""A call's meta map and the bytes of its tensors."""


class LaneCall:
    """One call in a lane. The core ends it; the shell wakes whoever waits for it.

    Attributes:
        ended: the call has ended; `LaneCore.outcome` tells how.
        parts: answers of a streamed reply that nobody has taken yet. None for a call that takes none.
        unattended: nobody may be waiting for it (a future, a stream), so somebody must read on its behalf.
        owner: whom the shell tells of the end.
        foreign: another thread than the main one has asked to be told of the end, or waits for it.
        reader: a future or task, referred to weakly, in which an answer may wait for long; None: a thread waits.
        goes_on: it has a way to go on elsewhere should the container end without having touched it, whoever waits.
        keeps_request, request: whether to read it back out of the lane then, for its inputs may have been changed.
    """

    # Most calls change few of these: a class attribute costs nothing.
    ended = False
    parts: deque[Answer] | None = None
    parts_nbytes = 0
    reader: Any = None
    deadline_s = inf
    timeout_s = 0.0
    unattended = False
    owner: Any = None
    foreign = False
    goes_on = False
    keeps_request = False
    error: Exception | None = None
    answer: Answer | None = None
    values: dict[str, Any] | None = None
    call_id = 0
    form: Form | None = None
    nbytes = 0
    request: Request | None = None
