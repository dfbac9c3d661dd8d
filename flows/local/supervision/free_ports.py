"""Check that the servers can bind their ports, and name the process that holds one."""

from __future__ import annotations

import errno
import socket

import psutil

from ecg_lib.operations.settings import Settings
from flows.local.supervision.process_state import SupervisorError


class PortTakenError(SupervisorError):
    """A port that a server needs is not free."""


def check_ports(settings: Settings) -> None:
    """Check that every server can bind its port.

    Raises
    ------
    PortTakenError
        If one cannot; names each port, its holder, and the variable that changes it.

    """
    wanted = {
        "ECG_PREFECT_PORT": ("the Prefect server", "127.0.0.1", settings.prefect_port),
        "ECG_SERVICE_PORT": ("the service", settings.service_host, settings.service_port),
    }
    if settings.mlflow_tracking_uri is None:
        wanted["ECG_MLFLOW_PORT"] = ("the MLflow server", "127.0.0.1", settings.mlflow_port)
    problems = []
    seen: dict[int, str] = {}
    for variable, (server, host, port) in wanted.items():
        if port in seen:
            problems.append(f"port {port} of {server} ({variable}) is also that of {seen[port]}")
        elif (refusal := _refusal(host, port)) is not None:
            problems.append(
                f"port {port} of {server} {refusal}; free it, or choose another with {variable}"
            )
        seen[port] = server
    if problems:
        msg = "the ports of the servers must be free: " + ". ".join(problems)
        raise PortTakenError(msg)


def _refusal(host: str, port: int) -> str | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Otherwise a port stays taken for a minute after its server has ended.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return f"is held by {_holder(port)}"
            return f"cannot be bound on {host}: {error.strerror or error}"
    return None


def _holder(port: int) -> str:
    try:
        pids = {
            connection.pid
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.pid is not None
        }
        names = [f"{psutil.Process(pid).name()} (pid {pid})" for pid in sorted(pids)]
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        names = []
    return ", ".join(names) or "a process of another user"
