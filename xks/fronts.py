"""Whom a request came from when a front stands before the endpoint (HAProxy, a load balancer that ends TLS)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Protocol

from xks.sigv4 import Headers

HEADER = "x-forwarded-for"


class _Scope(Protocol):
    client: str

    @property
    def headers(self) -> Headers:
        """The request's headers."""


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Fronts:
    """The addresses of fronts that are believed when they say who their client is."""

    def __init__(self, networks: Iterable[str | Network] = ()) -> None:
        """Raises ValueError for what is no address or network."""
        self._networks = [ipaddress.ip_network(str(each)) for each in networks]
        self._known: dict[str, bool] = {}

    def source(self, scope: _Scope) -> str:
        """Return the address of the client: of the connection, or what a trusted front says.

        The last address of the header is taken: the one that the front itself has added.
        """
        peer = scope.client.rpartition(":")[0]
        if not self._networks or not self._is_front(peer.strip("[]")):
            return peer
        told = scope.headers.get_all(HEADER)
        if not told:
            return peer
        last = told[-1].rpartition(",")[2].strip()
        try:
            address = ipaddress.ip_address(last)
        except ValueError:
            return peer
        return f"[{address}]" if address.version == 6 else str(address)

    def _is_front(self, peer: str) -> bool:
        known = self._known.get(peer)
        if known is None:
            try:
                address = ipaddress.ip_address(peer)
            except ValueError:
                return False
            known = any(address in network for network in self._networks)
            if len(self._known) < 1024:
                self._known[peer] = known
        return known
