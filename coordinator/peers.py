"""How much each peer of the gateway has asked for."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from typing import NoReturn

from ppfl.settings import GatewayLimits

_MOST = 4096  # peers remembered before quiet ones are forgotten


class TooManyError(Exception):
    """A peer asked for more than the limits allow.

    Args:
        reason: more of what.
        repeated: it has been said of this peer before, and nothing has changed since.
    """

    def __init__(self, reason: str, *, repeated: bool = False) -> None:
        super().__init__(reason)
        self.repeated = repeated


def peer_of(address: tuple[str, int] | None) -> str:
    """The peer an address counts for: itself, or for IPv6 its /64, which one subscriber holds."""
    host = ip_address(address[0] if address else "::")
    mapped = getattr(host, "ipv4_mapped", None)
    if mapped is not None:
        return str(mapped)
    return str(ip_network((host, 64), strict=False)) if host.version == 6 else str(host)


class Peers:
    """Counts connections, and requests in token buckets.

    Args:
        limits: what one peer may ask.
        clock: seconds, monotonic.
    """

    def __init__(
        self, limits: GatewayLimits, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._clock = limits, clock
        self._connections: Counter[str] = Counter()
        self._buckets: dict[str, tuple[float, float]] = {}  # requests left, and when
        self._told: set[str] = set()  # refused since their buckets were half full

    def take(self, peer: str) -> None:
        """Count one more request.

        Raises:
            TooManyError: the peer may not make one now.
        """
        now, burst = self._clock(), self._limits.burst
        left, since = self._buckets.get(peer, (burst, now))
        left = min(burst, left + (now - since) * self._limits.requests_per_s)
        if left > burst / 2:
            self._told.discard(peer)
        if left < 1:
            self._buckets[peer] = (left, now)
            self._refuse(peer, "too many requests")
        self._buckets[peer] = (left - 1, now)
        if len(self._buckets) > _MOST:
            self._forget_quiet(now)

    def connect(self, peer: str) -> None:
        """Count one more connection; it costs as much as a request.

        Raises:
            TooManyError: there may not be one.
        """
        self.take(peer)
        if self._connections.total() >= self._limits.connections:
            self._refuse(peer, "too many connections")
        if self._connections[peer] >= self._limits.connections_per_peer:
            self._refuse(peer, "too many connections of this peer")
        self._connections[peer] += 1

    def disconnect(self, peer: str) -> None:
        """Count one connection less."""
        self._connections[peer] -= 1
        self._connections += Counter()  # drops the zeros

    def _refuse(self, peer: str, reason: str) -> NoReturn:
        repeated = peer in self._told
        self._told.add(peer)
        raise TooManyError(reason, repeated=repeated)

    def _forget_quiet(self, now: float) -> None:
        """Forget the peers whose buckets are full again; new ones start full."""
        full_s = self._limits.burst / self._limits.requests_per_s
        self._buckets = {p: b for p, b in self._buckets.items() if now - b[1] < full_s}
        self._told &= self._buckets.keys()
