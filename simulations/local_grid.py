"""Flower's messages within one process: the same two apps, without Ray and without a network."""

from __future__ import annotations

from collections.abc import Iterable

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

_RUN_ID = 1


class LocalGrid(Grid):
    """Answers messages by calling a ClientApp, one message at each pull.

    All happens in the caller's thread, where torch's own threads and memory work best.

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
        self._waiting: dict[str, Message] = {}
        self._pushed = 0

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
        for message in messages:
            self._pushed += 1
            message_id = str(self._pushed)
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The reply to the first of the messages that has none yet."""
        for message_id in message_ids:
            if message_id in self._waiting:
                return [self._call(self._waiting.pop(message_id))]
        return []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """All replies."""
        return [self._call(self._waiting.pop(name)) for name in self.push_messages(messages)]

    def _call(self, message: Message) -> Message:
        try:
            return self._app(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:
            return Message(Error(code=2, reason=repr(error)), reply_to=message)
