"""The model card of a bundle, after Mitchell et al. 2019, DOI 10.1145/3287560.3287596."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from ecg_lib.classifier.bundle import ClassifierConfig, DataSource, Provenance
from ecg_lib.evaluation.beat_scoring import BeatCounts

_DATA_TEXT = {
    DataSource.MITDB: (
        "MIT-BIH Arrhythmia Database 1.0.0 (Moody & Mark 2001, DOI 10.1109/51.932724; Goldberger "
        "et al. 2000, DOI 10.1161/01.CIR.101.23.e215; ODC-By 1.0). Development on DS1, 22 "
        "records; DS2 is held back for the final figure (de Chazal et al. 2004, "
        "DOI 10.1109/TBME.2004.827359)."
    ),
    DataSource.RECORDS: (
        "Annotated records of several databases, named in the dataset version. Of MIT-BIH: "
        "development on DS1, 22 records, DS2 is held back (Moody & Mark 2001, "
        "DOI 10.1109/51.932724; de Chazal et al. 2004, DOI 10.1109/TBME.2004.827359). Of the "
        "MIT-BIH Supraventricular Arrhythmia Database (Greenwald, Patil & Mark 1990): 40 records, "
        "the other 38 are held back. Both: Goldberger et al. 2000, "
        "DOI 10.1161/01.CIR.101.23.e215; ODC-By 1.0."
    ),
    DataSource.SIMULATED: (
        "**SIMULATED patients, no real ECG.** This classifier shows that the platform works. Its "
        "figures say nothing about people."
    ),
}

_SAME_PEOPLE = "; `ecg evaluate` gives figures with networks that have not seen the person"

_DETECTOR_TEXT = {
    DataSource.MITDB: f"MIT-BIH, these records among them{_SAME_PEOPLE}",
    DataSource.RECORDS: f"MIT-BIH, these records among them{_SAME_PEOPLE}",
    DataSource.SIMULATED: "MIT-BIH",
}

_LIMITS_TEXT = {
    DataSource.MITDB: """\
Few subjects: 22 people of one hospital of the 1970s. Where the conducted beats are themselves
wide or change shape (bundle branch block, aberration), errors gather, as the table shows.
Sex, age and heart disease are not equally covered, and no figure by subgroup would mean anything
with so few. The full EC57 report (noise, strips, second lead, reference R-peaks, runs, R-peak
places, errors) is written by `ecg evaluate`; openings of DS2 are in `docs/ds2-openings.md`.
""",
    DataSource.RECORDS: """\
Few subjects, of few hospitals and of the 1970s to 1990s. Where the conducted beats are themselves
wide or change shape (bundle branch block, aberration), errors gather, as the table shows. The
figures of the databases differ, so those of all together say little about another recorder. The
full EC57 report (databases, noise, strips, second lead, reference R-peaks, runs, R-peak places,
errors) is written by `ecg evaluate`; openings of DS2 are in `docs/ds2-openings.md`.
""",
    DataSource.SIMULATED: """\
No person was seen: simulated beats are simpler than those of any ECG, and easier to classify. The
full EC57 report (noise, strips, second lead, reference R-peaks, runs, R-peak places, errors) is
written by `ecg evaluate`. This classifier was never tried on DS2.
""",
}


def write_model_card(
    provenance: Provenance,
    metrics: Mapping[str, Any],
    by_record: Mapping[str, BeatCounts],
    config: ClassifierConfig,
) -> str:
    """Write the card as Markdown."""
    rows = "\n".join(
        f"| {name} | {c.v_beats} | {_percent(c.v_sensitivity)} | {_percent(c.v_predictivity)} | "
        f"{c.v_false} | {_percent(c.qrs_sensitivity)} | {_percent(c.qrs_predictivity)} |"
        for name, c in sorted(by_record.items())
    )
    data = provenance.data_source
    rules = "RuleGuard rules" if config.rule_guard.in_force else "no RuleGuard rules"
    n_trials = metrics["n_trials"]
    recipe = (
        "The recipe is the known one, which was chosen on DS1 before; "
        if n_trials == 1
        else f"The recipe was chosen among {n_trials} trials on the same subjects, and "
    )
    interval = f"{metrics['oof_v_f1_low']:.3f} to {metrics['oof_v_f1_high']:.3f}"
    return f"""# Model card: ECG beat classifier

Research software. Not a medical device, not for diagnosis.

## Model

A one-dimensional CNN of seven convolutions on the difference between a beat and the template of
the patient's own conducted beats, joined by RR and shape features; a vote among beats of one shape;
calibrated by Platt scaling; a threshold of {config.threshold:.4f}; {rules}. A second output says
how likely a detection is a beat; where that is doubtful, it has no class. Three and more V beats in
a row are a run when their mean probability is {config.run_threshold:.2f} or more, a limit chosen
out of fold by the F0.5 of runs, with at most one false run in ten hours of each database as far as
a limit reaches that. One lead is analysed; a second one, if there is one, is used in the
classification. Training data: {data}; a few simulated patients with runs of ventricular beats, or a
fast conducted rhythm, are always among them, and noise and movement are simulated.

- made: {provenance.created_at}, by MLflow run `{provenance.run_id}`
- code: commit `{provenance.git_commit}`
- dataset version: `{provenance.dataset_version}`, seed {provenance.seed}
- source: {provenance.source}

## Intended use

Beat-by-beat detection of ventricular ectopic beats (PVC) in one-lead ECG of adults, for research
and education, and for trying out the platform. Strips of 10 s or longer, 100 to 1000 Hz.

**Not for**: diagnosis, monitoring or any decision about a person; paced rhythms; ventricular
flutter or fibrillation; infants; leads very unlike MLII.

## Data

{_DATA_TEXT[data]}

Beats are those of our own R-peak detector, matched to the annotations within 150 ms. F and Q
beats are left out of training. Folds are by subject.

## Figures: development records, out of fold, end to end

Scored as EC57 and `bxb` do, whole records, own R-peaks, F and Q called V not counted; "strict"
counts them as false. {recipe}calibration, thresholds, limits and
rules were chosen on these same predictions, so the figures are a little optimistic; so is the
network that judges candidate R-peaks, which was fitted to records of LUDB, of the
Supraventricular database and of {_DETECTOR_TEXT[data]}.
Intervals: 95 %, bootstrap over subjects.

| Figure | Value |
|---|---|
| V-F1 | {metrics["oof_v_f1"]:.4f} ({interval}) |
| V-F1, strict | {metrics["oof_v_f1_strict"]:.4f} |
| VEB Se | {_percent(metrics["oof_v_se"])} |
| VEB +P | {_percent(metrics["oof_v_ppv"])} |
| VEB FPR | {_percent(metrics["oof_v_fpr"])} |
| accuracy N/V | {_percent(metrics["oof_accuracy"])} |
| V-F1 after the first 5 min | {metrics["oof_v_f1_after_5min"]:.4f} |
| V-F1, 10 s strips | {metrics["oof_strips_10s_v_f1"]:.4f} |
| V-F1 without RuleGuard | {metrics["oof_v_f1_network"]:.4f} |
| QRS Se | {_percent(metrics["oof_qrs_se"])} |
| QRS +P | {_percent(metrics["oof_qrs_ppv"])} |
| expected calibration error | {metrics["oof_ece"]:.4f} |
| time of the network, one core | {metrics["microseconds_per_beat"]:.0f} us a beat |

## Each record

| Record | V beats | Se % | +P % | false V | QRS Se % | QRS +P % |
|---|---|---|---|---|---|---|
{rows}
{_describe_seeds(metrics)}
## Limits

{_LIMITS_TEXT[data]}"""


def _describe_seeds(metrics: Mapping[str, Any]) -> str:
    f1 = [one["oof_v_f1"] for one in metrics.get("seeds", [])]
    if len(f1) < 2:
        return ""
    return (
        f"\n## Seeds\n\nV-F1 of the recipe with {len(f1)} seeds: mean {mean(f1):.4f}, standard "
        f"deviation {stdev(f1):.4f}, {min(f1):.4f} to {max(f1):.4f}. This is the first of them, "
        "not the best.\n"
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if share == share else "-"  # noqa: PLR0124  NaN is not itself
