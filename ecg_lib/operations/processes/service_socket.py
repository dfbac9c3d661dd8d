"""The socket that the service listens on, opened by its host or by the process that starts it."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from ecg_lib.errors import ConfigurationError

_BACKLOG: Final = 2048


class PortTakenError(ConfigurationError):
    """Another process listens on the port."""


class ServiceSettings(Protocol):
    """Where the service listens, and what protects it; the settings of the platform are one."""

    @property
    def service_host(self) -> str:
        """Address the service listens on."""

    @property
    def service_port(self) -> int:
        """Port of the service."""

    @property
    def api_keys_file(self) -> Path | None:
        """File of hashed API keys; without it no key is asked for."""

    @property
    def rate_limit_per_min(self) -> int:
        """Requests a client may send in a minute; 0 sets no limit."""


def open_listener(settings: ServiceSettings) -> socket.socket:
    """Open the socket of the service.

    Raises
    ------
    ConfigurationError
        If the address is public and API keys or a rate limit are missing, or it cannot be used.
    PortTakenError
        If another process listens there.

    """
    host, port = settings.service_host, settings.service_port
    with _explained(host, port):
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        check_exposure(settings, str(address[0]))
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    return listener


def check_exposure(settings: ServiceSettings, address: str) -> None:
    """Check that a service which is open to a network has keys and a limit.

    Raises
    ------
    ConfigurationError
        If the address is public and API keys or a rate limit are missing.

    """
    if ipaddress.ip_address(address).is_loopback:
        return
    missing = [
        name
        for name, is_set in (
            ("ECG_API_KEYS_FILE", settings.api_keys_file is not None),
            ("ECG_RATE_LIMIT_PER_MIN", settings.rate_limit_per_min > 0),
        )
        if not is_set
    ]
    if missing:
        msg = (
            f"ECG_SERVICE_HOST must be a loopback address as long as {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set, got {settings.service_host}"
        )
        raise ConfigurationError(msg)


@contextlib.contextmanager
def _explained(host: str, port: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        msg = f"ECG_SERVICE_PORT: {host} port {port} cannot be used: {error.strerror}"
        is_taken = error.errno == errno.EADDRINUSE
        raise (PortTakenError if is_taken else ConfigurationError)(msg) from error
