"""What the coordinator asks of its own SuperLink: to know the sites' keys, and to run the study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors.http import RuntimeVersionHttpInterceptor

from coordinator.gateway import read_node_keys
from ppfl.errors import RunError

_KNOWN = 412  # SuperLink's answer when a key is registered already


class Control:
    """A SuperLink on this machine.

    Args:
        port: where it listens on the loopback interface.
        authority: certificate of the CA that its certificate is checked by.
    """

    def __init__(self, port: int, authority: Path) -> None:
        self._client = ControlHttpClient.from_server_address(
            f"127.0.0.1:{port}",
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="coordinator")],
        )

    def register(self, sites: Mapping[str, str]) -> None:
        """Let SuperLink accept the sites; those it knows already stay as they are.

        Args:
            sites: public keys in OpenSSH's format, by the sites' names.

        Raises:
            RunError: SuperLink does not answer, or refuses a key.
            KeyMaterialError: one is no key.
        """
        for name, line in sites.items():
            (key,) = read_node_keys([line])
            with _telling(f"register site {name}", but=_KNOWN):
                self._client.RegisterNode(RegisterNodeRequest(public_key=key, name=name))

    def stop_unfinished(self) -> list[int]:
        """Stop every run that has not ended, such as one that nobody took up yet; their numbers.

        Raises:
            RunError: SuperLink does not answer.
        """
        with _telling("list its runs"):
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
        left = [run for run, told in runs.items() if told.status.status != "finished"]
        for run in left:
            with _telling(f"stop run {run}"):
                self._client.StopRun(StopRunRequest(run_id=run))
        return left

    def start_run(self, bundle: bytes) -> int:
        """Start a run of the Flower app in a FAB; its number.

        Raises:
            RunError: SuperLink does not answer, or refuses the app.
        """
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        with _telling("start the study"):
            started = self._client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
        return int(started.run_id)

    def has_finished(self, run: int) -> bool:
        """Whether a run has come to an end, good or bad.

        Raises:
            RunError: SuperLink does not answer.
        """
        with _telling("list its runs"):
            runs = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        return run not in runs or runs[run].status.status == "finished"

    def connected(self) -> set[str]:
        """The names of the sites that are connected.

        Raises:
            RunError: SuperLink does not answer.
        """
        with _telling("list the sites"):
            nodes = self._client.ListNodes(ListNodesRequest()).nodes_info
        return {node.name for node in nodes if node.status == "online"}

    def close(self) -> None:
        """Hang up."""
        self._client.close()


@contextmanager
def _telling(what: str, *, but: int = 0) -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        if error.response.status_code != but:
            raise RunError(f"SuperLink did not {what}: {error.response.text[:200]}") from None
    except httpx.TransportError as error:
        raise RunError(f"SuperLink did not {what}: {type(error).__name__}") from None
