"""A recording's figures as FHIR R4 resources: a Bundle of a DiagnosticReport and Observations.

Codes are LOINC's where there is one, and plain text elsewhere. There is no Patient resource: only
the reference that came with the recording is known here, and the report names it as its subject.
Status is ``preliminary``, because no reader has confirmed it.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

LOINC: Final = "http://loinc.org"
HOLTER_STUDY: Final = ("18754-2", "Holter monitor study")
HEART_RATE: Final = ("8867-4", "Heart rate")
PVC_COUNT: Final = ("76126-2", "Premature ventricular contractions [#]")

_UCUM: Final = "http://unitsofmeasure.org"
_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
_SERVICE: Final = "http://terminology.hl7.org/CodeSystem/v2-0074"
_NAMESPACE: Final = uuid.UUID("6f0f4fd8-3f0f-4b52-9c8e-3d3a5c1f4a10")


def make_bundle(described: Mapping[str, Any], *, recording_id: str) -> dict[str, Any]:
    """Make the Bundle of a recording.

    Parameters
    ----------
    described : mapping
        From :func:`ecg_lib.recordings.summary.describe_summary`.
    recording_id : str
        Name of the recording; the same one gives the same identifiers.

    """
    issued, rhythm = described["analysed_at"], described["rhythm"]
    observations = [
        _observe(HEART_RATE, rhythm["heart_rate_mean_bpm"], "/min", "beats a minute", issued),
        _observe(PVC_COUNT, described["ventricular_beats"], "{beats}", "beats", issued),
        *(
            _observe(text, value, code, unit, issued)
            for text, value, code, unit in (
                (
                    "Heart rate, least of eight intervals",
                    rhythm["heart_rate_min_bpm"],
                    "/min",
                    "beats a minute",
                ),
                (
                    "Heart rate, greatest of eight intervals",
                    rhythm["heart_rate_max_bpm"],
                    "/min",
                    "beats a minute",
                ),
                ("PVC burden", 100 * rhythm["pvc_burden"], "%", "%"),
                ("Ventricular couplets", rhythm["couplets"], "{couplets}", "couplets"),
                ("Ventricular runs of three or more", rhythm["runs"], "{runs}", "runs"),
                ("Pauses of more than 2 s", rhythm["pauses"], "{pauses}", "pauses"),
                ("Duration of the recording", described["recording"]["duration_s"], "s", "s"),
                (
                    "Share of the recording that can be read",
                    100 * described["signal_quality"]["usable_share"],
                    "%",
                    "%",
                ),
            )
        ),
    ]
    identified = [
        (_identify(recording_id, f"observation-{number}"), observation)
        for number, observation in enumerate(observations)
    ]
    report = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [
            {
                "coding": [
                    {
                        "system": _SERVICE,
                        "code": "EC",
                        "display": "Electrocardiac (e.g., EKG, EEC, Holter)",
                    }
                ]
            }
        ],
        "code": _code(HOLTER_STUDY),
        "effectiveDateTime": issued,
        "issued": issued,
        "result": [{"reference": reference} for reference, _ in identified],
        "conclusion": _conclude(described),
    }
    patient = described["recording"]["patient_reference"]
    if patient is not None:
        report["subject"] = {"identifier": {"value": patient}}
    entries = [(_identify(recording_id, "report"), report), *identified]
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "timestamp": issued,
        "entry": [{"fullUrl": url, "resource": resource} for url, resource in entries],
    }


def _observe(
    code: tuple[str, str] | str, value: float | None, unit_code: str, unit: str, issued: str
) -> dict[str, Any]:
    observation: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [{"coding": [{"system": _CATEGORY, "code": "procedure"}]}],
        "code": _code(code),
        "effectiveDateTime": issued,
        "issued": issued,
        "note": [{"text": "By an algorithm; effective is the time of analysis."}],
    }
    if value is None:
        observation["dataAbsentReason"] = {"text": "too little could be read"}
    else:
        observation["valueQuantity"] = {
            "value": round(float(value), 3),
            "unit": unit,
            "system": _UCUM,
            "code": unit_code,
        }
    return observation


def _code(code: tuple[str, str] | str) -> dict[str, Any]:
    if isinstance(code, str):
        return {"text": code}
    number, display = code
    return {"coding": [{"system": LOINC, "code": number, "display": display}], "text": display}


def _identify(recording_id: str, part: str) -> str:
    return f"urn:uuid:{uuid.uuid5(_NAMESPACE, f'{recording_id}/{part}')}"


def _conclude(described: Mapping[str, Any]) -> str:
    level = described["risk_level"]
    return f"Attention {level}: {'; '.join(described['risk_reasons'])}. {described['notice']}"
