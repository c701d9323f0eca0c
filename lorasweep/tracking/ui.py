"""MLflow's own web page, started on the store that holds a run."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorasweep.core.errors import ConfigError
from lorasweep.core.files import redact, sqlite_url

PORT = 5000  # that of plain `mlflow ui`
HOST = "127.0.0.1"
END_S = 10.0  # for the server to end after it was asked to
# Jobs are evaluations of language models in the background, which no sweep has.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def store_of(raw: Mapping[str, Any], folder: Path) -> str:
    """Return the tracking URI of a run; `raw` is the configuration in its folder.

    Raises:
        ConfigError: the run was not tracked, or its store cannot be found or read.
    """
    settings = raw.get("tracking") or {}
    if settings.get("backend") == "none":
        raise ConfigError(
            ["tracking: none, so MLflow has nothing of this run; run the same command with tracking=mlflow"]
        )
    uri = settings.get("uri")
    if uri and "***" in uri:  # passwords are not kept
        raise ConfigError([f"tracking.uri: {uri} had a password; start mlflow ui --backend-store-uri with it"])
    if uri and not str(uri).startswith("sqlite:///"):
        return str(uri)
    file = Path("mlflow.db" if uri is None else uri.removeprefix("sqlite:///"))
    places = dict.fromkeys([_working_dir(raw, folder) / file, file.absolute()])
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(map(str, places))
        raise ConfigError([f"tracking.uri: no store at {looked}; run this where the sweep was started"])
    return sqlite_url(found)


def show(uri: str, page: str, port: int | None = None) -> int:
    """Print the address of a run's page and serve it until Ctrl-C; return the server's exit code.

    If `uri` is a tracking server, only the address is printed.

    Args:
        uri: the tracking URI.
        page: the address of the run's view inside the web page.
        port: of the server; by default MLflow's own, or a free one where that is taken.
    """
    if uri.startswith(("http://", "https://")):
        print(f"{redact(uri).rstrip('/')}/{page}")
        return 0
    port = port or _free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", HOST, "--port", str(port),
               "--workers", "1"]  # fmt: skip
    environment = {**os.environ, **ENVIRONMENT}
    # A session of its own: Ctrl-C reaches the server once, through this process, and all that it starts ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = subprocess.Popen(command, env=environment, start_new_session=True)
    print(f"http://{HOST}:{port}/{page}", "Ctrl-C ends the server", sep="\n", flush=True)
    try:
        return server.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        _end(server)


def _working_dir(raw: Mapping[str, Any], folder: Path) -> Path:
    """Return where the sweep was started: `output_dir` is relative to it unless it is absolute."""
    output = Path(str(raw.get("output_dir", "runs")))
    above = 0 if output.is_absolute() else len(output.parts)
    return folder.absolute().parents[above] if above < len(folder.absolute().parents) else Path.cwd()


def _free_port() -> int:
    for port in (PORT, 0):
        with socket.socket() as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                found.bind((HOST, port))
            except OSError:
                continue
            return int(found.getsockname()[1])
    raise ConfigError([f"--port: neither {PORT} nor any other port of {HOST} is free"])


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the server with the processes that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(server.pid, number)
            server.wait(END_S)
