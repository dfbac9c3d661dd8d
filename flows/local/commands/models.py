"""Commands on models and releases: run flows, roll back, evaluate, send traffic, make keys."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.learning.kept_signals import SignalStore
from ecg_lib.operations.settings import read_settings
from ecg_lib.operations.store.mirror import changing_reports
from flows.doors.addresses import PROJECT_DIR
from flows.local.commands.platform import (
    enter_platform,
    enter_running_platform,
    prepare_home,
)


def run(
    flow: Annotated[str, typer.Argument(help="Name of the flow, such as monitor-drift.")],
    parameter: Annotated[
        list[str] | None, typer.Option("--parameter", "-p", help="name=value, value as JSON.")
    ] = None,
) -> None:
    """Run a flow by its deployment and follow its log."""
    from flows.local.flow_runs import run_and_follow

    parameters = dict(_parse(item) for item in parameter or [])
    enter_running_platform()
    run_and_follow(flow, parameters=parameters, report=typer.echo)


def _parse(item: str) -> tuple[str, object]:
    name, separator, text = item.partition("=")
    if not separator:
        msg = f"a parameter must be name=value, got {item!r}"
        raise typer.BadParameter(msg)
    try:
        return name, json.loads(text)
    except ValueError:
        return name, text


def rollback(
    version: Annotated[
        str | None, typer.Argument(help="As --to; the release before this one when left out.")
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Model version, bento tag or ledger commit.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the ledger.")] = "asked for by hand",
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Also accept a release that was itself rolled back.")
    ] = False,
) -> None:
    """Serve an earlier release again, code and model; needs neither Prefect nor MLflow."""
    from flows.release.integrity.aliases import follow_pending
    from flows.release.transaction import roll_back

    if version is not None and to is not None:
        msg = f"name one release, got {version!r} and --to {to}"
        raise typer.BadParameter(msg)
    settings = enter_platform()
    outcome = roll_back(settings, why=reason, to=to or version, force=force)
    state = "served" if outcome.switch.is_running else "no service runs; it will start with it"
    typer.echo(f"model {outcome.release.model_version}, {outcome.release.bento_tag}: {state}")
    if not follow_pending(settings):
        typer.echo("MLflow cannot be reached: its aliases follow when it can")


def doctor(
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report problems and change nothing.")
    ] = False,
    sign: Annotated[
        str | None,
        typer.Option(
            metavar="TAG",
            help="Sign this release of the ledger as it is in the store now, because you trust it.",
        ),
    ] = None,
) -> None:
    """Check all stores against each other and repair what can be repaired."""
    from flows.release.integrity import doctor as stores

    if sign is not None:
        if dry_run:
            msg = "--sign changes the ledger and the signatures: leave out --dry-run"
            raise typer.BadParameter(msg)
        release = stores.sign(enter_platform(), sign)
        typer.echo(f"{release.bento_tag} of model {release.model_version} is signed")
        return
    settings = enter_platform()
    findings = stores.examine(settings, is_mending=not dry_run)
    for finding in findings:
        state = "mended" if finding.is_mended else "NOT MENDED"
        typer.echo(f"{finding.store:<14} {state:<11} {finding.problem}")
    if not findings:
        typer.echo("all stores agree")
    counts = SignalStore(settings.signals_dir, settings.signal_key_path).count()
    if counts.kept or counts.waiting:
        typer.echo(
            f"signals: {counts.kept} kept and {counts.waiting} waiting for a label, of "
            f"{counts.patients} patients, {counts.size_bytes / 2**20:.1f} MiB"
        )
    if not all(finding.is_mended for finding in findings):
        raise typer.Exit(1)


def ship(
    version: Annotated[str | None, typer.Argument(help="Model version; else the champion.")] = None,
) -> None:
    """Make a model the reference bundle that ships with the software."""
    from flows.doors.registry import Registry
    from flows.release.load_released import REFERENCE, ship

    enter_platform()
    registry = Registry(read_settings())
    found = registry.find(version)
    bundle = ship(registry.fetch_bundle(found.run_id))
    typer.echo(f"model {found.version} is in {REFERENCE}, bundle {bundle.hash[:12]}")


def reproduce(
    recipe: Annotated[
        str | None,
        typer.Option(help="Records to train on: mitdb or all; those of the reference if left out."),
    ] = None,
) -> None:
    """Train the reference bundle again and compare the figures; needs `ecg up`."""
    from flows.local.flow_runs import run_and_follow

    enter_running_platform()
    parameters = {} if recipe is None else {"recipe": recipe}
    run_and_follow("reproduce-reference", parameters=parameters, report=typer.echo)


def releases() -> None:
    """List the release ledger, latest first."""
    from flows.doors.ledger import read_ledger

    history = read_ledger(read_settings().ledger_dir)
    for entry in history.entries:
        f1 = entry.metrics.get("oof_v_f1", float("nan"))
        typer.echo(
            f"{entry.committed_at:%Y-%m-%d %H:%M} {entry.commit[:10]} model "
            f"{entry.release.model_version:<4} {entry.release.bento_tag:<32} "
            f"out-of-fold V-F1 {f1:.4f}  {entry.reason}"
        )
    for name in history.torn:
        typer.secho(f"entry {name} is torn and cannot be read", fg="red", err=True)
    if not history.entries:
        typer.echo("nothing was released yet")


def lineage(
    name: Annotated[
        str,
        typer.Argument(
            help="Prediction, model version, bento tag, ledger commit, bundle, run, dataset "
            "version, record such as 203 or svdb:800, or shipped."
        ),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show what a model comes from and what it made, or which models have seen a record."""
    from flows.release.integrity.lineage import trace
    from flows.release.integrity.lineage_text import to_json, to_lines

    enter_platform()
    found = trace(read_settings(), name)
    if as_json:
        typer.echo(to_json(found))
        return
    for line in to_lines(found):
        typer.echo(line)


def evaluate(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out noise, longer strips and the second lead.")
    ] = False,
    final: Annotated[
        bool, typer.Option("--final", help="Open DS2, and record that in docs/ds2-openings.md.")
    ] = False,
    part: Annotated[
        str | None,
        typer.Option(help="With --final: ds2 [default], or svdb for the 38 test records of svdb."),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="With --final: why the test part is opened.")
    ] = None,
    database: Annotated[
        Path | None, typer.Option(help="Directory of an annotated WFDB database to judge instead.")
    ] = None,
    annotations: Annotated[
        str | None,
        typer.Option(help="With --database: extension of the annotation files [default: atr]."),
    ] = None,
    subjects: Annotated[
        Path | None,
        typer.Option(help="With --database: CSV table with the columns record, subject, part."),
    ] = None,
    lead: Annotated[
        str | None, typer.Option(help="With --database: the one lead to judge; else all.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="With --database: the page; the JSON is next to it.")
    ] = None,
) -> None:
    """Write the EC57 report of the model in use: DS1 out of fold, DS2, or any database."""
    from ecg_lib.evaluation.report.record_scores import Extent
    from flows.doors.ledger import read_git_commit
    from flows.evaluation import ds2_opening as opening
    from flows.evaluation import ec57_evaluation as evaluation
    from flows.evaluation.other_databases import add_databases
    from flows.release.load_released import load_bundle_to_use

    of_opening: dict[str, object] = {"--part": part, "--reason": reason}
    of_database: dict[str, object] = {
        "--annotations": annotations, "--subjects": subjects, "--lead": lead, "--output": output
    }  # fmt: skip
    if database is not None:
        others: dict[str, object] = {"--quick": quick or None, "--final": final or None}
        _reject_options(others | of_opening, "--database is judged as a whole")
        _evaluate_database(database, annotations or "atr", subjects, lead, output)
        return
    _reject_options(of_database, "they are for --database alone")
    if final:
        _reject_options({"--quick": quick or None}, "--final opens the whole test part")
    else:
        _reject_options(of_opening, "they are for --final alone")
    settings, reason = read_settings(), reason or ""
    model, bundle = load_bundle_to_use(settings)
    if part not in {None, opening.TestPart.DS2}:
        _open_svdb(bundle, str(part), reason)
        return
    version = evaluation.find_dataset(bundle, settings)
    typer.echo(f"model {model}, bundle {bundle.hash[:12]}, {version.data_source} data")
    if final:
        commit = read_git_commit()
        opening.check_opening(bundle, version, reason=reason, commit=commit, settings=settings)
        found = opening.open_ds2(
            bundle, version, reason=reason, settings=settings, on_record=_say_progress
        )
        noted = opening.note_opening(PROJECT_DIR, found, commit=commit)
        typer.echo(f"recorded in {opening.OPENINGS}, with {noted.html.name}: commit both")
        written = evaluation.report_path(settings.reports_dir, bundle, "ds2")
    else:
        extent = Extent.QUICK if quick else Extent.FULL
        found = evaluation.evaluate_development(
            bundle, version, extent=extent, settings=settings, on_record=_say_progress
        )
        if extent is Extent.FULL:
            found = add_databases(found, bundle, settings, on_record=_say_progress)
        written = evaluation.report_path(settings.reports_dir, bundle, f"out-of-fold-{extent}")
    with changing_reports(settings):
        evaluation.write_evaluation(found, written)
    _show_report(evaluation.summarize_headline(found.document), found.document, written.html)


def _reject_options(options: Mapping[str, object], why: str) -> None:
    """Reject options that were given and would be passed over."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        msg = f"{why}: leave out {', '.join(given)}"
        raise typer.BadParameter(msg)


def _open_svdb(bundle: Bundle, part: str, reason: str) -> None:
    """Open the test part of svdb and record that."""
    from flows.doors.ledger import read_git_commit
    from flows.evaluation import ds2_opening as opening
    from flows.evaluation.database_evaluation import summarize_database

    if part != opening.TestPart.SVDB:
        msg = f"--part must be one of {', '.join(opening.TestPart)}, got {part!r}"
        raise typer.BadParameter(msg)
    commit = read_git_commit()
    found = opening.open_svdb(
        bundle, reason=reason, commit=commit, settings=read_settings(), on_record=_say_progress
    )
    noted = opening.note_opening(PROJECT_DIR, found, commit=commit, part=opening.TestPart.SVDB)
    typer.echo(f"recorded in {opening.SVDB_OPENINGS}, with {noted.html.name}: commit both")
    _show_report(summarize_database(found.document), found.document, noted.html)


def _evaluate_database(
    directory: Path, annotations: str, subjects: Path | None, lead: str | None, output: Path | None
) -> None:
    """Judge the model in use on a database and write the report."""
    from flows.data.databases import describe_own, find_known
    from flows.evaluation import ec57_evaluation as evaluation
    from flows.evaluation.database_evaluation import evaluate_database, summarize_database
    from flows.release.load_released import load_bundle_to_use

    settings = read_settings()
    place = directory.expanduser().absolute()
    described = describe_own(place, annotations=annotations, subjects=subjects)
    model, bundle = load_bundle_to_use(settings)
    typer.echo(f"model {model}, bundle {bundle.hash[:12]}, {len(described.roles)} records")
    found = evaluate_database(
        bundle,
        described,
        place,
        lead=lead,
        known=find_known(place, described),
        on_record=_say_progress,
    )
    written = evaluation.report_path(settings.reports_dir, bundle, f"database-{place.name}")
    if output is not None:
        written = evaluation.WrittenReport(output.with_suffix(".json"), output.with_suffix(".html"))
    with changing_reports(settings) if output is None else nullcontext():
        evaluation.write_evaluation(found, written)
    _show_report(summarize_database(found.document), found.document, written.html)


def _show_report(figures: Mapping[str, str], document: Mapping[str, Any], page: Path) -> None:
    for name, value in figures.items():
        typer.echo(f"  {name:<24} {value}")
    for line in document["missing"]:
        typer.echo(f"  not included: {line}")
    typer.echo(f"report: {page}")


def _say_progress(done: int, total: int) -> None:
    typer.secho(f"\r  {done} of {total} records", nl=done == total, err=True)


def traffic(
    kind: Annotated[str, typer.Argument(help="replayed, noisy or simulated.")],
    count: Annotated[int, typer.Option(min=1, help="Number of strips.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of strips.")] = 0,
) -> None:
    """Send strips of 10 s to the service, to exercise monitoring."""
    from flows.monitoring.traffic import Traffic, make_strips, send_many

    if kind not in list(Traffic):
        msg = f"traffic must be one of {', '.join(Traffic)}, got {kind!r}"
        raise typer.BadParameter(msg)
    settings = read_settings()
    strips = make_strips(Traffic(kind), count=count, seed=seed, settings=settings)
    for outcome, number in send_many(strips, settings=settings, report=typer.echo).most_common():
        typer.echo(f"{number:>6} {outcome}")


def api_key(
    name: Annotated[
        str, typer.Argument(help="Owner of the key; becomes a comment in the file.")
    ] = "",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="predict, label, operate or metrics; may be repeated [default: predict, label]"
        ),
    ] = None,
) -> None:
    """Make a key for the service, show it once, and add its hash to ECG_API_KEYS_FILE."""
    from ecg_lib.operations.keys.api_keys import (
        add_api_key,
        make_api_key,
        parse_scopes,
        write_key_line,
    )

    settings, key = read_settings(), make_api_key()
    path, scopes = settings.api_keys_file, parse_scopes(scope or ())
    if path is None:
        typer.echo("ECG_API_KEYS_FILE is not set; the line for that file is")
        typer.echo(write_key_line(key, name=name, scopes=scopes))
        typer.echo("and the key, for the header X-API-Key,")
    else:
        os.umask(0o077)
        if path.absolute().is_relative_to(settings.home.absolute()):
            prepare_home(settings)
        add_api_key(path, key, name=name, scopes=scopes)
    typer.echo(key)
