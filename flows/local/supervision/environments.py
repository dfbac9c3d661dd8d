"""The environment of each process of the platform: what it needs, and nothing else.

A process takes variables of the caller only by name (`_BASE` and the patterns below), so that keys
and passwords of other programs reach none of them. ``ECG_API_KEY`` is for the command line alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Final

from ecg_lib.operations.processes.limits import ONE_THREAD
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import LOOPBACK, find_addresses
from flows.local.servers.secret_files import PREFECT, read_secret

_BASE: Final = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_*", "TZ", "TMPDIR"),
    *("VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
)
_FLOWS: Final = (
    *("PREFECT_WORKER_*", "PREFECT_RUNNER_*", "PREFECT_FLOWS_*", "PREFECT_LOGGING_*"),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("TF_*", "CUDA_*", "NVIDIA_*", "GIT_*", "SSH_AUTH_SOCK"),
    "DASK_*",  # certificates of a cluster
)
_STORE: Final = "AWS_*"
"""Address and credentials of the shared store."""
_OWN_STORE: Final = {
    # For MLflow, what ecg_lib.operations.store.s3_objects sets for a store other than Amazon's.
    "MLFLOW_BOTO_CLIENT_ADDRESSING_STYLE": "path",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_SERVICE: Final = ("BENTOML_*", "OTEL_*")
_PREFECT_SERVER: Final = ("PREFECT_SERVER_*", "PREFECT_API_DATABASE_*", "PREFECT_LOGGING_*")
# MLflow's credentials as a client are not among them.
_MLFLOW_SERVER: Final = ("MLFLOW_SERVER_*", "MLFLOW_SQLALCHEMYSTORE_*", "MLFLOW_LOGGING_*")
_COMMAND_LINE_ONLY: Final = frozenset({"api_key"})
_NOT_FOR_SERVICE: Final = frozenset(
    {"study_url", "ledger_remote", "mlflow_tracking_uri", "mlflow_store_url"}
)
"""Settings that may hold a password and that the service does not read."""

_NO_TELEMETRY: Final = {
    # Libraries differ in the spelling of true that they accept.
    "DO_NOT_TRACK": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
}
_PREFECT_CLIENT: Final = {
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_RUNNER_AUTO_INSTALL_DEPENDENCIES": "false",
    "PREFECT_WORKER_QUERY_SECONDS": "2",
}
_MLFLOW_CLIENT: Final = {
    "GIT_PYTHON_REFRESH": "quiet",  # MLflow's git library complains where git is not installed
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
}


def make_prefect_server_environment(settings: Settings) -> dict[str, str]:
    """Make the environment of Prefect's server, which reads its secret from the file."""
    return {
        **_take(*_PREFECT_SERVER),
        **_find_gate(settings),
        **_find_prefect(settings),
        "ECG_PREFECT_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_API_HOST": LOOPBACK,
        # The UI finds the server by this setting and ignores the port that it listens on.
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(
            settings.prefect_runs_kept_days * 86_400
        ),
    }


def make_mlflow_server_environment(settings: Settings) -> dict[str, str]:
    """Make the environment of MLflow's server, which reads its secret from the file."""
    return {
        **_find_pool(settings),
        **_take(*_MLFLOW_SERVER),
        **_find_gate(settings),
        **_find_store(settings),
        "ECG_MLFLOW_PORT": str(settings.mlflow_port),
        **({"ECG_MLFLOW_STORE_URL": store} if (store := settings.mlflow_store_url) else {}),
        "GIT_PYTHON_REFRESH": "quiet",
        # It would start ten processes for features that are not used here.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def make_deploy_environment(settings: Settings) -> dict[str, str]:
    """Make the environment of ``prefect deploy``."""
    return {**_take(), **_find_prefect(settings), **_sign_in_to_prefect(settings)}


def make_flow_environment(settings: Settings) -> dict[str, str]:
    """Make the environment of the worker, which its flow runs inherit.

    Every setting is spelt out, because flow runs start in other working directories. Where the
    service asks for keys, a release needs the API key to see what is served.
    """
    needs_key = settings.api_keys_file is not None and settings.api_key is not None
    return {
        **({"ECG_API_KEY": str(settings.api_key)} if needs_key else {}),
        **_take(*_FLOWS),
        **_find_store(settings),
        **_settings_as_variables(settings),
        **_limit_threads(),
        **_find_prefect(settings),
        **_sign_in_to_prefect(settings),
        **_find_stores(settings),
        **_MLFLOW_CLIENT,
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def make_service_environment(settings: Settings) -> dict[str, str]:
    """Make the environment of the prediction service, which uses neither Prefect nor MLflow."""
    return {
        **_take(*_SERVICE),
        **_find_store(settings),
        **_settings_as_variables(settings, without=_NOT_FOR_SERVICE),
        **_limit_threads(),
        "BENTOML_HOME": str(settings.bentoml_home),
    }


def make_command_variables(settings: Settings) -> dict[str, str]:
    """Make the variables that the command line adds to its own environment."""
    return {
        **_NO_TELEMETRY,
        **_settings_as_variables(settings),
        **_limit_threads(),
        **_find_prefect(settings),
        **_sign_in_to_prefect(settings),
        **_find_stores(settings),
        **_find_store(settings),
        **_MLFLOW_CLIENT,
        **_bypass_proxy(),
        # Prefect's client would wait for a minute, in which nothing is started again.
        "PREFECT_CLIENT_MAX_RETRIES": "0",
    }


def _take(*patterns: str, caller: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Take variables of the caller by name, and add what every process needs."""
    wanted = (*_BASE, *patterns)
    return {
        **{
            name: value
            for name, value in caller.items()
            if any(fnmatchcase(name, pattern) for pattern in wanted)
        },
        **_NO_TELEMETRY,
        **_bypass_proxy(),
        "PYTHONUNBUFFERED": "1",
    }


def _find_store(settings: Settings) -> dict[str, str]:
    """Find the store that machines share: only who reads it gets its credentials."""
    if settings.store_url is None:
        return {}
    found = {name: text for name, text in os.environ.items() if fnmatchcase(name, _STORE)}
    is_own = found.keys() & {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"}
    return {
        "ECG_STORE_URL": settings.store_url,
        **(_OWN_STORE if is_own else {}),
        **found,
    }


def _bypass_proxy() -> dict[str, str]:
    hosts = ",".join(filter(None, [os.environ.get("NO_PROXY"), LOOPBACK, "localhost"]))
    return {"NO_PROXY": hosts, "no_proxy": hosts}


def _settings_as_variables(
    settings: Settings, *, without: frozenset[str] = frozenset()
) -> dict[str, str]:
    return {
        f"ECG_{name.upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in settings.model_dump(mode="json").items()
        if value is not None and name not in _COMMAND_LINE_ONLY | without
    }


def _limit_threads() -> dict[str, str]:
    # Many small arrays in several processes: threads in BLAS only wait for each other.
    return {name: os.environ.get(name, count) for name, count in ONE_THREAD.items()}


def _find_gate(settings: Settings) -> dict[str, str]:
    public = ",".join(settings.public_origins)
    return {
        "ECG_HOME": str(settings.home),
        **({"ECG_PUBLIC_ORIGINS": public} if public else {}),
    }


def _find_prefect(settings: Settings) -> dict[str, str]:
    home = settings.home / "prefect"
    return {
        **_PREFECT_CLIENT,
        "PREFECT_API_URL": f"{find_addresses(settings).prefect}/api",
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
    }


def _sign_in_to_prefect(settings: Settings) -> dict[str, str]:
    return {"PREFECT_API_AUTH_STRING": read_secret(settings, PREFECT).login}


def _find_stores(settings: Settings) -> dict[str, str]:
    cache = settings.home / "cache"
    return {
        "BENTOML_HOME": str(settings.bentoml_home),
        "KERAS_HOME": str(cache / "keras"),
        "MPLCONFIGDIR": str(cache / "matplotlib"),
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        **_find_pool(settings),
    }


def _find_pool(settings: Settings) -> dict[str, str]:
    """Let MLflow keep no connection to a database server: one that was cut fails the next call."""
    if settings.mlflow_store_url is None:
        return {}
    return {"MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool"}
