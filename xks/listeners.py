"""The sockets on which the data plane's worker processes accept, and which of them get new connections.

Each worker has a listening socket of its own on the one port (SO_REUSEPORT), so that the kernel spreads
connections.  Closing such a socket resets what waits in its queue, and there is no way to stop one
without closing it.  So when workers are replaced the kernel is told by a small program (classic BPF,
socket(7), SO_ATTACH_REUSEPORT_CBPF, Linux 4.6) to give new connections to the new ones only; the old
ones empty their queues, serve on what they have, and close last.

The kernel keeps the sockets of a port as an array, in the order in which they began to listen; when one
goes, the last takes its place.  The same is done here, because the program answers with an index.
"""

from __future__ import annotations

import ctypes
import logging
import socket
import struct
import threading
from collections.abc import Iterable, Sequence

log = logging.getLogger("keystead.xks")

BACKLOG = 4096
"""Connections that may wait for one worker to accept them."""

_SO_ATTACH_REUSEPORT_CBPF = 51
_LOAD_RANDOM = (0x20, 0, 0, (-0x1000 + 56) & 0xFFFFFFFF)  # BPF_LD|BPF_W|BPF_ABS, SKF_AD_OFF + SKF_AD_RANDOM
_MODULO, _JUMP_IF_EQUAL, _RETURN = 0x94, 0x15, 0x06
_BY_HASH = 0xFFFFFFFF  # an index that no array has: the kernel then chooses as it does without a program


class Listeners:
    """The listening sockets of one address and port; may be used from several threads."""

    def __init__(self, address: str, port: int) -> None:
        self._address = (address, port)
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._lock = threading.Lock()
        self._bound: set[socket.socket] = set()
        self._order: list[socket.socket] = []
        self._live: list[socket.socket] = []
        self._told = False

    def bind(self) -> socket.socket:
        """Return a socket bound to the port that does not listen yet. Raises OSError."""
        made = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            made.bind(self._address)
            made.setblocking(False)
        except OSError:
            made.close()
            raise
        with self._lock:
            self._bound.add(made)
        return made

    def others(self, own: socket.socket) -> list[int]:
        """File descriptors of all sockets but ``own``: what a forked worker must close."""
        return [each.fileno() for each in tuple(self._bound) if each is not own and each.fileno() >= 0]

    def admit(self, new: Iterable[socket.socket]) -> None:
        """Begin to listen on these, beside the others. Raises OSError."""
        with self._lock:
            for each in new:
                self._listen(each)
                self._live.append(each)
            self._steer()

    def replace(self, new: Sequence[socket.socket]) -> None:
        """Begin to listen on these, and give new connections to no other. Raises OSError."""
        with self._lock:
            # Those who listen already go on alone until all of these do.
            self._attach([self._order.index(each) for each in self._live])
            for each in new:
                self._listen(each)
            self._live = list(new)
            self._steer()

    def remove(self, old: socket.socket) -> None:
        """Close this one; once its worker has gone too, the kernel forgets it, with what waits in its queue."""
        with self._lock:
            self._bound.discard(old)
            if old in self._live:
                self._live.remove(old)
                if self._live:
                    self._steer()
            if old in self._order:
                last = self._order[-1]
                # Until the new order is told the program must not name the one that moves.
                stay = [self._order.index(each) for each in self._live if each is not last]
                if stay:
                    self._attach(stay)
                old.close()
                self._order[self._order.index(old)] = last
                self._order.pop()
                self._steer()
            else:
                old.close()

    def _listen(self, each: socket.socket) -> None:
        each.listen(BACKLOG)
        self._order.append(each)

    def _steer(self) -> None:
        if len(self._live) == len(self._order):
            self._attach([])
        else:
            self._attach([self._order.index(each) for each in self._live])

    def _attach(self, indexes: Sequence[int]) -> None:
        """Have the kernel choose among these, or (none given) as it always does."""
        if not self._order:
            return
        lines = []
        if indexes:
            lines += [_LOAD_RANDOM, (_MODULO, 0, 0, len(indexes))]
            for number, index in enumerate(indexes):
                lines += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, index)]
        lines.append((_RETURN, 0, 0, _BY_HASH))
        code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
        program = struct.pack("@HP", len(lines), ctypes.addressof(code))
        try:
            self._order[0].setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, program)
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning(
                    "this system cannot steer connections to new workers (%s): when workers are replaced,"
                    " connections that no worker has accepted yet may be reset",
                    error.strerror,
                )
