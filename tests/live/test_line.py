"""The line limits what passes: other tests and docs/deployment.md rest on its speed."""

from __future__ import annotations

import socket
import threading
import time

from tests.live.line import Line

_BYTES = 200_000


def _take_in(server: socket.socket, taken: list[int]) -> None:
    connection, _ = server.accept()
    with connection:
        while piece := connection.recv(65_536):
            taken.append(len(piece))
        connection.sendall(b"all")


def test_a_slow_line_takes_the_time_of_its_bits_and_its_length_both_ways() -> None:
    taken: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_take_in, args=(server, taken), daemon=True)
        thread.start()
        with Line(server.getsockname()[1], bits_per_s=2e6, delay_s=0.1) as line:
            began = time.monotonic()
            with socket.create_connection(("127.0.0.1", line.port)) as near:
                near.sendall(bytes(_BYTES))
                near.shutdown(socket.SHUT_WR)
                assert near.recv(10) == b"all"
            seconds = time.monotonic() - began
        thread.join(timeout=10)
    assert sum(taken) == line.bytes_up == _BYTES
    assert seconds > _BYTES * 8 / 2e6 + 2 * 0.1


def test_a_line_that_is_cut_ends_what_passes_and_lets_nothing_new_through() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, Line(server.getsockname()[1]) as line:
        near = socket.create_connection(("127.0.0.1", line.port), timeout=10)
        near.sendall(b"first")
        far, _ = server.accept()
        assert far.recv(10) == b"first"
        line.cut()
        with near:
            assert near.recv(10) == b""
        assert far.recv(10) == b""
        far.close()
        with socket.create_connection(("127.0.0.1", line.port), timeout=10) as new:
            new.sendall(b"hello")
            assert new.recv(10) == b""
        assert line.refused == 1
        line.mend()
        with socket.create_connection(("127.0.0.1", line.port), timeout=10) as new:
            new.sendall(b"again")
            far, _ = server.accept()
            assert far.recv(10) == b"again"
            far.close()
