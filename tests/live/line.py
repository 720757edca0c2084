"""A line between a site and the coordinator's gateway, which can be slow, dead or cut."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

T = TypeVar("T")
_PIECE = 16_384
_POLL_S = 0.05


class Line:
    """Forwards TCP connections on the loopback interface, whatever they carry.

    Args:
        port: where to.
        delay_s: seconds that each 16 KiB wait, in either direction.
    """

    def __init__(self, port: int, *, delay_s: float = 0.0) -> None:
        self._port, self._delay_s = port, delay_s
        self._dead = self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        """Where the site connects to."""
        self.bytes_up = 0
        """Bytes that have passed towards the gateway."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Close all connections, and every new one, until it is mended."""
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
                return
            far, forth = await asyncio.open_connection("127.0.0.1", self._port)
            writers.append(forth)
            self._open.update(writers)
            await asyncio.gather(self._pass(near, forth, up=True), self._pass(far, back))
        except OSError:
            pass  # one end has gone
        finally:
            self._open.difference_update(writers)
            for writer in writers:
                writer.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool = False
    ) -> None:
        while piece := await reader.read(_PIECE):
            await asyncio.sleep(self._delay_s)
            while self._dead:
                await asyncio.sleep(_POLL_S)
            writer.write(piece)
            await writer.drain()
            self.bytes_up += len(piece) if up else 0
        with suppress(OSError, RuntimeError):
            writer.write_eof()
