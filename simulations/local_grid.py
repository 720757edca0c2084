"""Flower's messages within one process: the same two apps, without Ray and without a network."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID = 1


class LocalGrid(Grid):
    """Answers messages by calling a ClientApp, one message after the other.

    Args:
        app: the sites' ClientApp.
        sites: how many nodes there are.
    """

    def __init__(self, app: ClientApp, *, sites: int) -> None:
        # Flower makes messages only inside a task; outside one, somebody must say which it is
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = _RUN_ID
        self._app = app
        self._contexts = {
            node: Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={"partition-id": node - 1, "num-partitions": sites},
                state=RecordDict(),
                run_config={},
            )
            for node in range(1, sites + 1)
        }
        self._pool = ThreadPoolExecutor(1)
        self._futures: dict[str, Future[Message]] = {}
        self._lock = threading.Lock()

    def set_run(self, run: Run) -> None:
        """Nothing: there is one run."""

    @property
    def run(self) -> Run:
        """No run of Flower's."""
        raise RuntimeError("a local grid has no run")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """A message; deprecated by Flower."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """All nodes, numbered from 1."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Ids of the messages, which wait for their turn."""
        ids = []
        for number, message in enumerate(messages):
            node = message.metadata.dst_node_id
            message_id = f"{message.metadata.message_type}-{node}-{len(self._futures) + number}"
            message.metadata.__dict__["_message_id"] = message_id
            with self._lock:
                self._futures[message_id] = self._pool.submit(self._call, message, node)
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies that are ready; each is handed out once."""
        with self._lock:
            ready = [name for name in message_ids if self._futures[name].done()]
            return [self._futures.pop(name).result() for name in ready]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies."""
        ids = list(self.push_messages(messages))
        with self._lock:
            return [self._futures.pop(name).result(timeout) for name in ids]

    def close(self) -> None:
        """Forget what has not begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _call(self, message: Message, node: int) -> Message:
        try:
            return self._app(message, self._contexts[node])
        except Exception as error:
            return Message(Error(code=2, reason=repr(error)), reply_to=message)
