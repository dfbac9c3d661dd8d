"""Where things are and how much they may take, from the environment (prefix ``ECG_``).

Nothing of science: what is computed lives in frozen dataclasses beside the code and travels in the
bundle; what is done this time comes as flow parameters.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from ecg_lib.errors import ConfigurationError


class Profile(StrEnum):
    """How much work a pipeline run does."""

    QUICK = "quick"
    """Minutes on two cores."""
    FULL = "full"
    """As long as it pays."""
    DEMO = "demo"
    """Two minutes on two cores: for `ecg demo` and tests alone. Its source `simulator` is other
    people: 16 with beats that are easy to tell apart, 2 minutes of each."""


Port = Annotated[int, Field(ge=1, le=65535)]
Origins = Annotated[
    tuple[Annotated[str, StringConstraints(pattern=r"^https?://[^/\s*]+$")], ...],
    NoDecode,
    BeforeValidator(
        lambda text: [one for one in text.split(",") if one] if isinstance(text, str) else text
    ),
]
StoreUrl = Annotated[
    str, StringConstraints(pattern=r"^(s3://[a-z0-9][a-z0-9.\-]+(/[^?#\s]*)?|file:///[^?#\s]+)$")
]
AbsolutePath = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]


class Settings(BaseSettings):
    """The settings of every process of the platform.

    Each field is the environment variable ``ECG_<NAME>``; an empty variable counts as unset.
    """

    model_config = SettingsConfigDict(env_prefix="ECG_", env_ignore_empty=True, frozen=True)

    home: AbsolutePath = Field(
        default=Path("var"), validate_default=True, description="Where runs write everything."
    )
    mitdb_dir: AbsolutePath | None = Field(
        default=None, description="Directory of the MIT-BIH records; downloaded when unset."
    )
    svdb_dir: AbsolutePath | None = Field(
        default=None,
        description="Directory of the MIT-BIH supraventricular records; downloaded when unset.",
    )
    ludb_dir: AbsolutePath | None = Field(
        default=None,
        description="Directory of the records of Lobachevsky University; downloaded when unset.",
    )
    nstdb_dir: AbsolutePath | None = Field(
        default=None, description="Directory of the MIT-BIH noise records, for noise evaluation."
    )
    physionet_url: str = Field(
        default="https://physionet.org/files/mitdb/1.0.0/",
        description="Where MIT-BIH is downloaded from; the other databases are beside it.",
    )
    profile: Profile = Field(default=Profile.QUICK, description="Size of a pipeline run.")
    fresh: bool = Field(default=False, description="Start with an empty registry.")

    service_host: str = Field(default="127.0.0.1", description="Address the service listens on.")
    service_port: Port = Field(default=3000, description="Port of the service.")
    service_workers: int = Field(
        default=0, ge=0, le=64, description="Processes that serve; 0 is one a core, four at most."
    )
    prefect_port: Port = Field(default=4200, description="Port of the Prefect server and UI.")
    mlflow_port: Port = Field(default=5000, description="Port of the MLflow server and UI.")

    mlflow_tracking_uri: str | None = Field(
        default=None, description="MLflow server; the one that `ecg up` starts when unset."
    )
    mlflow_store_url: str | None = Field(
        default=None,
        description="SQLAlchemy URL of the database of MLflow; SQLite under home when unset.",
    )
    study_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the Optuna studies; SQLite when unset."
    )
    monitoring_url: str | None = Field(
        default=None, description="SQLAlchemy URL of the monitoring database; SQLite when unset."
    )
    store_url: StoreUrl | None = Field(
        default=None,
        description="Store that several machines share, s3://BUCKET/PREFIX or file:///FOLDER; "
        "without it everything stays below home.",
    )
    log_kept_days: int = Field(
        default=90,
        ge=0,
        description="Days that predictions and feedback stay in the log; 0 keeps all.",
    )
    audit_share: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Share of the predictions that the service draws at random for review; "
        "performance is measured on those alone.",
    )
    rollout: Literal["at_once", "gradual"] = Field(
        default="at_once",
        description="How a model is released that drift asked for: at once, or gradually.",
    )
    shadow_share: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Share of the strips that both models classify while a candidate is tried.",
    )
    keep_signals: bool = Field(
        default=False,
        description="Keep the signals of labelled and drawn predictions with a patient, encrypted.",
    )
    signals_kept_days: int = Field(default=365, ge=1, description="Days that signals are kept.")
    signals_wait_days: int = Field(
        default=7, ge=1, description="Days that a signal waits for a label before it is deleted."
    )
    signal_key_file: AbsolutePath | None = Field(
        default=None, description="Key of the kept signals; made under home when unset."
    )
    drift_checks_kept_days: int = Field(
        default=365,
        ge=0,
        description="Days that drift checks which decided nothing are kept; 0 keeps all.",
    )
    drift_reports_kept: int = Field(
        default=50,
        ge=1,
        description="Reports of Evidently that are kept, the newest, beside those of decisions; "
        "the page of a verdict is kept as long as its check.",
    )
    bundles_kept: int = Field(
        default=10, ge=1, description="Bundles fetched from MLflow that are kept, the newest."
    )
    bentos_kept: int = Field(
        default=10,
        ge=1,
        description="Bentos and models that were never released which are kept, the newest.",
    )
    sweeps_kept: int = Field(
        default=5, ge=1, description="Sweeps that have ended whose fits are kept, the newest."
    )
    training_data_kept: int = Field(
        default=3, ge=1, description="Sets of cut training beats that are kept, the newest."
    )
    mlflow_sweeps_kept: int = Field(
        default=20,
        ge=1,
        description="Sweeps that have ended whose runs MLflow keeps, the newest, beside the models "
        "that were released or have an alias.",
    )
    dataset_versions_kept: int = Field(
        default=10,
        ge=1,
        description="Dataset versions that are kept, the newest, beside those of runs and "
        "releases; with them their prepared records.",
    )
    evaluation_reports_kept: int = Field(
        default=50,
        ge=1,
        description="Evaluation reports that are kept, the newest, beside those of released "
        "models and of openings of the test set.",
    )
    prefect_runs_kept_days: int = Field(
        default=90, ge=1, description="Days that Prefect's server keeps flow runs and their logs."
    )
    ledger_remote: str | None = Field(
        default=None, description="Git remote that the release ledger is pushed to."
    )

    api_keys_file: AbsolutePath | None = Field(
        default=None, description="File of hashed API keys; without it no key is asked for."
    )
    api_key: str | None = Field(
        default=None, description="Key that the requests of `ecg` itself carry, where one is asked."
    )
    release_key_file: AbsolutePath | None = Field(
        default=None,
        description="Key of the signatures of releases, the same on machines that share a store; "
        "made under home when unset.",
    )
    patient_key_file: AbsolutePath | None = Field(
        default=None, description="Key of the patient hashes; made under home when unset."
    )
    rate_limit_per_min: int = Field(
        default=0, ge=0, description="Requests a client may send in a minute; 0 sets none."
    )
    answer_limit_s: float = Field(
        default=30.0, gt=0, description="Seconds that an answer may take once its request is there."
    )
    allowed_origins: Origins = Field(
        default=(), description="Sites whose pages may call the service, with commas."
    )
    trusted_proxies: str = Field(
        default="",
        description="Addresses, with commas, whose word on the client's address is taken.",
    )

    public_origins: Origins = Field(
        default=(),
        description="Addresses, with commas, of a proxy with TLS in front of Prefect or MLflow.",
    )

    live_leads: int = Field(
        default=300, ge=1, le=4000, description="Leads that may stream to one process at a time."
    )

    dask_address: str | None = Field(
        default=None,
        description="Scheduler of a Dask cluster for analyze-recordings, such as tls://host:8786; "
        "one is started on this machine when unset.",
    )

    recordings_kept: int = Field(
        default=20, ge=1, description="Finished recordings that the service keeps, the newest."
    )
    recordings_kept_days: int = Field(
        default=0,
        ge=0,
        description="Days that finished recordings are kept; 0 limits their number alone.",
    )
    recordings_waiting: int = Field(
        default=16, ge=1, description="Recordings that may wait or be analysed at a time."
    )
    recordings_at_once: int = Field(
        default=1, ge=1, description="Recordings that are analysed at a time, each by a process."
    )

    @property
    def data_dir(self) -> Path:
        """Downloaded and simulated records."""
        return self.home / "data"

    @property
    def datasets_dir(self) -> Path:
        """Dataset versions and the prepared records they are made of."""
        return self.home / "datasets"

    @property
    def serving_dir(self) -> Path:
        """The release to be served (``current.json``), and the answers that wait to be logged."""
        return self.home / "serving"

    @property
    def signatures_dir(self) -> Path:
        """One signature for each release that was made, whether the service took it or not."""
        return self.home / "signatures"

    @property
    def recordings_dir(self) -> Path:
        """Recordings that were sent to the service, and their results."""
        return self.home / "recordings"

    @property
    def ledger_dir(self) -> Path:
        """Git repository with one commit for each released model."""
        return self.home / "ledger"

    @property
    def reports_dir(self) -> Path:
        """Reports as files."""
        return self.home / "reports"

    @property
    def logs_dir(self) -> Path:
        """Output of the processes that ``ecg up`` starts."""
        return self.home / "logs"

    @property
    def bentoml_home(self) -> Path:
        """BentoML's store of models and bentos."""
        return self.home / "bentoml"

    @property
    def mlflow_dir(self) -> Path:
        """MLflow's database and artifacts."""
        return self.home / "mlflow"

    @property
    def tracking_uri(self) -> str:
        """MLflow's tracking and registry address: of its server, else of its database."""
        own = self.mlflow_store_url or f"sqlite:///{self.mlflow_dir / 'mlflow.db'}"
        return self.mlflow_tracking_uri or own

    @property
    def mlflow_artifacts_url(self) -> str:
        """URL of MLflow's artifacts: in the store that machines share, else below home."""
        if self.store_url is None:
            return (self.mlflow_dir / "artifacts").as_uri()
        return f"{self.store_url.rstrip('/')}/mlflow"

    @property
    def study_storage_url(self) -> str:
        """SQLAlchemy URL of the Optuna studies."""
        return self.study_url or f"sqlite:///{self.home / 'studies.db'}"

    @property
    def monitoring_database_url(self) -> str:
        """SQLAlchemy URL of the monitoring database."""
        return self.monitoring_url or f"sqlite:///{self.home / 'monitoring.db'}"

    @property
    def signals_dir(self) -> Path:
        """Signals that are kept for review and training, encrypted."""
        return self.home / "signals"

    @property
    def signal_key_path(self) -> Path:
        """File with the key of the kept signals."""
        return self.signal_key_file or self.home / "signals.key"

    @property
    def release_key_path(self) -> Path:
        """File with the key of the signatures of releases."""
        return self.release_key_file or self.home / "secrets" / "release-key"

    @property
    def patient_key_path(self) -> Path:
        """File with the key of the patient hashes."""
        return self.patient_key_file or self.home / "patient.key"


def read_settings() -> Settings:
    """Read the settings from the environment.

    Raises
    ------
    ConfigurationError
        If a variable has a value that cannot be used; names the variable, not its value.

    """
    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"ECG_{'_'.join(map(str, item['loc'])).upper()}: {item['msg']}"
            for item in error.errors()
        )
        msg = f"the environment has settings that cannot be used: {problems}"
        raise ConfigurationError(msg) from error
