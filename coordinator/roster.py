"""Which of Flower's nodes is which site, and what they answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from ppfl.errors import DuplicateAnswerError, MalformedMessageError, QuorumError
from ppfl.federation import Journal
from ppfl.federation.journal import SiteAskedAgain, SiteFailed
from ppfl.settings import FederationOptions
from sites.messages import read_answer
from sites.requests import Answer, Refusal

_POLL_S = 0.2
_BACK_S = 120.0  # Flower takes a site that was killed back after a minute
_TIMES = 3  # a process that memory does not suffice for ends as often as it is asked
_LOST = (
    ErrorCode.MESSAGE_UNAVAILABLE,  # an upload that broke off, too
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
)


@dataclass(frozen=True, slots=True)
class Answered:
    """One node's answer that is not a refusal."""

    node: int
    site: str
    answer: Answer


class Roster:
    """The sites of a run by Flower's node ids, and how they are asked.

    Args:
        grid: Flower's way to the sites.
        federation: who they are, and how long they may take.
        journal: where it is written which of them failed.
    """

    def __init__(self, grid: Grid, federation: FederationOptions, journal: Journal) -> None:
        self._grid, self._federation, self._journal = grid, federation, journal
        self._names: dict[int, str] = {}
        self.refused: dict[str, str] = {}
        """The sites that refused when they were asked last, and the codes they gave."""

    @property
    def names(self) -> tuple[str, ...]:
        """The enrolled sites."""
        return tuple(self._names.values())

    @property
    def nodes(self) -> list[int]:
        """Their nodes, in the same order."""
        return list(self._names)

    def wait(self, connect_s: float) -> None:
        """Wait until the nodes of all sites are connected, or, at the end of so long, enough.

        Raises:
            QuorumError: too few sites connected.
        """
        wanted, least = len(self._federation.sites), self._federation.minimum_sites
        until = time.monotonic() + connect_s
        while (count := len(self._connected())) < wanted:
            if time.monotonic() > until:
                if count >= least:
                    return
                raise QuorumError(
                    f"{count} of {wanted} sites connected within {connect_s:g} s, "
                    f"{least} are needed"
                )
            time.sleep(_POLL_S)

    def unknown(self) -> list[int]:
        """The nodes that are connected and not enrolled."""
        return [node for node in self._connected() if node not in self._names]

    def add(self, answered: Answered) -> None:
        """Enroll a node, in place of the one that the site had before.

        Raises:
            DuplicateAnswerError: that one is connected; which is the site, a person must say.
        """
        node, site = answered.node, answered.site
        before = [other for other, name in self._names.items() if name == site]
        if set(before) & set(self._connected()):
            raise DuplicateAnswerError(
                f"two nodes say that they are {site}, {before[0]} and {node}; the first stays "
                "until it is gone, which Flower notices within a minute"
            )
        for other in before:
            del self._names[other]
        self._names[node] = site

    def forget(self, code: str) -> None:
        """Take out the sites that refused with a code when they were asked last."""
        self._names = {n: name for n, name in self._names.items() if self.refused.get(name) != code}

    def ask(
        self, kind: str, nodes: list[int], content: RecordDict, number: int
    ) -> Iterator[Answered]:
        """Answers as they arrive, until all are there or the deadline has passed.

        A node that is lost on the way is asked again when it is back, which costs no training
        where it had sealed its answer. It has two minutes for that, and only if it was there when
        it was asked first: one that is gone for good does not hold up every round.
        """
        self.refused = {}
        until = time.monotonic() + self._federation.deadline_s
        asked = Counter(nodes)
        there = set(self._connected())
        waiting = self._push(kind, nodes, content, until)
        lost: dict[int, tuple[float, Refusal]] = {}  # until when it may come back
        while (waiting or lost) and time.monotonic() < until:
            arrived = list(self._grid.pull_messages(list(waiting))) if waiting else []
            for reply in arrived:
                node = waiting.pop(reply.metadata.reply_to_message_id, None)
                if node is None:
                    continue
                told = self._read(node, reply)
                if isinstance(told, Answered):
                    yield told
                elif _is_lost(reply) and node in there and asked[node] < _TIMES:
                    lost[node] = time.monotonic() + _BACK_S, told
                else:
                    self.fail(number, node, told)
            back = [node for node in self._connected() if node in lost] if lost else []
            for node in back:
                code = lost.pop(node)[1].code
                again = SiteAskedAgain(round=number, site=self._name(node), code=code)
                self._journal.write(again)
            asked.update(back)
            waiting |= self._push(kind, back, content, until)
            for node in [node for node, (end, _) in lost.items() if time.monotonic() > end]:
                self.fail(number, node, lost.pop(node)[1])
            if not arrived:
                time.sleep(_POLL_S)
        for node, (_, refusal) in lost.items():
            self.fail(number, node, refusal)
        sentence = f"No answer within {self._federation.deadline_s:g} s."
        for node in waiting.values():
            self.fail(number, node, Refusal("", "deadline", sentence))

    def fail(self, number: int, node: int, refusal: Refusal) -> None:
        """Write down that a node is not in a round's total, and why."""
        name = self._name(node, refusal.site)
        self._journal.write(
            SiteFailed(round=number, site=name, code=refusal.code, sentence=refusal.sentence)
        )

    def _connected(self) -> list[int]:
        return list(self._grid.get_node_ids())

    def _name(self, node: int, told: str = "") -> str:
        return self._names.get(node) or told or f"node {node}"

    def _push(
        self, kind: str, nodes: list[int], content: RecordDict, until: float
    ) -> dict[str, int]:
        """The nodes, by the ids of the messages that they were sent."""
        if not nodes:
            return {}
        ttl = max(until - time.monotonic(), 1.0)
        messages = [
            Message(content, dst_node_id=node, message_type=kind, ttl=ttl) for node in nodes
        ]
        return dict(zip(self._grid.push_messages(messages), nodes, strict=True))

    def _read(self, node: int, reply: Message) -> Answered | Refusal:
        if reply.has_error():
            sentence = "Flower lost the site or its process."
            return Refusal("", f"flower-{reply.error.code}", sentence)
        try:
            told = read_answer(reply.content)
        except MalformedMessageError as error:
            return Refusal("", error.code, str(error))
        if isinstance(told, Refusal):
            self.refused[self._name(node, told.site)] = told.code
            return told
        site, answer = told
        if self._names.get(node, site) != site:
            return Refusal("", "wrong-site", "The answer bears the name of another site.")
        return Answered(node, site, answer)


def _is_lost(reply: Message) -> bool:
    return reply.has_error() and reply.error.code in _LOST
