"""A line between a site and the coordinator's gateway, which can be slow, dead or cut."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

T = TypeVar("T")
_PIECE = 16_384
_UNDER_WAY = 8  # pieces of one connection; enough for 0.2 s at 5 Mbit/s
_BUFFER = 65_536  # or the kernel would take whole updates at once, and the line seem fast
_POLL_S = 0.05


class Line:
    """Forwards TCP connections on the loopback interface, whatever they carry.

    Args:
        port: where to.
        bits_per_s: what passes in either direction, all connections together, in turns.
        delay_s: seconds from one end to the other, in either direction.
    """

    def __init__(self, port: int, *, bits_per_s: float = math.inf, delay_s: float = 0.0) -> None:
        self._port, self._bits_per_s, self._delay_s = port, bits_per_s, delay_s
        self._busy_until = {True: 0.0, False: 0.0}  # up, down
        self._dead = self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        near = socket.create_server(("127.0.0.1", 0))
        near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._server = self._do(asyncio.start_server(self._connect, sock=near, limit=_PIECE))
        self.port = int(self._server.sockets[0].getsockname()[1])
        """Where the site connects to."""
        self.bytes_up = 0
        """Bytes that have passed towards the gateway."""
        self.refused = 0
        """Connections that came while it was cut."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Close all connections, and every new one once it has said something, until it is mended.

        To the one who connects it is as if a forwarder of ports found nobody behind it.
        """
        self._cut = True
        self._do(self._close())

    def stall(self) -> None:
        """Let nothing pass, and close nothing, until it is mended."""
        self._dead = True

    def mend(self) -> None:
        """Let everything pass again."""
        self._cut = self._dead = False

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _close(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connect(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        writers = [back]
        try:
            if self._cut:
                await near.read(_PIECE)  # unread, it would make the end of the connection another
                self.refused += 1
                return
            far, forth = await asyncio.open_connection("127.0.0.1", self._port)
            writers.append(forth)
            self._open.update(writers)
            async with asyncio.TaskGroup() as group:
                for half in (
                    *self._pass(near, forth, up=True),
                    *self._pass(far, back, up=False),
                ):
                    group.create_task(half)
        except* (OSError, asyncio.CancelledError):
            pass  # one end has gone, or the line itself
        finally:
            self._open.difference_update(writers)
            for writer in writers:
                writer.transport.abort()

    def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool
    ) -> tuple[Coroutine[Any, Any, None], Coroutine[Any, Any, None]]:
        """What takes pieces in at one end, and what lets them out at the other."""
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        return self._take(reader, pieces, up=up), self._let_out(pieces, writer, up=up)

    async def _take(
        self, reader: asyncio.StreamReader, pieces: asyncio.Queue[tuple[float, bytes]], *, up: bool
    ) -> None:
        piece = b"-"
        while piece:
            piece = await reader.read(_PIECE)
            now = self._loop.time()
            begins = max(self._busy_until[up], now)
            self._busy_until[up] = ends = begins + 8 * len(piece) / self._bits_per_s
            await asyncio.sleep(ends - now)
            await pieces.put((ends + self._delay_s, piece))

    async def _let_out(
        self, pieces: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, *, up: bool
    ) -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - self._loop.time())
            while self._dead:
                await asyncio.sleep(_POLL_S)
            if not piece:
                break
            writer.write(piece)
            await writer.drain()
            self.bytes_up += len(piece) if up else 0
        with suppress(OSError, RuntimeError):
            writer.write_eof()
