"""Prefect's server behind the gate: ``python -m flows.local.servers.prefect_server``.

Like ``prefect server start`` with one process: it makes the same application and runs it in uvicorn
with the same options.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import read_settings
from flows.local.servers.arguments import read_arguments
from flows.local.servers.bounded_requests import BOUNDED
from flows.local.servers.gate import Gate
from flows.local.servers.secret_files import PREFECT


def main(given: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    os.umask(0o077)
    settings = read_settings()
    arguments = read_arguments(given, settings=settings, name=PREFECT, description="Prefect")
    # Set before Prefect is imported, because it reads its settings once. Prefect then checks the
    # credentials at every route of its API but health and ready, and in every WebSocket.
    os.environ["PREFECT_SERVER_API_AUTH_STRING"] = arguments.credentials.login
    # Otherwise a page that was opened as localhost calls 127.0.0.1, which is another origin.
    os.environ["PREFECT_SERVER_UI_API_URL"] = "/api"
    os.environ["PREFECT_SERVER_API_HOST"] = arguments.host
    os.environ["PREFECT_SERVER_API_PORT"] = str(settings.prefect_port)
    # Prefect writes its pages at the first start, by default next to its own code, which may be
    # read-only.
    pages = settings.home / "prefect" / "ui"
    pages.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("PREFECT_SERVER_UI_STATIC_DIRECTORY", str(pages))
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    options = get_current_settings().server
    if options.api.auth_string is None:
        msg = "Prefect must know the credentials that it is to check, and its settings have none"
        raise EcgError(msg)
    app = Gate(
        create_app(final=True),
        credentials=arguments.credentials,
        port=settings.prefect_port,
        app_authenticates=True,
        local_storage_key="prefect-password",
        names=arguments.names,
        public_origins=settings.public_origins,
    )
    uvicorn.run(
        app,
        **BOUNDED,
        host=arguments.host,
        port=settings.prefect_port,
        timeout_keep_alive=options.api.keepalive_timeout,
        ws_ping_interval=options.api.websocket_ping_interval,
        ws_ping_timeout=options.api.websocket_ping_timeout,
        log_level=options.logging_level.lower(),
        proxy_headers=False,
    )


if __name__ == "__main__":
    try:
        main()
    except EcgError as error:
        sys.exit(f"error: {error}")
