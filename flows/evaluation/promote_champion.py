"""Flow ``promote-champion``: the best candidate becomes challenger, and champion if it passes.

The challenger is judged on the out-of-fold predictions in its bundle, which are scored again here
against the annotations of the dataset. A gain is judged on nested calls: the beats of a fold are
called by a threshold that was chosen on the other folds. The code may have changed so much that the
champion can no longer be read. Then it is judged on the figures in its bundle, which passed the
same check when it was the challenger, and the gate says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, TypeVar

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from ecg_lib.classifier.bundle import Bundle, BundleFigures
from ecg_lib.errors import BundleError, BundleIntegrityError, DatasetError
from ecg_lib.evaluation.beat_scoring import BeatCounts
from ecg_lib.operations.learning.promotion import (
    Challenger,
    Contender,
    NewPeople,
    PromotionDecision,
    PromotionPolicy,
    decide_promotion,
)
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.annotations import Annotations
from flows.data.databases import SITE, Role
from flows.data.dataset_versions import LATEST, DatasetVersion
from flows.data.prepared_views import PreparedViews
from flows.data.shared_versions import open_version
from flows.doors.registry import ELIGIBLE, Alias, ModelVersion, Registry, RegistryError
from flows.doors.ui.artifacts import escape_markdown, show_artifact
from flows.doors.ui.links import as_markdown, link_version
from flows.doors.ui.run_names import name_run
from flows.doors.ui.tracking import describe_version
from flows.release.integrity.aliases import follow_pending

if TYPE_CHECKING:
    from ecg_lib.classifier.beat_classifier import BeatClassifier

_T = TypeVar("_T", bound=Contender)


@flow(name="promote-champion")
def promote_champion(
    dataset_version: str = LATEST,
    min_v_f1: Annotated[float, Field(ge=0, le=1)] = 0.80,
    min_difference: Annotated[float, Field(ge=-1, le=1)] = 0.0,
    min_lower_bound: Annotated[float, Field(ge=-1, le=1)] = -0.005,
    min_new_people: Annotated[int, Field(ge=2)] = 5,
) -> dict[str, Any]:
    """Compare the best candidate with the champion and promote it when all gates are passed.

    Both are compared on their out-of-fold predictions, by paired bootstrap over subjects, with the
    spread of seeds and thresholds in the interval of a gain, and nested thresholds. When a gate
    fails the champion stays, and the candidate is not considered again.

    Args:
        dataset_version: Candidates of this dataset, or of the `latest`.
        min_v_f1: Least out-of-fold V-F1 of the challenger.
        min_difference: The challenger's V-F1 must exceed the champion's by more than this.
        min_lower_bound: Least lower bound of the 90 % interval of that difference.
        min_new_people: Least number of people of the site that were held out, where the challenger
            was trained on labelled traffic: it must gain on them, and lose nothing on the others.

    Returns:
        Whether it was promoted, why, and the version that is champion now.
    """
    settings = read_settings()
    if not follow_pending(settings):
        # The champion may be a model that was rolled back.
        msg = "the aliases must follow what is served before a promotion, MLflow cannot be reached"
        raise RegistryError(msg)
    registry = Registry(settings)
    version = open_version(settings, dataset_version)
    challenger = choose_challenger(registry, version.version, settings)
    champion = registry.get_alias(Alias.CHAMPION)
    if champion is not None and champion.version == challenger.version:
        reason = f"model {champion.version} is champion already, and no candidate is better"
        get_run_logger().info(reason)
        name_run(f"promote: refused, no candidate is better than model {champion.version}")
        return {"is_promoted": False, "version": champion.version, "reasons": [reason]}
    policy = PromotionPolicy(
        min_v_f1=min_v_f1,
        min_difference=min_difference,
        min_lower_bound=min_lower_bound,
        min_new_people=min_new_people,
    )
    prepared = PreparedViews(version=version, datasets_dir=settings.datasets_dir)
    decision = compare(registry, challenger, champion, policy, prepared)
    carry_out(registry, challenger, champion, decision, settings)
    name_run(f"promote model {challenger.version}: {summarize(decision)}")
    now = challenger if decision.is_promoted else champion
    return {
        "is_promoted": decision.is_promoted,
        "version": None if now is None else now.version,
        "reasons": list(decision.reasons),
    }


def summarize(decision: PromotionDecision) -> str:
    """Say in a few words what a decision is, for the name of its run."""
    failed = [gate.name for gate in decision.gates if not gate.is_passed]
    return f"refused, failed {', '.join(failed)}" if failed else "promoted"


@task(cache_policy=NO_CACHE)
def choose_challenger(registry: Registry, dataset_version: str, settings: Settings) -> ModelVersion:
    """Find the best candidate by an MLflow query and register it as challenger."""
    run_id = registry.find_candidate({"ecg.dataset_version": dataset_version})
    bundle = registry.fetch_bundle(run_id)
    version = registry.register(
        run_id,
        tags={
            "bundle_hash": bundle.hash,
            "data_source": bundle.provenance.data_source.value,
            "source": bundle.provenance.source.value,
            "oof_v_f1": f"{bundle.metrics['oof_v_f1']:.4f}",
        },
    )
    describe_version(registry, settings, version.version, run_id=run_id, bundle=bundle)
    champion = registry.get_alias(Alias.CHAMPION)
    if champion is None or champion.version != version.version:
        registry.set_alias(Alias.CHALLENGER, version.version)
    get_run_logger().info(
        "best candidate: run %s, out-of-fold V-F1 %.4f, model %s",
        run_id,
        bundle.metrics["oof_v_f1"],
        version.version,
    )
    return version


@task(cache_policy=NO_CACHE)
def compare(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    policy: PromotionPolicy,
    prepared: PreparedViews,
) -> PromotionDecision:
    """Score the challenger's predictions again, run its golden requests, and judge all gates."""
    bundle = registry.fetch_bundle(challenger.run_id)
    served = None if champion is None else fetch_champion(registry, champion)
    new_people = None
    if champion is not None and SITE.name in prepared.version.databases:
        new_people = score_new_people(bundle, served, prepared.version)
    annotations = prepared.read_development_annotations()
    places: _Places = {"fs": prepared.version.fs, "subjects": prepared.version.subjects}
    counts = count_again(bundle, annotations, **places)
    contender = None
    if champion is not None:
        contender = _champion(champion, registry.fetch_figures(champion.run_id))
        contender = replace(contender, is_nested=served is not None)
        if served is not None:
            nested = count_nested(served, annotations, contender.counts, **places)
            contender = _nest(contender, nested)
    challenger_now = _challenger(challenger, bundle, counts)
    return decide_promotion(
        _nest(challenger_now, count_nested(bundle, annotations, counts, **places)),
        contender,
        new_people=new_people,
        policy=policy,
    )


def _nest(contender: _T, nested: Mapping[str, BeatCounts]) -> _T:
    """Judge a model by nested calls, and note how far these are from its own."""
    gap = _v_f1(contender.counts) - _v_f1(nested)
    return replace(
        contender,
        counts=nested,
        own_counts=contender.counts,
        threshold_gap=gap if math.isfinite(gap) else 0.0,
    )


def _v_f1(counts: Mapping[str, BeatCounts]) -> float:
    from ecg_lib.evaluation.beat_scoring import add_up

    return add_up(list(counts.values())).v_f1


class _Places(TypedDict):
    fs: Mapping[str, float]
    subjects: Mapping[str, str]


def fetch_champion(registry: Registry, champion: ModelVersion) -> Bundle | None:
    """Fetch the bundle of the champion; None when this code cannot read it."""
    try:
        return registry.fetch_bundle(champion.run_id)
    except BundleIntegrityError:
        raise
    except BundleError as error:
        get_run_logger().warning("the champion cannot be run by this code: %s", error)
        return None


def score_new_people(
    challenger: Bundle, champion: Bundle | None, version: DatasetVersion
) -> NewPeople:
    """Run both models on the held-out people of the site, whom neither was trained on."""
    from ecg_lib.classifier.beat_classifier import BeatClassifier

    ours = count_held_out(BeatClassifier.load(challenger), version)
    theirs = None
    if champion is not None:
        theirs = count_held_out(BeatClassifier.load(champion), version)
    return NewPeople(challenger=ours, champion=theirs)


def count_held_out(classifier: BeatClassifier, version: DatasetVersion) -> dict[str, BeatCounts]:
    """Classify the held-out strips of a version from their signals, and score them by person."""
    from ecg_lib.evaluation.beat_scoring import by_subject, score_beats

    counts = {}
    for record in version.records_of(Role.HELD_OUT):
        source = version.read_source(record)
        if source.annotations is None:
            msg = f"the labelled strip {record.name} must have annotations"
            raise DatasetError(msg)
        found = classifier.classify(source.signal_mv(), fs=source.fs)
        counts[record.name] = score_beats(
            source.annotations,
            detections=found.r_peaks,
            is_v=found.is_v,
            is_readable=found.has_class,
            fs=source.fs,
        )
    return by_subject(counts, version.subjects)


def count_again(
    bundle: Bundle,
    annotations: Mapping[str, Annotations],
    *,
    fs: Mapping[str, float],
    subjects: Mapping[str, str],
) -> dict[str, BeatCounts]:
    """Score the out-of-fold predictions in a bundle by subject.

    Raises:
        BundleIntegrityError: If the bundle states other figures.
    """
    from ecg_lib.training.out_of_fold import count_whole_records

    counts = count_whole_records(bundle.read_out_of_fold(), annotations, fs=fs, subjects=subjects)
    stated = _counts(bundle.metrics)
    differing = [name for name in {*counts, *stated} if counts.get(name) != stated.get(name)]
    if differing:
        msg = (
            "the figures of a bundle must be those of its out-of-fold predictions; they differ "
            f"for {', '.join(sorted(differing))}"
        )
        raise BundleIntegrityError(msg)
    return counts


def count_nested(
    bundle: Bundle,
    annotations: Mapping[str, Annotations],
    stated: Mapping[str, BeatCounts],
    *,
    fs: Mapping[str, float],
    subjects: Mapping[str, str],
) -> dict[str, BeatCounts]:
    """Score the predictions of a bundle with a threshold that the person had no part in.

    Args:
        bundle: The model.
        annotations: Annotations of the dataset, by record.
        stated: Counts of the bundle by subject. A subject whose records are not, or not as they
            were, in the dataset keeps these.
        fs: Sampling rate of each record in Hz.
        subjects: The person of each record.
    """
    from ecg_lib.training.cross_validation import call_nested
    from ecg_lib.training.out_of_fold import count_whole_records

    table = bundle.read_out_of_fold()
    known = {name: one for name, one in annotations.items() if subjects.get(name, name) in stated}
    as_stated = count_whole_records(table, known, fs=fs, subjects=subjects)
    is_v = call_nested(table, v_beats={name: one.v_beats for name, one in stated.items()})
    nested = count_whole_records(table, known, fs=fs, subjects=subjects, is_v=is_v)
    return {
        subject: nested[subject] if as_stated.get(subject) == counts else counts
        for subject, counts in stated.items()
    }


def _challenger(
    version: ModelVersion, bundle: Bundle, counts: Mapping[str, BeatCounts]
) -> Challenger:
    from ecg_lib.classifier.beat_classifier import BeatClassifier
    from ecg_lib.classifier.golden import check_golden

    golden = bundle.golden.read_text(encoding="utf-8")
    return Challenger(
        name=_name(version),
        data_source=bundle.provenance.data_source,
        dataset_version=bundle.provenance.dataset_version,
        counts=counts,
        n_folds=len(set(bundle.folds.values())),
        microseconds_per_beat=bundle.metrics["microseconds_per_beat"],
        runtime_difference=bundle.metrics["runtime_difference"],
        seed_f1=_seed_f1(bundle.metrics),
        golden_failures=check_golden(BeatClassifier.load(bundle), golden),
    )


def _champion(version: ModelVersion, figures: BundleFigures) -> Contender:
    return Contender(
        name=_name(version),
        data_source=figures.data_source,
        dataset_version=figures.dataset_version,
        counts=_counts(figures.metrics),
        n_folds=figures.n_folds,
        seed_f1=_seed_f1(figures.metrics),
    )


def _seed_f1(metrics: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(float(one["oof_v_f1"]) for one in metrics.get("seeds", ()))


def _name(version: ModelVersion) -> str:
    return f"model {version.version}"


def _counts(metrics: Mapping[str, Any]) -> dict[str, BeatCounts]:
    return {subject: BeatCounts(**counts) for subject, counts in metrics["by_subject"].items()}


@task(cache_policy=NO_CACHE)
def carry_out(
    registry: Registry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    decision: PromotionDecision,
    settings: Settings,
) -> None:
    """Move the aliases, or record why not: then the champion stays as it is."""
    logger = get_run_logger()
    for gate in decision.gates:
        logger.info("gate %s: %s, %s", gate.name, _word(is_passed=gate.is_passed), gate.reason)
    verdict = "promoted" if decision.is_promoted else "not promoted"
    registry.tag_version(
        challenger.version, {"verdict": verdict, "reasons": "; ".join(decision.reasons)}
    )
    if decision.is_promoted:
        registry.make_champion(challenger.version)
    else:
        registry.log(challenger.run_id, tags={ELIGIBLE: "false"})
        registry.remove_alias(Alias.CHALLENGER)
    against = "no champion yet" if champion is None else f"champion model {champion.version}"
    logger.info("model %s is %s (%s)", challenger.version, verdict, against)
    rows = "\n".join(
        f"| {gate.name} | {_word(is_passed=gate.is_passed)} | {escape_markdown(gate.reason)} |"
        for gate in decision.gates
    )
    links = " · ".join(
        as_markdown(f"Model {one.version} in MLflow", link_version(settings, one.version))
        for one in (challenger, champion)
        if one is not None
    )
    show_artifact(
        key="promotion",
        description=f"Model {challenger.version} is {verdict}",
        markdown=f"# Model {challenger.version} is {verdict}\n\nAgainst {against}.\n\n"
        f"| Gate | | Reason |\n|---|---|---|\n{rows}\n\n{links}\n",
    )


def _word(*, is_passed: bool) -> str:
    return "passed" if is_passed else "FAILED"
