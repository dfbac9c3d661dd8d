"""The BentoML service ``ecg``: the application mounted, and its runtime started and stopped.

``bentoml serve ecg:<version>`` runs it. It serves what ``serving/current.json`` says when that
release is of its own code, and else the bundle that its bento came with. ``python -m bentos.host``
serves the code of a bento as well, by :mod:`bentos.worker` and without loading BentoML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import bentoml

from bentos.recordings.job_queue import JobQueue
from bentos.recordings.job_runner import JobRunner
from bentos.recordings.job_store import JobStore
from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from bentos.runtime.live_model import UNREGISTERED, load_model
from bentos.runtime.predictor import Runtime
from ecg_lib.operations.releases import BUNDLE_MODEL
from ecg_lib.operations.settings import read_settings

app: Final = make_app()


@bentoml.service(
    name="ecg",
    workers=1,
    # Metrics, access log and answers are our own: BentoML's know neither our routes nor problems.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    traffic={"timeout": 60},
)
@bentoml.asgi_app(Edge(app), path="/")
class EcgService:
    """Ventricular beats in an ECG, beat by beat."""

    def __init__(self) -> None:
        settings = read_settings()
        self.runtime = Runtime(settings, has_host=False)
        store = JobStore(settings.recordings_dir)
        self.runner = JobRunner(
            store,
            settings,
            model=lambda: self.runtime.live.current,
            note=self.runtime.note_request,
        )
        app.state.runtime = self.runtime
        app.state.recordings = JobQueue(store, settings, wake=self.runner.wake)
        self.runtime.live.apply_current()
        if self.runtime.live.current is None:
            self._serve_own_bundle()
        self.runtime.start()
        self.runner.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML's lazy attributes have none
    def close(self) -> None:
        """End threads and connections."""
        self.runner.close()
        self.runtime.close()

    def _serve_own_bundle(self) -> None:
        """Serve the bundle of the bento that this process was started from, if it was."""
        service: Any = EcgService
        if service.bento is None:
            return
        for model in service.bento.info.all_models:
            if model.tag.name == BUNDLE_MODEL:
                self.runtime.live.use(
                    load_model(
                        Path(bentoml.models.get(model.tag).path),
                        bento_tag=str(service.bento.tag),
                        version=UNREGISTERED,
                    )
                )
