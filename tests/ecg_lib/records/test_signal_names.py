"""Names of signals: ECG leads, other signals, and names that tell nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.records.signal_names import SignalKind, find_ecg, kind_of, lead_of


@pytest.mark.parametrize(
    "name",
    [
        *("MLII", "V6", "ECG 1", "EXG Channel 0", "Lead II", "Abl. II", "Derivación V3", "DII"),
        *("Brustwandableitung V5", "Extremitätenableitung II", "ECG Rhythm", "rhythm strip II"),
        *("Elektrokardiographie", "Electrocardiograma", "électrocardiogramme", "ecg_filtered"),
        *("Einthoven II", "LII", "ЭКГ", "ЭКГ II", "心电图", "심전도", "ΗΚΓ"),
    ],
)
def test_a_name_of_an_ecg_is_known_in_many_languages(name: str) -> None:
    assert kind_of(name) == "ecg"


@pytest.mark.parametrize(
    "name",
    [
        *("PLETH", "PLETHl", "Photopleth", "Pletismografía", "fotopletismograma", "Pulskurve"),
        *("Pulso", "Pulsoxymetrie", "Blutdruck", "presión arterial", "pression artérielle", "NBP"),
        *("respiración", "respirazione", "Atemfluss", "Nasenflow", "Schnarchen", "Sättigung"),
        *("Saturación", "Temperatur", "FC", "fréquence cardiaque", "ritmo cardíaco", "Herzrate"),
        *("ICG", "EDR", "UAP", "P1", "PAP", "Elektroenzephalogramm", "accX", "Heart Rhythm"),
        *("BVP", "IR", "LED1", "EMG1", "acc2", "Gyr", "LOC", "ROC-A1", "E1-M2", "EGM", "Audio"),
        *("ECG_Rate", "ECG_Phase_Atrial", "ECG valid", "lead off", "ECG leads off", "ECG pacer"),
    ],
)
def test_another_signal_alone_in_a_file_is_not_taken_for_the_ecg(name: str) -> None:
    assert kind_of(name) == "other"
    assert find_ecg([name]) is None


@pytest.mark.parametrize("name", ["value", "Spannung", "señal", "channel 3", "smart"])
def test_a_name_that_tells_nothing_is_the_ecg_when_it_is_alone(name: str) -> None:
    assert kind_of(name) == "unknown"
    assert find_ecg([name]) == 0
    assert find_ecg([name, f"{name}2"]) is None


def test_compounds_spell_their_lead() -> None:
    assert lead_of("Brustwandableitung V5") == "v5"
    assert lead_of("Extremitätenableitung II") == "ii"
    assert find_ecg(["Pulskurve", "Brustwandableitung V5"]) == 1


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        *(("LII", "ii"), ("Einthoven II", "ii"), ("ЭКГ II", "ii"), ("EKG Kanal 2", None)),
        *(("DII ritmo", "ii"), ("II (ritmo)", "ii"), ("I (ritmo)", "i"), ("II (Pat 12)", "ii")),
        *(("V1 thorax", "v1"), ("Digital ECG aVR", "avr"), ("ECG (Pat 12)", None), ("P1", None)),
        *(("II, V5 (Pat 12)", None), ("RESP II (Pat 12)", None), ("Thorax V", None)),
    ],
)
def test_a_word_that_may_be_another_signal_does_not_hide_the_lead(
    name: str, lead: str | None
) -> None:
    assert lead_of(name) == lead


CHOICES = json.loads((Path(__file__).parents[2] / "lead_choices.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("case", CHOICES, ids=lambda case: ",".join(case["names"]))
def test_the_lead_is_chosen_as_the_viewer_chooses_it(case: dict[str, Any]) -> None:
    """The viewer is held to the same table by ``tests/bentos/viewer/test_reading_files.py``."""
    place = find_ecg(case["names"])
    assert (None if place is None else case["names"][place]) == case["chosen"]


@pytest.mark.parametrize(
    "name",
    [
        *("ECG offset corrected", "Lead I, dc offset removed", "ECG (RLD off)", "ECG_rate_250"),
        *("ECG contact electrode", "ECG phase 1"),
    ],
)
def test_a_lead_with_a_word_about_its_recording_stays_an_ecg(name: str) -> None:
    assert kind_of(name) is SignalKind.ECG


@pytest.mark.parametrize("name", ["ECG_P_Onsets", "ECG_T_Offsets", "V1 valid", "ECG QRS"])
def test_what_a_program_derives_of_a_lead_is_another_signal(name: str) -> None:
    assert kind_of(name) is SignalKind.OTHER
