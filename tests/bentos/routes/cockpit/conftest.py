"""Services that the tests of the operations page start."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bentos.runtime.live_model import LoadedModel

Serve = Callable[..., Any]


@pytest.fixture
def serve(start_service: Callable[..., Any], toy_model: LoadedModel) -> Iterator[Serve]:
    """Start services with settings of their own."""
    started = []

    def serve(*, has_model: bool = True, **settings: Any) -> Any:  # noqa: ANN401  a conftest's class
        service = start_service(**settings)
        if has_model:
            service.runtime.live.use(toy_model)
        started.append(service)
        return service

    yield serve
    for service in started:
        service.close()
