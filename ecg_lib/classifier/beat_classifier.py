"""The classifier that is served: preprocessing, network, vote, calibration, threshold, RuleGuard.

The network runs in ONNX Runtime; TensorFlow is not imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ecg_lib.classifier.abstention import abstain
from ecg_lib.classifier.bundle import Bundle, ClassifierConfig
from ecg_lib.classifier.lead_fusion import OtherLead, fuse_leads
from ecg_lib.classifier.rule_guard import apply_rules
from ecg_lib.classifier.shape_vote import vote
from ecg_lib.errors import BundleError, UnreadableSignalError
from ecg_lib.signal_path.features import FEATURE_NAMES
from ecg_lib.signal_path.preprocessing import PreparedBeats, prepare_beats
from ecg_lib.signal_path.r_peaks.verifier import BeatVerifier
from ecg_lib.signal_path.readability.quality import Stretch, UnreadableReason
from ecg_lib.signal_path.template import WINDOW_SAMPLES

MIN_READABLE_S: Final = 5.0
"""Seconds of a strip that must be readable for an answer."""

StageObserver = Callable[[str], AbstractContextManager[object]]
"""Gives the context in which a stage of the classification runs."""

_BATCH: Final = 256
"""More beats at a time leave the cache of a core, and are slower."""

_WORDS: Final = {
    UnreadableReason.FLAT: "signal is flat or disconnected",
    UnreadableReason.CLIPPED: "signal is clipped at the limits of the amplifier",
    UnreadableReason.NOISE: "signal is noise in which no ECG can be found",
    UnreadableReason.FLUTTER: "signal is noise or flutter in which no beat can be found",
    UnreadableReason.MISSING: "samples are missing",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassifiedBeats:
    """The beats of one signal with their classes; every array has one row for each R-peak."""

    prepared: PreparedBeats
    probability_v: NDArray[np.float64]
    """Calibrated probability of V; of unreadable beats it means nothing."""
    is_v: NDArray[np.bool_]
    """Class after RuleGuard; False where the beat is not readable, or paced."""
    rule: NDArray[np.str_]
    """The rule that changed the class, or an empty string."""
    threshold: float
    run_threshold: float
    without_others: ClassifiedBeats | None = None
    """The classes by this lead alone, where another lead was used for one."""

    def __len__(self) -> int:
        return len(self.is_v)

    @property
    def r_peaks(self) -> NDArray[np.int64]:
        """Positions in samples of the given signal."""
        return self.prepared.r_peaks

    @property
    def is_readable(self) -> NDArray[np.bool_]:
        """False for detections in an unreadable stretch, which have no class."""
        return self.prepared.is_readable

    @property
    def has_class(self) -> NDArray[np.bool_]:
        """False for unreadable and paced beats, which are neither N nor V."""
        return self.prepared.has_class

    @property
    def is_helped(self) -> bool:
        """True when another lead was used for the class of a beat."""
        return self.without_others is not None

    @property
    def of_one_lead(self) -> ClassifiedBeats:
        """The classes by this lead alone, which monitoring compares with the reference."""
        return self.without_others or self

    @property
    def confidence(self) -> NDArray[np.float64]:
        """Calibrated probability of the class that is reported."""
        return np.where(self.is_v, self.probability_v, 1 - self.probability_v)


class BeatClassifier:
    """A loaded bundle; safe to use from several threads.

    Parameters
    ----------
    network : bytes
        The ONNX graph.
    config : ClassifierConfig
    threads : int
        Threads of the network for one call.
    verifier : BeatVerifier, optional
        The network of the R-peak detector; the committed one when left out.

    Raises
    ------
    BundleError
        If the graph cannot be loaded, or is for other features or outputs than these.

    """

    def __init__(
        self,
        network: bytes,
        *,
        config: ClassifierConfig,
        threads: int = 1,
        verifier: BeatVerifier | None = None,
    ) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Without this, waiting threads burn a core that other requests need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                network, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises bare exceptions of its own
            msg = f"the network cannot be loaded: {error}"
            raise BundleError(msg) from error
        _check_shapes(self._session)
        self.config = config
        self._verifier = verifier

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        *,
        fold: int | None = None,
        threads: int = 1,
        verifier: BeatVerifier | None = None,
    ) -> Self:
        """Load a bundle whose hashes are checked.

        Parameters
        ----------
        bundle : Bundle
        fold : int, optional
            Take the network that was made without the subjects of this fold, to judge them;
            preprocessing, vote, calibration, threshold and rules are those of the bundle.
        threads : int
            Threads of the network for one call.
        verifier : BeatVerifier, optional
            The network of the R-peak detector that has not seen the record to judge.

        Raises
        ------
        BundleError
            If there is no such fold, or the graph cannot be loaded or is for other features.

        """
        network = bundle.network if fold is None else bundle.fold_network(fold)
        return cls(network.read_bytes(), config=bundle.config, threads=threads, verifier=verifier)

    def predict_logits(
        self, windows: NDArray[np.float32], features: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Compute the logits of V and of being a beat, shape ``(n_beats, 2)``.

        Parameters
        ----------
        windows : ndarray of float32, shape (n_beats, 360, 2)
        features : ndarray of float32, shape (n_beats, n_features)

        """
        if len(windows) == 0:
            return np.zeros((0, 2))
        parts = [
            self._session.run(
                None,
                {
                    "windows": windows[start : start + _BATCH],
                    "features": features[start : start + _BATCH],
                },
            )[0]
            for start in range(0, len(windows), _BATCH)
        ]
        return np.concatenate(parts).astype(np.float64)

    def _vote(
        self, prepared: PreparedBeats, logits: NDArray[np.float64] | None = None
    ) -> tuple[PreparedBeats, NDArray[np.float64]]:
        """Compute the logit of V of each beat, and mark what cannot be read.

        Detections that are hardly beats become unreadable first
        (:mod:`ecg_lib.classifier.abstention`); then beats of one shape vote
        (:mod:`ecg_lib.classifier.shape_vote`).
        """
        if logits is None:
            logits = self.predict_logits(prepared.windows, prepared.features)
        read = abstain(prepared, logits[:, 1], config=self.config.abstention)
        voted = vote(
            logits[:, 0],
            read.shapes,
            is_readable=read.is_readable,
            config=self.config.shape_vote,
        )
        return read, voted

    def prepare(
        self,
        signal_mv: NDArray[np.floating],
        *,
        fs: float,
        r_peaks: NDArray[np.int64] | None = None,
        measures_plausibility: bool = True,
    ) -> PreparedBeats:
        """Prepare the beats of one lead with the constants of the bundle.

        Parameters and errors are those of
        :func:`ecg_lib.signal_path.preprocessing.prepare_beats`.
        """
        return prepare_beats(
            signal_mv,
            fs=fs,
            r_peaks=r_peaks,
            config=self.config.preprocessing,
            verifier=self._verifier,
            measures_plausibility=measures_plausibility,
        )

    def classify(
        self,
        signal_mv: NDArray[np.floating],
        *,
        fs: float,
        r_peaks: NDArray[np.int64] | None = None,
        others_mv: Sequence[NDArray[np.floating]] = (),
        apply_rule_guard: bool = True,
        observe: StageObserver = nullcontext,
    ) -> ClassifiedBeats:
        """Find and classify the beats of one lead.

        Parameters
        ----------
        signal_mv : ndarray of shape (n_samples,)
            Samples in mV.
        fs : float
            Sampling rate in Hz, 100 to 1000.
        others_mv : sequence of ndarray of shape (n_samples,)
            Other leads of the same time, to be used in the classification.
        r_peaks : ndarray of int64, optional
            R-peaks to use instead of the detector's.
        apply_rule_guard : bool
            False gives the network's own classes.
        observe : callable
            Called with the name of each stage (``prepare``, ``network``, ``rules``); the stage
            runs inside the context that it gives, which may measure it.

        Returns
        -------
        ClassifiedBeats

        Raises
        ------
        InvalidSamplingRateError, NonFiniteSignalError, SignalTooShortError
            See :func:`ecg_lib.signal_path.preprocessing.prepare_beats`.
        ValueError
            If the leads differ in length.

        """
        lengths = {len(lead_mv) for lead_mv in (signal_mv, *others_mv)}
        if len(lengths) > 1:
            msg = f"all leads must have the same number of samples, got {sorted(lengths)}"
            raise ValueError(msg)
        with observe("prepare"):
            prepared, *others = (
                self.prepare(lead_mv, fs=fs, r_peaks=r_peaks) for lead_mv in (signal_mv, *others_mv)
            )
        return self.classify_prepared(
            prepared, others=others, apply_rule_guard=apply_rule_guard, observe=observe
        )

    def classify_prepared(
        self,
        prepared: PreparedBeats,
        *,
        others: Sequence[PreparedBeats] = (),
        logits: NDArray[np.float64] | None = None,
        apply_rule_guard: bool = True,
        observe: StageObserver = nullcontext,
    ) -> ClassifiedBeats:
        """Classify beats that :func:`ecg_lib.signal_path.preprocessing.prepare_beats` gave.

        `logits` are those of :meth:`predict_logits`, if they are known already. Other leads of the
        same time are used before the calibration, see :mod:`ecg_lib.classifier.lead_fusion`.
        """
        with observe("network"):
            read, voted = self._vote(prepared, logits)
            leads = []
            for other in others:
                of_other, voted_other = self._vote(other)
                leads.append(
                    OtherLead(
                        r_peaks=other.r_peaks,
                        logits=voted_other,
                        is_readable=of_other.has_class,
                    )
                )
        with observe("rules"):
            by_rules = partial(decide, read, config=self.config, apply_rule_guard=apply_rule_guard)
            alone = by_rules(self.config.calibration.probabilities(voted))
            fused = fuse_leads(voted, r_peaks=prepared.r_peaks, others=leads, fs=prepared.fs)
            if not np.count_nonzero(fused.is_helped):
                return alone
            both = by_rules(self.config.calibration.probabilities(fused.logits))
        return replace(both, without_others=alone)


_SHAPES: Final = {"windows": (WINDOW_SAMPLES, 2), "features": (len(FEATURE_NAMES),)}
_N_OUTPUTS: Final = 2


def _check_shapes(session: ort.InferenceSession) -> None:
    """Reject a network of other code, which would fail or mislead at the first beat.

    Raises
    ------
    BundleError

    """
    found = {each.name: tuple(each.shape[1:]) for each in session.get_inputs()}
    outputs = [tuple(each.shape[1:]) for each in session.get_outputs()]
    if found != _SHAPES or outputs != [(_N_OUTPUTS,)]:
        msg = (
            f"the network must take {_SHAPES} and give {[(_N_OUTPUTS,)]} for each beat, "
            f"it takes {found} and gives {outputs}: it was made by other code, "
            "train it again or install the bundle that belongs to this code"
        )
        raise BundleError(msg)


def decide(
    prepared: PreparedBeats,
    probability_v: NDArray[np.float64],
    *,
    config: ClassifierConfig,
    apply_rule_guard: bool = True,
) -> ClassifiedBeats:
    """Turn probabilities into classes, by threshold, RuleGuard and readability."""
    guarded = apply_rules(
        probability_v, prepared.features, threshold=config.threshold, config=config.rule_guard
    )
    if apply_rule_guard:
        is_v, rule = guarded
    else:
        is_v, rule = probability_v >= config.threshold, np.full_like(guarded.rule, "")
    has_class = prepared.has_class
    return ClassifiedBeats(
        prepared=prepared,
        probability_v=probability_v,
        is_v=is_v & has_class,
        rule=np.where(has_class, rule, ""),
        threshold=config.threshold,
        run_threshold=config.run_threshold,
    )


def require_readable(prepared: PreparedBeats, *, min_s: float = MIN_READABLE_S) -> None:
    """Reject a signal with too little readable signal, or without a beat.

    Suspected flutter has no readable beats, but is not rejected: the suspicion is the answer.

    Raises
    ------
    UnreadableSignalError
        With the readable seconds, and the reasons for the others.

    """
    reason = explain_unreadable(
        prepared.unreadable,
        readable_s=prepared.readable_s,
        duration_s=prepared.duration_s,
        has_beats=bool(prepared.is_readable.any()),
        min_s=min_s,
    )
    if reason is not None:
        raise UnreadableSignalError(reason)


def explain_unreadable(
    unreadable: tuple[Stretch, ...],
    *,
    readable_s: float,
    duration_s: float,
    has_beats: bool,
    min_s: float = MIN_READABLE_S,
) -> str | None:
    """Explain why a signal cannot be classified; None when it can.

    Parameters
    ----------
    unreadable : tuple of Stretch
    readable_s, duration_s : float
        Seconds that are not flat, clipped or noise, and all seconds.
    has_beats : bool
        False when no beat can be read.
    min_s : float

    """
    reasons = sorted({stretch.reason for stretch in unreadable})
    if readable_s >= min_s and (has_beats or UnreadableReason.FLUTTER in reasons):
        return None
    why = f" ({', '.join(reasons)})" if reasons else " (no beat was found)"
    words = _WORDS[reasons[0]] if len(reasons) == 1 else "signal cannot be read"
    return (
        f"{words}: at least {min_s:g} s must be readable, "
        f"got {readable_s:.1f} s of {duration_s:.1f} s{why}"
    )
