"""An evaluation from records to document and page, on simulated patients with real names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecg_lib.classifier.bundle import Bundle, DataSource
from ecg_lib.classifier.rule_guard import CATALOGUE, IN_FORCE
from ecg_lib.errors import BundleError, ConfigurationError
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.evaluation.report.conditions import EvaluationError
from ecg_lib.evaluation.report.figures import conditions_in_order
from ecg_lib.evaluation.report.page import write_page
from ecg_lib.evaluation.report.record_scores import Extent
from ecg_lib.evaluation.report.scoring import Part
from ecg_lib.evaluation.report.summary import SCHEMA, _describe_bundle
from ecg_lib.operations.settings import Settings
from ecg_lib.records.annotations import DS2
from ecg_lib.records.noise import baseline_wander, muscle_noise
from ecg_lib.records.record import Record, write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from flows.data.databases import MITDB
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    hash_files,
    make_version,
    save_version,
)
from flows.evaluation import ds2_opening as opening
from flows.evaluation.ec57_evaluation import (
    Evaluation,
    evaluate,
    evaluate_development,
    find_dataset,
    report_path,
    summarize_headline,
    write_evaluation,
)

DURATION_S = 450.0  # five minutes to learn, two noisy, half a minute clean
FS = 360.0
pytestmark = pytest.mark.timeout(900)  # the fixtures take half a minute, on a busy machine longer
DEVELOPMENT = {"101": 0, "106": 1, "201": 0}
OTHERS = ("208", "223")  # a version has five subjects at least


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Where records and noise are: simulated, under the names of those of MIT-BIH and NSTDB."""
    home = tmp_path_factory.mktemp("evaluation")
    for number, name in enumerate([*DEVELOPMENT, *OTHERS, "107", "100", "202"]):
        patient = draw_patient(40 + number)
        record = simulate_record(name, patient=patient, duration_s=DURATION_S, seed=number)
        write_wfdb(record, home / "records")
    rng = np.random.default_rng(0)
    for name, make in (("bw", baseline_wander), ("ma", muscle_noise)):
        noise = make(round(DURATION_S * FS), fs=FS, rms_mv=0.3, rng=rng)
        signals = np.stack([noise, np.zeros_like(noise)], axis=1).astype(np.float32)
        write_wfdb(
            Record(name=name, fs=FS, leads=("noise1", "noise2"), signals_mv=signals), home / "noise"
        )
    return Settings(home=home, nstdb_dir=home / "noise")


@pytest.fixture(scope="module")
def version(places: Settings) -> DatasetVersion:
    directory = places.home / "records"
    records = [
        PreparedRecord(
            name=name,
            role=MITDB.roles[name],
            files=hash_files(directory, MITDB.files_of(name)),
            prepared="",
            duration_s=DURATION_S,
            lead="MLII",
            annotated={"N": 400, "S": 0, "V": 20, "F": 0, "Q": 0},
            detected=420,
            unreadable_s=0.0,
        )
        for name in [*DEVELOPMENT, *OTHERS, "107", "100", "202"]
    ]
    whole = make_version(
        data_source=DataSource.MITDB, source_directory=directory, records=records, broken=()
    )
    return replace(whole, records=tuple(r for r in whole.records if r.name not in OTHERS))


@pytest.fixture(scope="module")
def two(version: DatasetVersion) -> DatasetVersion:
    """Two development records, of a fold each: enough where figures are not the point."""
    return replace(version, records=tuple(r for r in version.records if r.name in {"101", "106"}))


@pytest.fixture(scope="module")
def bundle(make_toy_bundle: Callable[..., Bundle]) -> Bundle:
    return make_toy_bundle("evaluated", folds=DEVELOPMENT, data_source=DataSource.MITDB)


@pytest.fixture(scope="module")
def out_of_fold(bundle: Bundle, version: DatasetVersion, places: Settings) -> Evaluation:
    return evaluate_development(bundle, version, extent=Extent.FULL, settings=places)


@pytest.fixture(scope="module")
def opened(bundle: Bundle, version: DatasetVersion, places: Settings) -> Evaluation:
    return opening.open_ds2(bundle, version, reason="a test | of it", settings=places)


def test_the_layout_is_what_is_documented(out_of_fold: Evaluation) -> None:
    document = out_of_fold.document
    assert document["schema"] == SCHEMA
    assert set(document) == {
        "schema", "title", "kind", "reason", "data", "made_at", "seconds", "extent",
        "code_commit", "bundle", "method", "records", "conditions", "beat_table", "runs",
        "r_peaks", "r_peaks_by_lead", "databases", "selection", "reliability", "rule_guard",
        "rule_catalogue", "seeds", "errors", "missing",
    }  # fmt: skip
    own = document["conditions"]["own_r_peaks"]
    assert set(own) == {"label", "parts", "without_shared_subject"}
    assert set(own["parts"]["whole"]) == {"figures", "counts", "by_record", "alarms"}
    assert set(own["parts"]["whole"]["figures"]["v_f1"]) == {
        "gross", "low", "high", "average", "leave_one_out",
    }  # fmt: skip
    documented = (Path(__file__).parents[3] / "docs" / "evaluation.md").read_text()
    assert SCHEMA in documented
    for key in document:
        assert f"`{key}`" in documented


def test_a_figure_of_the_bundle_that_nothing_defines_is_null(toy_bundle: Bundle) -> None:
    figures = {"oof_v_f1": 0.9, "oof_v_f1_after_5min": float("nan")}  # of patients of a minute
    described = _describe_bundle(replace(toy_bundle, metrics=figures))
    assert described["out_of_fold"] == {"oof_v_f1": 0.9, "oof_v_f1_after_5min": None}


def test_every_condition_is_there_in_the_parts_that_are_scored(out_of_fold: Evaluation) -> None:
    conditions = out_of_fold.document["conditions"]
    assert list(conditions) == [name for name, _ in conditions_in_order()]
    for name, condition in conditions.items():
        expected = {"whole", "after_5_min"}
        if name.startswith("strips"):
            expected = {"whole"}
        elif name.startswith("noise"):
            expected = {"noisy_minutes", "after_5_min"}
        assert set(condition["parts"]) == expected
        assert all(set(p["by_record"]) == set(DEVELOPMENT) for p in condition["parts"].values())


def test_the_figures_are_those_of_the_counts(out_of_fold: Evaluation) -> None:
    for condition in out_of_fold.document["conditions"].values():
        for part in condition["parts"].values():
            total = sum((BeatCounts(**c) for c in part["by_record"].values()), BeatCounts())
            assert total == BeatCounts(**part["counts"])
            figure = part["figures"]["v_f1"]
            assert figure["gross"] == pytest.approx(total.v_f1, abs=1e-6)
            assert figure["low"] <= figure["gross"] <= figure["high"]
            assert figure["leave_one_out"]["low"] <= figure["leave_one_out"]["high"]


def test_the_toy_classifier_finds_the_vs_of_the_simulator(out_of_fold: Evaluation) -> None:
    """It is meant to, so a report that said otherwise would be wrong."""
    conditions = out_of_fold.document["conditions"]
    clean = conditions["own_r_peaks"]["parts"]["whole"]
    assert clean["figures"]["v_f1"]["gross"] > 0.8
    assert clean["figures"]["qrs_sensitivity"]["gross"] > 0.99
    told = conditions["reference_r_peaks"]["parts"]["whole"]["counts"]
    assert told["found"] == told["beats"]
    assert told["extra"] == 0


def test_noise_is_in_the_noisy_minutes_and_the_more_the_worse(out_of_fold: Evaluation) -> None:
    conditions = out_of_fold.document["conditions"]
    noisy = {
        snr_db: conditions[f"noise_ma_{snr_db}_db"]["parts"]["noisy_minutes"] for snr_db in (24, 0)
    }
    after = conditions["own_r_peaks"]["parts"]["after_5_min"]["counts"]["beats"]
    # Two of the two and a half minutes after the fifth are noisy.
    assert noisy[24]["counts"]["beats"] == pytest.approx(after * 4 / 5, rel=0.1)
    assert noisy[0]["figures"]["v_f1"]["gross"] < noisy[24]["figures"]["v_f1"]["gross"]


def test_strips_leave_out_no_beat(out_of_fold: Evaluation) -> None:
    conditions = out_of_fold.document["conditions"]
    whole = conditions["own_r_peaks"]["parts"]["whole"]["counts"]
    for strip_s in (10, 30):  # both divide the record
        strips = conditions[f"strips_{strip_s}_s"]["parts"]["whole"]["counts"]
        assert strips["beats"] == whole["beats"]
    # Of a record of 7.5 min one strip of 5 min is scored.
    five_minutes = conditions["strips_300_s"]["parts"]["whole"]["counts"]["beats"]
    assert five_minutes == pytest.approx(whole["beats"] * 2 / 3, rel=0.1)


def test_each_subject_is_judged_by_the_network_of_its_fold(
    two: DatasetVersion, places: Settings, make_toy_bundle: Callable[..., Bundle]
) -> None:
    """The network of fold 1 calls nothing V: the records of fold 1, and no other, have none."""
    bundle = make_toy_bundle("folds", folds=DEVELOPMENT, data_source=DataSource.MITDB, blind_fold=1)
    found = evaluate_development(bundle, two, extent=Extent.QUICK, settings=places)
    by_record = found.document["conditions"]["own_r_peaks"]["parts"]["whole"]["by_record"]
    for name, fold in (("101", 0), ("106", 1)):
        assert found.document["records"][name]["fold"] == fold
        called_v = by_record[name]["v_true"] + by_record[name]["v_false"]
        assert (called_v > 0) == (fold == 0), name


def test_the_beat_table_sums_to_the_counts(out_of_fold: Evaluation) -> None:
    document = out_of_fold.document
    table = np.array(document["beat_table"]["whole"])
    counts = document["conditions"]["own_r_peaks"]["parts"]["whole"]["counts"]
    rows = dict(zip(document["beat_table"]["rows"], table, strict=True))
    assert rows["V"].tolist()[1] == counts["v_true"]
    assert rows["V"].sum() == counts["v_beats"]
    assert rows["O"].sum() == counts["extra"]
    assert table[:5, 3].sum() == counts["beats"] - counts["found"]


def test_r_peaks_of_paced_records_stand_beside(out_of_fold: Evaluation) -> None:
    groups = out_of_fold.document["r_peaks"]["groups"]
    assert groups["evaluated records"]["records"] == sorted(DEVELOPMENT)
    assert groups["DS1 and paced"]["records"] == sorted([*DEVELOPMENT, "107"])
    assert groups["paced"]["records"] == ["107"]
    assert (
        "107"
        not in out_of_fold.document["conditions"]["own_r_peaks"]["parts"]["whole"]["by_record"]
    )


def test_rules_are_judged_in_every_condition(out_of_fold: Evaluation) -> None:
    rules = out_of_fold.document["rule_guard"]
    assert set(rules) == set(out_of_fold.document["conditions"])
    own = rules["own_r_peaks"]
    whole = out_of_fold.document["conditions"]["own_r_peaks"]["parts"]["whole"]["figures"]
    assert own["with"]["v_f1"] == whole["v_f1"]["gross"]
    assert own["difference"]["v_f1"] == pytest.approx(
        own["with"]["v_f1"] - own["without"]["v_f1"], abs=2e-6
    )


def test_each_rule_is_judged_alone_but_never_on_an_opening(
    out_of_fold: Evaluation, opened: Evaluation
) -> None:
    catalogue = out_of_fold.document["rule_catalogue"]
    assert list(catalogue) == [rule.value for rule in CATALOGUE]
    assert opened.document["rule_catalogue"] is None
    assert "Each rule of the catalogue" not in write_page(opened.document)
    page = write_page(out_of_fold.document)
    assert all(f"<td>{rule.value}</td>" in page for rule in CATALOGUE)
    for rule, judged in catalogue.items():
        assert set(judged["conditions"]) == set(out_of_fold.document["conditions"])
        assert judged["in_force"] == (rule in IN_FORCE)
    # While one rule is in force, to be alone is to be all.
    assert len(IN_FORCE) == 1
    for name, condition in out_of_fold.document["rule_guard"].items():
        alone = catalogue[IN_FORCE[0].value]["conditions"][name]
        assert alone["difference"] == condition["difference"]["v_f1"]
        fired = condition["rules"].get(IN_FORCE[0].value, {"fired": 0, "right": 0})
        assert (alone["fired"], alone["right"]) == (fired["fired"], fired["right"])


def test_reliability_holds_every_scored_beat_once(out_of_fold: Evaluation) -> None:
    reliability = out_of_fold.document["reliability"]
    assert sum(one["beats"] for one in reliability["bins"]) == reliability["beats"]
    assert 0 <= reliability["expected_calibration_error"] <= 1


def test_the_figures_without_the_man_of_two_records_leave_him_out(
    out_of_fold: Evaluation, opened: Evaluation
) -> None:
    for evaluation, record in ((out_of_fold, "201"), (opened, "202")):
        own = evaluation.document["conditions"]["own_r_peaks"]
        alone = own["without_shared_subject"]
        assert alone["records"] == [record]
        whole = own["parts"]["whole"]
        assert (
            alone["parts"]["whole"]["counts"]["beats"]
            == whole["counts"]["beats"] - whole["by_record"][record]["beats"]
        )


def test_an_opening_is_the_same_report_of_the_network_that_is_served(opened: Evaluation) -> None:
    document = opened.document
    assert document["kind"] == "opening"
    assert document["reason"] == "a test | of it"
    assert set(document["records"]) == {"100", "202"}
    assert all(record["fold"] is None for record in document["records"].values())
    assert list(document["conditions"]) == [name for name, _ in conditions_in_order()]
    groups = document["r_peaks"]["groups"]
    assert groups["all"]["records"] == sorted([*DEVELOPMENT, "107", "100", "202"])
    assert groups["DS1 and paced"]["records"] == sorted([*DEVELOPMENT, "107"])


def test_an_opening_leaves_a_line_and_a_report_without_ecg(
    opened: Evaluation, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    later = Evaluation({**opened.document, "made_at": "2100-01-02T03:04:05+00:00"}, ())
    written = opening.note_opening(tmp_path, opened, commit="a" * 40)
    second = opening.note_opening(tmp_path, later, commit="a" * 40)
    assert second.json.name.startswith("ds2-2100-01-02-0304-")
    with pytest.raises(EvaluationError, match="must not replace ds2-2100-01-02-0304-"):
        opening.note_opening(tmp_path, later, commit="a" * 40)
    lines = (tmp_path / opening.OPENINGS).read_text().splitlines()
    rows = [line for line in lines if line.startswith("| 2")]
    assert len(rows) == 2
    header = next(line for line in lines if line.startswith("| Date"))
    assert all(row.count("|") == header.count("|") for row in rows)
    assert "a test / of it" in rows[0]
    assert written.html.name in rows[0]
    assert second.html.name in rows[1]
    f1 = opened.document["conditions"]["own_r_peaks"]["parts"]["whole"]["figures"]["v_f1"]["gross"]
    assert f"{f1:.4f}" in rows[0]
    document = json.loads(written.json.read_text())
    assert document["errors"] == []
    assert document["conditions"] == json.loads(json.dumps(opened.document["conditions"]))
    assert 'class="strip"' not in written.html.read_text()
    assert written.json.stat().st_size < 400_000
    assert written.html.stat().st_size < 200_000


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reason": "  "}, "must have a --reason"),
        ({"commit": "abc+changes"}, "commit without changes"),
        ({"commit": "no git repository"}, "commit without changes"),
        ({"settings": Settings(nstdb_dir=None)}, "ECG_NSTDB_DIR must be set"),
        ({}, f"these are not: {', '.join(sorted(set(DS2) - {'100', '202'})[:2])}"),
    ],
)
def test_an_opening_that_would_not_be_whole_is_refused(
    bundle: Bundle,
    version: DatasetVersion,
    places: Settings,
    change: dict[str, Any],
    words: str,
) -> None:
    arguments: dict[str, Any] = {"reason": "why not", "commit": "a" * 40, "settings": places}
    with pytest.raises(EvaluationError, match=words):
        opening.check_opening(bundle, version, **(arguments | change))


def test_an_opening_of_a_classifier_of_simulated_patients_is_refused(
    toy_bundle: Bundle, version: DatasetVersion, places: Settings
) -> None:
    with pytest.raises(EvaluationError, match="trained on real records"):
        opening.check_opening(
            toy_bundle, version, reason="why not", commit="a" * 40, settings=places
        )


def test_a_whole_dataset_may_be_opened(
    bundle: Bundle, version: DatasetVersion, places: Settings
) -> None:
    one = next(record for record in version.records if record.name == "100")
    every = replace(version, records=tuple(replace(one, name=name) for name in DS2))
    opening.check_opening(bundle, every, reason="why not", commit="a" * 40, settings=places)


def test_ds2_is_not_scored_but_by_an_opening(
    bundle: Bundle, version: DatasetVersion, places: Settings
) -> None:
    one = next(record for record in version.records if record.name == "100")
    other = next(record for record in version.records if record.name == "101")
    for record, beside in ((one, other), (other, one)):
        with pytest.raises(EvaluationError, match="opening alone, got 100"):
            evaluate(
                bundle,
                version,
                records=[(record, None)],
                others=[beside],
                extent=Extent.QUICK,
                settings=places,
                header={"kind": "out_of_fold"},
            )


def test_a_subject_without_a_fold_is_refused(
    version: DatasetVersion, places: Settings, make_toy_bundle: Callable[..., Bundle]
) -> None:
    other = make_toy_bundle("other", data_source=DataSource.MITDB)
    with pytest.raises(BundleError, match="have a fold for subject"):
        evaluate_development(other, version, extent=Extent.QUICK, settings=places)


def test_simulated_and_real_do_not_judge_each_other(
    toy_bundle: Bundle, version: DatasetVersion, places: Settings
) -> None:
    with pytest.raises(EvaluationError, match="bundle of simulated data"):
        evaluate_development(toy_bundle, version, extent=Extent.QUICK, settings=places)


def test_noise_that_is_not_there_is_an_error_and_none_is_said(
    bundle: Bundle, version: DatasetVersion, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match="bw, ma is not in"):
        evaluate_development(
            bundle, version, extent=Extent.FULL, settings=Settings(nstdb_dir=tmp_path)
        )


def test_a_bundle_of_elsewhere_is_judged_on_the_dataset_that_is_here(
    bundle: Bundle, version: DatasetVersion, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path)
    save_version(version, settings.datasets_dir)
    assert bundle.provenance.dataset_version == "toy"
    assert find_dataset(bundle, settings) == version


def test_the_report_is_written_as_data_and_as_a_page(
    out_of_fold: Evaluation, bundle: Bundle, tmp_path: Path
) -> None:
    written = report_path(tmp_path, bundle, "out-of-fold-full")
    write_evaluation(out_of_fold, written)
    assert json.loads(written.json.read_text())["schema"] == SCHEMA
    headline = summarize_headline(out_of_fold.document)
    assert headline["V-F1"][:6] in written.html.read_text()


def test_the_page_needs_nothing_from_elsewhere(out_of_fold: Evaluation) -> None:
    page = write_page(out_of_fold.document, out_of_fold.errors)
    assert "<script" not in page
    assert not re.search(r"""(src|href)=["'](?!#|data:)""", page)
    assert "url(" not in page
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    strips = page.count('class="strip"')
    assert 0 < strips <= len(out_of_fold.errors)
    assert 'class="strip"' not in write_page(out_of_fold.document)


def test_what_comes_from_outside_is_escaped(opened: Evaluation) -> None:
    page = write_page({**opened.document, "reason": "<img src=x>"})
    assert "<img" not in page
    assert "&lt;img src=x&gt;" in page


def test_a_quick_page_says_what_is_not_in_it(
    bundle: Bundle, two: DatasetVersion, places: Settings
) -> None:
    quick = evaluate_development(bundle, two, extent=Extent.QUICK, settings=places)
    assert set(quick.document["conditions"]) == {
        "own_r_peaks", "reference_r_peaks", "strips_10_s",
    }  # fmt: skip
    page = write_page(quick.document)
    assert "Not in this report" in page
    assert 'id="noise"' not in page
    assert Part.NOISY_MINUTES not in page


def test_seeds_are_summed_up_with_their_spread(
    out_of_fold: Evaluation, bundle: Bundle, two: DatasetVersion, places: Settings
) -> None:
    assert out_of_fold.document["seeds"] is None
    assert any("seeds" in line for line in out_of_fold.document["missing"])
    seeds = [{"seed": seed, "oof_v_f1": f1} for seed, f1 in ((0, 0.90), (1, 0.94), (2, 0.92))]
    several = replace(bundle, metrics={**bundle.metrics, "seeds": seeds})
    document = evaluate_development(several, two, extent=Extent.QUICK, settings=places).document
    assert document["seeds"]["seeds"] == [0, 1, 2]
    assert document["seeds"]["figures"]["oof_v_f1"] == {
        "values": [0.90, 0.94, 0.92], "mean": 0.92, "standard_deviation": 0.02,
        "low": 0.90, "high": 0.94,
    }  # fmt: skip
    assert "Standard deviation" in write_page(document)
