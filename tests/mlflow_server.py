"""A real MLflow server in a separate process, which can be killed, and a proxy that can drop its responses."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

SERVE = "import sys; from mlflow.server import app; app.run('127.0.0.1', int(sys.argv[1]))"


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """MLflow's own server on a database in `folder`; it may be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        places = {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self.folder / 'server.db'}",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self.folder / "artifacts"),
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(self.port)], env={**os.environ, **places}, stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline and self.process.poll() is None, "the server did not start"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill the server, as in a crash."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def freeze(self) -> None:
        """Let the server accept requests without responding."""
        assert self.process is not None
        psutil.Process(self.process.pid).send_signal(signal.SIGSTOP)

    def _answers(self) -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            connection.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0")  # lets it create its database
            return connection.getresponse().status == 200
        except OSError:
            return False


class LossyProxy:
    """Forwards requests to a server; drops the next response for each path in `losing`."""

    def __init__(self, target: Server) -> None:
        self.target = target
        self.losing: set[str] = set()
        self.lost: list[str] = []
        self.door = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self.door.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self.door.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.door.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self.target.port))
            pending: list[str] = []  # the path whose response is dropped on this connection
            for pump in (self._pass_calls, self._pass_answers):
                threading.Thread(target=pump, args=(client, server, pending), daemon=True).start()

    def _pass_calls(self, client: socket.socket, server: socket.socket, pending: list[str]) -> None:
        for data in _received(client):
            found = next((path for path in self.losing if f"/mlflow/{path} HTTP".encode() in data), None)
            if found:
                self.losing.discard(found)
                pending.append(found)
            server.sendall(data)
        _close(client, server)

    def _pass_answers(self, client: socket.socket, server: socket.socket, pending: list[str]) -> None:
        for data in _received(server):
            if pending:
                self.lost += pending
                break
            client.sendall(data)
        _close(client, server)


def _received(source: socket.socket) -> Iterator[bytes]:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            yield data


def _close(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()
