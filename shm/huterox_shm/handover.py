"""Handing descriptors from one process to another over a unix socket, to the right one only.

Problem: a lane has no name, so it must be given. Idea: the giver checks the peer's user (the operating system vouches
for it) and a one-time token that the peer got elsewhere, then sends the descriptors with SCM_RIGHTS. Sockets are of
type SOCK_SEQPACKET: one message, one payload, its descriptors.

A token is 32 random bytes, good for one redemption and a short time, compared in constant time. When as many are out as
may be, `issue` raises TooManyTokens. What arrives is CLOEXEC; what arrives beyond what was expected is closed, never
leaked.
"""

import array
import hmac
import os
import secrets
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Final

from huterox_shm.descriptors import move_all
from huterox_shm.errors import HandoverError, TooManyTokens

TOKEN_NBYTES: Final = 32
TOKENS_MAX: Final = 1024

_UCRED: Final = struct.Struct("iII")  # pid, uid, gid
_INT_NBYTES: Final = array.array("i").itemsize


def send_descriptors(sock: socket.socket, payload: bytes, fds: Sequence[int]) -> None:
    """Send one message with descriptors; they stay open here.

    Raises:
        HandoverError: an empty payload, or one that did not go out whole.
        OSError: the socket's own refusals; BlockingIOError where it is non-blocking and full.
    """
    if not payload:
        raise HandoverError("descriptors travel with at least one byte of payload")
    sent = socket.send_fds(sock, [payload], list(fds))
    if sent != len(payload):
        raise HandoverError(f"{sent} of {len(payload)} bytes went out")


def receive_descriptors(sock: socket.socket, nbytes_max: int, fds_max: int) -> tuple[bytes, list[int]]:
    """Receive one message and its descriptors, which are the caller's to close. (b"", []): the peer has closed.

    Raises:
        HandoverError: more than nbytes_max bytes or fds_max descriptors; those that came were closed.
        OSError: the socket's own refusals; BlockingIOError where it is non-blocking and nothing is here.
    """
    payload, ancillary, flags, _ = sock.recvmsg(
        nbytes_max, socket.CMSG_SPACE(fds_max * _INT_NBYTES), socket.MSG_CMSG_CLOEXEC
    )
    fds = _descriptors_in(ancillary)
    if len(fds) > fds_max or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        for fd in fds:
            os.close(fd)
        raise HandoverError(f"a message over {nbytes_max} bytes or {fds_max} descriptors")
    return payload, fds


def _descriptors_in(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % _INT_NBYTES])
    return move_all(fds)


def peer_uid(sock: socket.socket) -> int:
    """User id of the process that connected (or made the pair), as the operating system knows it."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


class Tokens:
    """One-time tokens that are out. Pure: the time is an argument, randomness a function passed in."""

    def __init__(
        self,
        lifetime_s: float,
        tokens_max: int = TOKENS_MAX,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._lifetime_s = lifetime_s
        self._tokens_max = tokens_max
        self._random_bytes = random_bytes
        self._expiry_s: dict[bytes, float] = {}  # in the order of issue, so of expiry

    def __len__(self) -> int:
        return len(self._expiry_s)

    def issue(self, now_s: float) -> bytes:
        """A fresh token.

        Raises:
            TooManyTokens: as many as may be are out and not yet expired.
        """
        self._expire(now_s)
        if len(self._expiry_s) >= self._tokens_max:
            raise TooManyTokens(f"{self._tokens_max} tokens are out; one expires within {self._lifetime_s} s")
        token = self._random_bytes(TOKEN_NBYTES)
        self._expiry_s[token] = now_s + self._lifetime_s
        return token

    def redeem(self, token: bytes, now_s: float) -> bool:
        """Use a token up. True once, for a token that was issued and has not expired."""
        self._expire(now_s)
        found = None
        for known in self._expiry_s:  # all of them, always: the time taken tells nothing about a near miss
            if hmac.compare_digest(known, token):
                found = known
        if found is None:
            return False
        del self._expiry_s[found]
        return True

    def _expire(self, now_s: float) -> None:
        for token in [token for token, expiry_s in self._expiry_s.items() if expiry_s <= now_s]:
            del self._expiry_s[token]
