"""The baseline: an endpoint as a tutorial writes it, FastAPI and uvicorn around Keras.

``uvicorn keras_service:app``. Same preparation and the essentials of the same answer as the
service, but the network is asked by ``model.predict`` in every request, in one process.
``ECG_BENCH_NETWORK`` names the file of the network: one of the same shape as that of the service,
never trained, so that it costs as much and its classes mean nothing.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime
from typing import Any, Final

import keras
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, Field

from ecg_lib.signal_path.preprocessing import prepare_beats

app: Final = FastAPI()
_model: Final = keras.models.load_model(os.environ["ECG_BENCH_NETWORK"], compile=False)


class Request(BaseModel):
    """One lead of an ECG."""

    signal_data: list[float] = Field(min_length=1000)
    sampling_rate: float = 360.0


@app.get("/health")
async def read_health() -> dict[str, str]:
    """Tell that it runs."""
    return {"status": "ok"}


@app.post("/api/v1/predictions/", status_code=201)
def predict(request: Request) -> dict[str, Any]:
    """Find and classify the beats."""
    prepared = prepare_beats(np.array(request.signal_data), fs=request.sampling_rate)
    logits = _model.predict([prepared.windows, prepared.features], verbose=0)[:, 0]
    probability_v = 1 / (1 + np.exp(-logits.astype(np.float64)))
    beats = [
        {
            "beat_index": index,
            "position_sample": position,
            "arrhythmia_type": "V" if probability >= 0.5 else "N",
            "confidence": max(probability, 1 - probability),
        }
        for index, (position, probability) in enumerate(
            zip(prepared.r_peaks.tolist(), probability_v.tolist(), strict=True)
        )
    ]
    return {
        "prediction_id": str(uuid.uuid4()),
        "timestamp": datetime.now(UTC).isoformat(),
        "total_beats_detected": len(beats),
        "beat_predictions": beats,
    }
