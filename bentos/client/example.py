"""Classify a strip with the client and print its beats: ``python -m bentos.client.example [FILE]``.

FILE holds one lead: a JSON body as the predictions route takes it, NPY, or float32 (``.f32``).
Without a file it is one of the service's own examples, a simulated strip with a PVC.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

import numpy as np

from bentos.client.ecg_client import ClientError, EcgClient, ExampleStrip, Prediction

_FS_HZ: Final = 360.0


def main() -> int:
    """Classify and print; 1 when the file cannot be read, or the service rejects it or is away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="one lead in mV: .json, .npy or .f32")
    parser.add_argument(
        "--url",
        default=f"http://127.0.0.1:{os.environ.get('ECG_SERVICE_PORT') or 3000}",
        help="address of the service",
    )
    parser.add_argument(
        "--sampling-rate", type=float, help=f"in Hz; what JSON states, else {_FS_HZ:g}"
    )
    parser.add_argument("--derivation", default="MLII", help="name of the lead")
    arguments = parser.parse_args()
    with EcgClient(arguments.url, api_key=os.environ.get("ECG_API_KEY")) as client:
        try:
            strip = client.get_example() if arguments.file is None else read_strip(arguments.file)
            found = client.predict(
                strip.signal_mv,
                sampling_rate=arguments.sampling_rate or strip.sampling_rate,
                derivation=arguments.derivation,
            )
        except (ClientError, OSError, ValueError) as error:
            sys.stderr.write(f"{error}\n")
            return 1
    sys.stdout.write(describe(found))
    return 0


def read_strip(path: Path) -> ExampleStrip:
    """Read a strip from a file.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or is not of a kind that its name says.

    """
    kind = path.suffix.lower()
    if kind == ".json":
        body = json.loads(path.read_bytes())
        if not isinstance(body, dict) or "signal_data" not in body:
            msg = f"{path.name} must hold an object with signal_data"
            raise ValueError(msg)
        return ExampleStrip(
            np.array(body["signal_data"], dtype=np.float64), body.get("sampling_rate", _FS_HZ)
        )
    if kind == ".f32":
        return ExampleStrip(np.fromfile(path, dtype="<f4").astype(np.float64), _FS_HZ)
    if kind == ".npy":
        return ExampleStrip(np.load(path, allow_pickle=False), _FS_HZ)
    msg = f"{path.name} must be a .json, .npy or .f32 file"
    raise ValueError(msg)


def describe(prediction: Prediction) -> str:
    """Write a prediction as a table."""
    reasons = "; ".join(prediction.risk_reasons)
    overall, confidence = prediction.overall_arrhythmia_type, prediction.confidence
    lines = [
        "no beat has a class" if confidence is None else f"{overall}, confidence {confidence:.3f}",
        f"risk {prediction.risk_level}: {reasons}",
        f"model {prediction.model.version}, trained on {prediction.model.data}",
        f"prediction {prediction.prediction_id}",
        "",
        "beat      s  class   p(V)  RR s",
    ]
    for beat in prediction.beats:
        seconds = beat.position_sample / prediction.sampling_rate
        kind = beat.arrhythmia_type or beat.quality
        probability = "-" if beat.probability_v is None else f"{beat.probability_v:.3f}"
        interval = "-" if beat.rr_previous is None else f"{beat.rr_previous:.2f}"
        lines.append(
            f"{beat.beat_index:4} {seconds:6.2f}  {kind:>5} {probability:>6} {interval:>5}"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
