"""The BentoML service ``ecg``: the application mounted, and its runtime started and stopped.

``bentoml serve ecg:<version>`` runs it. It serves what ``serving/current.json`` says when that
release is of its own code, and else the bundle that its bento came with. ``python -m bentos.host``
serves the code of a bento as well, by :mod:`bentos.worker` and without loading BentoML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import bentoml

from bentos.routes.app import make_app
from bentos.routes.edge import Edge
from bentos.runtime.live_model import BUNDLE_MODEL, UNREGISTERED, load_model
from bentos.runtime.predictor import Runtime
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
        self.runtime = Runtime(read_settings(), has_host=False)
        app.state.runtime = self.runtime
        self.runtime.live.apply_current()
        if self.runtime.live.current is None:
            self._serve_own_bundle()
        self.runtime.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML's lazy attributes have none
    def close(self) -> None:
        """End threads and connections."""
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
