"""What one peer may ask of the coordinator's gateway."""

from __future__ import annotations

from pydantic import Field

from ppfl.settings.study import Section


class GatewayLimits(Section):
    """Bounds on bodies, heads, connections, requests and time.

    The defaults let a hospital on an ordinary line send and receive whole models: Flower cuts
    them into objects of 5 MiB.
    """

    object_bytes: int = Field(2**23, ge=2**20, description="largest body that brings an object")
    message_bytes: int = Field(2**20, ge=2**16, description="largest body of any other request")
    head_bytes: int = Field(2**14, ge=2**12, description="request line and headers together")
    connections: int = Field(256, ge=1, description="connections at one time, TLS handshakes too")
    connections_per_peer: int = Field(32, ge=1, description="of one address (IPv6: one /64)")
    requests_per_s: float = Field(
        100.0, gt=0, allow_inf_nan=False, description="requests and connections of one address"
    )
    burst: int = Field(1000, ge=1, description="requests an address may save up while it is quiet")
    handshake_s: float = Field(10.0, gt=0, description="for the TLS handshake")
    idle_s: float = Field(20.0, gt=0, description="from one request to the next one's whole head")
    stall_s: float = Field(30.0, gt=0, description="between two pieces of a body, either way")
    request_s: float = Field(300.0, gt=0, description="for one request and its answer")
