"""Classify a strip with the client and print its beats: ``python -m bentos.client.example [FILE]``.

Without a file it is one of the service's own examples, a simulated strip with a PVC.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from bentos.client.ecg_client import ClientError, EcgClient, Prediction


def main() -> int:
    """Classify and print; 1 when the service refuses or does not answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, nargs="?", help="one lead in mV, NPY")
    parser.add_argument("--url", default="http://127.0.0.1:3000", help="address of the service")
    parser.add_argument("--sampling-rate", type=float, default=360.0, help="of the file, in Hz")
    parser.add_argument("--derivation", default="MLII", help="name of the lead")
    arguments = parser.parse_args()
    with EcgClient(arguments.url, api_key=os.environ.get("ECG_API_KEY")) as client:
        try:
            if arguments.file is None:
                signal, fs = client.get_example()
            else:
                signal, fs = np.load(arguments.file), arguments.sampling_rate
            found = client.predict(signal, sampling_rate=fs, derivation=arguments.derivation)
        except ClientError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    sys.stdout.write(describe(found))
    return 0


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
