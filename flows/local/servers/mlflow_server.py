"""MLflow's server behind the gate, in one process: ``python -m flows.local.servers.mlflow_server``.

Like ``mlflow server`` with one worker: it migrates the database, passes the addresses of the stores
through MLflow's own variables, and runs MLflow's application in uvicorn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ecg_lib.errors import EcgError
from ecg_lib.operations.settings import read_settings
from flows.doors.ui.tracking import find_landing
from flows.local.servers.arguments import read_arguments
from flows.local.servers.bounded_requests import BOUNDED
from flows.local.servers.gate import Gate
from flows.local.servers.landing import Landing
from flows.local.servers.secret_files import MLFLOW


def main(given: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT."""
    os.umask(0o077)
    settings = read_settings()
    arguments = read_arguments(given, settings=settings, name=MLFLOW, description="MLflow")
    store, port = settings.tracking_uri, settings.mlflow_port
    artifacts = "mlflow-artifacts:/"
    # MLflow compares Host and Origin too, after the gate has.
    public = settings.public_origins
    os.environ["MLFLOW_SERVER_ALLOWED_HOSTS"] = ",".join(
        [f"{name}:{port}" for name in arguments.names]
        + [origin.partition("://")[2] for origin in public]
    )
    if public:
        os.environ["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = ",".join(public)
    from mlflow.server import constants

    settings.mlflow_dir.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        constants.BACKEND_STORE_URI_ENV_VAR: store,
        constants.REGISTRY_STORE_URI_ENV_VAR: store,
        constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
        constants.ARTIFACTS_DESTINATION_ENV_VAR: settings.mlflow_artifacts_url,
        constants.SERVE_ARTIFACTS_ENV_VAR: "true",
    }
    import uvicorn
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, artifacts)
    landing = Landing(
        app,
        index=Path(str(pages.static_folder)) / "index.html",
        find=lambda: find_landing(store),
    )
    uvicorn.run(
        Gate(
            landing,
            credentials=arguments.credentials,
            port=port,
            names=arguments.names,
            public_origins=public,
        ),
        **BOUNDED,
        host=arguments.host,
        port=port,
        proxy_headers=False,
        access_log=False,
    )


if __name__ == "__main__":
    try:
        main()
    except EcgError as error:
        sys.exit(f"error: {error}")
