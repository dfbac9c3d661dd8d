"""The BentoML service ``ecg``: the application mounted, and its runtime started and stopped.

Under ``python -m bentos.host`` it serves what ``serving/current.json`` says; under
``bentoml serve ecg:<version>`` it does so too when that release is of its own code, and else
serves the bundle that its bento came with.
"""

from __future__ import annotations

from typing import Any, Final

import bentoml

from bentos.app import make_app
from bentos.edge import Edge
from bentos.live_model import BUNDLE_MODEL, UNREGISTERED, load_model
from bentos.runtime import Runtime
from ecg_lib.releases import Release, ReleaseError
from ecg_lib.settings import read_settings

app: Final = make_app()
app.state.has_host = False
app.state.release = None
app.state.refusal_reason = ""


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
        self.runtime = Runtime(read_settings(), has_host=app.state.has_host)
        app.state.runtime = self.runtime
        release: Release | None = app.state.release
        if release is not None:
            self._take(release)
        self.runtime.live.obey()
        if self.runtime.live.current is None:
            self._serve_own_bundle()
        self.runtime.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]  # BentoML's lazy attributes have none
    def close(self) -> None:
        """End threads and connections."""
        self.runtime.close()

    def _take(self, release: Release) -> None:
        """Take the release that the host started this process for, or do not start."""
        try:
            self.runtime.live.take(release)
        except ReleaseError as error:
            app.state.refusal_reason = str(error)
            raise

    def _serve_own_bundle(self) -> None:
        """Serve the bundle of the bento that this process was started from, if it was."""
        service: Any = EcgService
        if service.bento is None:
            return
        for model in service.bento.info.all_models:
            if model.tag.name == BUNDLE_MODEL:
                tag = str(service.bento.tag)
                self.runtime.live.use(
                    load_model(str(model.tag), bento_tag=tag, version=UNREGISTERED)
                )
