"""The map of the code is current, and the pages show the figures of the evaluation."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

from ecg_lib.records.limits import MAX_DURATION_S

ROOT = Path(__file__).parents[2]
OUT_OF_FOLD = ROOT / "docs" / "evaluation" / "ds1-2026-12-01-5f460b6717e6.json"
REPORT = ROOT / "docs" / "evaluation" / "ds2-2026-11-30-1618-5f460b6717e6.json"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return dict(json.loads(REPORT.read_text(encoding="utf-8")))


def _v_f1(report: dict[str, Any], condition: str, part: str) -> dict[str, float]:
    return dict(report["conditions"][condition]["parts"][part]["figures"]["v_f1"])


def test_the_map_of_the_code_is_current(tmp_path: Path) -> None:
    path = ROOT / "docs" / "tools" / "make_reference.py"
    specification = importlib.util.spec_from_file_location("make_reference", path)
    assert specification is not None
    assert specification.loader is not None
    tool = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(tool)
    tool.write_map(tool.list_modules(ROOT), tmp_path / "code-map.md")
    for name in ("code-map.md", "code-map.svg"):
        kept = (ROOT / "docs" / "explanation" / name).read_text(encoding="utf-8")
        assert kept == (tmp_path / name).read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.parametrize(
    ("row", "condition", "part"),
    [
        ("whole records", "own_r_peaks", "whole"),
        ("strips of 10 s, each alone", "strips_10_s", "whole"),
        ("second lead", "second_lead", "whole"),
        ("two leads", "two_leads", "whole"),
        ("muscle noise, 12 dB", "noise_ma_12_db", "noisy_minutes"),
        ("muscle noise, 0 dB", "noise_ma_0_db", "noisy_minutes"),
    ],
)
def test_readme_shows_the_v_f1_of_the_report(
    report: dict[str, Any], row: str, condition: str, part: str
) -> None:
    found = _v_f1(report, condition, part)
    said = f"| {row} | {found['gross']:.3f} ({found['low']:.3f} to {found['high']:.3f}) |"
    assert said in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "condition", "part"),
    [
        ("end to end, whole records", "own_r_peaks", "whole"),
        ("after the first five minutes", "own_r_peaks", "after_5_min"),
        ("with reference R-peaks", "reference_r_peaks", "whole"),
        ("strips of 10 s, each alone", "strips_10_s", "whole"),
        ("strips of 30 s", "strips_30_s", "whole"),
        ("strips of 5 min", "strips_300_s", "whole"),
        ("second lead", "second_lead", "whole"),
        ("two leads", "two_leads", "whole"),
        *(
            (f"{words} (`{kind}`), {ratio} dB", f"noise_{kind}_{ratio}_db", "noisy_minutes")
            for words, kind in (
                ("muscle noise", "ma"),
                ("baseline wander", "bw"),
                ("simulated movement", "simulated_movement"),
            )
            for ratio in (24, 18, 12, 6, 0)
        ),
    ],
)
def test_the_page_of_figures_shows_the_v_f1_of_the_report(
    report: dict[str, Any], row: str, condition: str, part: str
) -> None:
    found = _v_f1(report, condition, part)
    said = f"| {row} | {found['gross']:.4f} ({found['low']:.3f} to {found['high']:.3f}) |"
    page = ROOT / "docs" / "explanation" / "figures.md"
    assert said in page.read_text(encoding="utf-8")


def test_readme_shows_the_weak_figures_of_the_report(report: dict[str, Any]) -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    out_of_fold = json.loads(OUT_OF_FOLD.read_text(encoding="utf-8"))
    runs, conditions = out_of_fold["runs"], out_of_fold["conditions"]
    short, long, couplet = (
        runs[kind]["sensitivity"] for kind in ("short_run", "long_run", "couplet")
    )
    assert f"Of {short['total']} runs of 3 to 5 V beats in DS1" in text
    assert f"{short['true']} are found whole, of {long['total']} longer ones {long['true']}" in text
    assert f"of {couplet['total']} couplets {couplet['true']};" in text
    alarms = conditions["own_r_peaks"]["parts"]["whole"]["alarms"]
    assert f"runs that are false: {alarms['false_runs']} in {alarms['hours']:.0f} hours" in text
    moved = [
        conditions[f"noise_simulated_movement_{db}_db"]["parts"]["noisy_minutes"]["alarms"]
        for db in (12, 6, 0)
    ]
    false_v = " / ".join(f"{one['false_v_an_hour']:.0f}" for one in moved)
    assert f"movement of 12 / 6 / 0 dB gives {false_v} false V an hour" in text
    average = _v_f1(report, "own_r_peaks", "whole")["average"]
    assert f"mean V-F1 of a record is {average:.2f}," in text


def test_the_spanish_page_shows_the_figures_of_the_report(report: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "es" / "index.md").read_text(encoding="utf-8")
    text = " ".join(page.split()).replace("**", "")
    whole = _v_f1(report, "own_r_peaks", "whole")
    noisy = _v_f1(report, "noise_ma_0_db", "noisy_minutes")
    runs = json.loads(OUT_OF_FOLD.read_text(encoding="utf-8"))["runs"]["short_run"]["sensitivity"]

    def say(value: float, digits: int = 3) -> str:
        return f"{value:.{digits}f}".replace(".", ",")

    low, high = say(whole["low"]), say(whole["high"])
    assert f"{say(whole['gross'])} (intervalo del 95 %: {low} a {high})" in text
    assert f"0 dB baja a {say(noisy['gross'])};" in text
    assert f"la media por registro es {say(whole['average'], 2)}." in text
    assert f"De {runs['total']} salvas de 3 a 5 latidos V en" in text
    assert f"se encuentran enteras {runs['true']}." in text


def test_the_pages_show_the_figures_of_the_benchmark_of_the_service() -> None:
    results = ROOT / "benchmarks" / "results" / "service.json"
    table = [row for row in json.loads(results.read_text())["table"] if row.startswith("|")]
    page = (ROOT / "docs" / "explanation" / "figures.md").read_text(encoding="utf-8")
    assert "\n\n" + "\n".join(table) + "\n\n" in page
    cells = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table)
    rows = {name: figures for name, *figures in cells}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for words, name in (
        ("start to first answer, s", "exec to first 201, s"),
        ("one JSON request, median, ms", "JSON, 1 client, p50, ms"),
        ("requests/s, 8 clients", "throughput, 8 clients, JSON, /s"),
        ("memory of a worker, MiB", "memory (PSS), 1 worker, after 100 requests, MiB"),
    ):
        here, peer, *_, limit = rows[name]
        assert f"| {words} | {here} | {peer} | {limit} |" in readme


def test_the_page_of_live_leads_shows_the_figures_of_its_benchmarks() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "live.json").read_text())
    replay, engine, service = (results[part] for part in ("replay", "engine", "service"))
    text = " ".join((ROOT / "docs" / "how-to" / "live.md").read_text(encoding="utf-8").split())
    assert replay["found"] >= 0.999
    assert abs(replay["v_f1_of_stream"] - replay["v_f1_of_whole"]) <= 0.005
    assert service["leads_a_core"] >= 300
    assert (
        f"of {replay['beats']:,} beats {replay['found']:.2%} are found within a sample and "
        f"{replay['extra']:.2%} are added, {replay['same_class']:.2%} have the same class, and "
        f"V-F1 is {replay['v_f1_of_stream']:.3f} against {replay['v_f1_of_whole']:.3f}."
    ).replace("%", " %") in text
    assert (
        f"{engine['ms_a_lead_second']:.2f} ms of a processor for a second of a lead: "
        f"{engine['ms_of_a_look']:.2f} ms its look, the rest its share of a final block of "
        f"{engine['ms_of_a_block']:.0f} ms. That is {engine['leads_a_core']} leads a core."
    ) in text
    assert (
        f"{service['ms_a_lead_second']:.2f} ms for a second of each of {service['leads']} leads, "
        f"final blocks included: {service['leads_a_core']} leads a core."
    ) in text
    few = results["few_leads"]
    assert (
        f"was reported {few['delay_p50_s']:.2f} s after its R-peak ({few['delay_p99_s']:.2f} s at "
        f"99 %) with {few['leads']} leads, {service['delay_p50_s']:.2f} s "
        f"({service['delay_p99_s']:.2f} s) with {service['leads']}."
    ) in text
    parts = ("engine", "service", "few_leads")
    loads = [round(results[part]["about"]["load_average"][0]) for part in parts]
    assert f"programs made a load of {min(loads)} to {max(loads)} on two cores" in text


@pytest.mark.parametrize("page", ["docs/how-to/recordings.md", "docs/es/inicio-rapido.md"])
def test_the_longest_recording_is_stated_as_it_is_enforced(page: str) -> None:
    days = MAX_DURATION_S / 86_400
    text = (ROOT / page).read_text(encoding="utf-8")
    assert f"Up to {days:.0f} days" in text or f"Hasta {days:.0f} días" in text


def test_readme_fits_a_screen() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_of_the_site_is_in_its_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = set(re.findall(r"- ([\w/-]+\.md)", navigation))
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").glob("**/*.md")
        if "reference/api" not in path.as_posix()
    }
    assert pages - named == set()
