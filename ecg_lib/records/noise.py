"""Mix noise into an ECG at a stated signal-to-noise ratio, and make simple noises.

The ratio is that of the noise stress test (Moody, Muldrow & Mark 1984, Computers in Cardiology
11:381-384) as WFDB's programs ``nst`` and ``sigamp`` define it in their manual (WFDB Applications
Guide, nst(1) and sigamp(1)), so figures compare with published ones. Recorded noise is read
elsewhere; here it is an array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import (
    InvalidSamplingRateError,
    InvalidSignalError,
    NonFiniteSignalError,
    SignalTooShortError,
)

LEARNING_PERIOD_S: Final = 300.0
"""Start of a record that is left to the algorithm, in seconds (EC57, clause 4.2).

A noise stress test leaves it clean (nst(1), standard protocol).
"""

SEGMENT_S: Final = 120.0
"""Length of the noisy and of the clean segments that follow, in seconds (nst(1))."""

_MEASUREMENTS: Final = 300  # sigamp -n: QRS complexes of the signal, seconds of the noise
_TRIMMED_PART: Final = 20  # one twentieth is left out at either end
_QRS_REACH_S: Final = 0.05
_CHUNK_S: Final = 1.0


def mix_at_snr(
    signal_mv: NDArray[np.floating],
    noise_mv: NDArray[np.floating],
    *,
    snr_db: float,
    r_peaks: NDArray[np.int64],
    fs: float,
    gate: NDArray[np.bool_] | None = None,
    noise_adu_per_mv: float | None = None,
) -> NDArray[np.float64]:
    """Add noise to one lead at a signal-to-noise ratio in the sense of ``nst``.

    With the QRS amplitude ``a`` of :func:`measure_qrs_amplitude` and the noise amplitude ``n`` of
    :func:`measure_noise_rms`, the signal power is ``S = a**2 / 8``, the noise power ``N = n**2``,
    and the noise is multiplied by the gain ``g`` that solves ::

        snr_db = 10 * log10(S / (g**2 * N))

    Parameters
    ----------
    signal_mv : ndarray of shape (n_samples,)
        Clean lead in mV.
    noise_mv : ndarray of shape (n_noise,)
        Noise in mV at the same rate, at least a second. Used from its start, and again from its
        start when it is shorter than the signal; what is longer is measured but not used.
    snr_db : float
        Signal-to-noise ratio in dB.
    r_peaks : ndarray of int64, shape (n_beats,)
        Samples of the beats to measure: ``nst`` takes every beat but V, E, r and F.
    fs : float
        Sampling rate of both in Hz.
    gate : ndarray of bool, shape (n_samples,), optional
        True where there is noise, see :func:`nst_gate`; everywhere when left out.
    noise_adu_per_mv : float, optional
        ADC units per mV of the noise record (200 in the MIT-BIH Noise Stress Test Database), to
        have the gain of the program itself, see the notes.

    Returns
    -------
    ndarray of shape (n_samples,)
        The mixture in mV. As in ``nst`` there is no step where noise starts, stops or is used
        again: the noise starts from the level that the lead has, and a clean segment keeps the
        offset that the noise before it ended with.

    Raises
    ------
    NonFiniteSignalError
        If a sample is NaN or infinite.
    InvalidSignalError
        If the signal or the noise is flat, or no beat can be measured.
    SignalTooShortError
        If the noise has less than a second.
    ValueError
        If `snr_db` is not finite, an array is not one-dimensional, or `gate` has another length
        than the signal.

    Notes
    -----
    The program differs from its manual: ``sigamp`` cuts the deviations of the noise down to whole
    ADC units, so that noise of a few units is measured too low (2 to 4 % for the records ``bw``
    and ``ma``, 0.2 to 0.4 dB more noise than asked for). This function follows the manual, and
    with `noise_adu_per_mv` the program. Deviation from both: a beat too near to an end of the
    signal is left out, and does not end the measurement.

    """
    gain = noise_gain(
        signal_mv,
        noise_mv,
        snr_db=snr_db,
        r_peaks=r_peaks,
        fs=fs,
        noise_adu_per_mv=noise_adu_per_mv,
    )
    n_samples = len(signal_mv)
    if gate is not None and gate.shape != (n_samples,):
        raise ValueError(f"gate must have one value a sample, got {gate.shape} for {n_samples}")
    noise = np.resize(np.asarray(noise_mv, dtype=np.float64), n_samples)
    if gate is not None or n_samples > len(noise_mv):
        steps = np.diff(noise, prepend=0.0)
        steps[len(noise_mv) :: len(noise_mv)] = 0.0
        noise = np.cumsum(steps if gate is None else np.where(gate, steps, 0.0))
    return np.asarray(signal_mv + gain * noise, dtype=np.float64)


def noise_gain(
    signal_mv: NDArray[np.floating],
    noise_mv: NDArray[np.floating],
    *,
    snr_db: float,
    r_peaks: NDArray[np.int64],
    fs: float,
    noise_adu_per_mv: float | None = None,
) -> float:
    """Compute the factor that :func:`mix_at_snr` multiplies the noise by; same parameters."""
    if not np.isfinite(snr_db):
        raise ValueError(f"snr_db must be finite, got snr_db={snr_db!r}")
    amplitude_mv = measure_qrs_amplitude(signal_mv, r_peaks=r_peaks, fs=fs)
    rms_mv = measure_noise_rms(noise_mv, fs=fs, adu_per_mv=noise_adu_per_mv)
    if amplitude_mv == 0.0:
        raise InvalidSignalError("the QRS amplitude of the signal must not be zero")
    if rms_mv == 0.0:
        raise InvalidSignalError("the amplitude of the noise must not be zero")
    return float(np.sqrt(amplitude_mv**2 / 8.0) / rms_mv * 10.0 ** (-snr_db / 20.0))


def measure_qrs_amplitude(
    signal_mv: NDArray[np.floating], *, r_peaks: NDArray[np.int64], fs: float
) -> float:
    """Measure the peak-to-peak amplitude of the QRS complexes as ``sigamp -a`` does.

    The range of the samples from 50 ms before to 50 ms after each of the first 300 beats; the
    mean of these without the smallest and the largest twentieth.

    Returns
    -------
    float
        Amplitude in mV.

    Raises
    ------
    InvalidSignalError
        If no beat lies whole in the signal.

    """
    samples = _checked(signal_mv, "signal_mv", fs=fs)
    reach = round(_QRS_REACH_S * fs)
    beats = np.asarray(r_peaks, dtype=np.int64)
    beats = beats[(beats >= reach) & (beats < len(samples) - reach)][:_MEASUREMENTS]
    if len(beats) == 0:
        msg = (
            f"one of r_peaks must lie 50 ms from both ends of the signal, got {len(r_peaks)} beats"
        )
        raise InvalidSignalError(msg)
    complexes = samples[beats[:, None] + np.arange(-reach, reach + 1)]  # (n_beats, 2 reach + 1)
    return _trimmed_mean(np.ptp(complexes, axis=1))


def measure_noise_rms(
    noise_mv: NDArray[np.floating], *, fs: float, adu_per_mv: float | None = None
) -> float:
    """Measure the amplitude of noise as ``sigamp`` does.

    The root mean square about its mean of each of the first 300 whole seconds; the mean of these
    without the smallest and the largest twentieth. Slow noise thus counts for what it moves in a
    second.

    Parameters
    ----------
    noise_mv : ndarray of shape (n_samples,)
        Noise in mV.
    fs : float
        Sampling rate in Hz.
    adu_per_mv : float, optional
        Cut deviations down to whole units of an ADC of this gain, as the program does.

    Returns
    -------
    float
        Amplitude in mV.

    Raises
    ------
    SignalTooShortError
        If there is less than a second.

    """
    samples = _checked(noise_mv, "noise_mv", fs=fs)
    width = round(_CHUNK_S * fs)
    n_chunks = min(len(samples) // width, _MEASUREMENTS)
    if n_chunks == 0:
        msg = f"noise_mv must have at least one second, got {len(samples)} samples at {fs:g} Hz"
        raise SignalTooShortError(msg)
    chunks = samples[: n_chunks * width].reshape(n_chunks, width)  # (n_chunks, one second)
    deviations = chunks - chunks.mean(axis=1, keepdims=True)
    if adu_per_mv is not None:
        # Rounded first, so that what is a whole unit up to the last bit stays one.
        deviations = np.trunc(np.round(deviations * adu_per_mv, 3)) / adu_per_mv
    return _trimmed_mean(np.sqrt(np.mean(deviations**2, axis=1)))


def _trimmed_mean(values: NDArray[np.float64]) -> float:
    cut = len(values) // _TRIMMED_PART
    return float(np.sort(values)[cut : len(values) - cut].mean())


def _checked(values: NDArray[np.floating], name: str, *, fs: float) -> NDArray[np.float64]:
    _check_fs(fs)
    samples = np.asarray(values, dtype=np.float64)
    if samples.ndim != 1:
        raise ValueError(f"{name} must have one dimension, got shape {samples.shape}")
    if not np.isfinite(samples).all():
        raise NonFiniteSignalError(f"every sample of {name} must be finite")
    return samples


def _check_fs(fs: float) -> None:
    if not (fs > 0 and np.isfinite(fs)):
        raise InvalidSamplingRateError(f"fs must be positive and finite, got fs={fs!r}")


def nst_gate(n_samples: int, *, fs: float) -> NDArray[np.bool_]:
    """Tell where the standard protocol of ``nst`` has noise.

    Five minutes clean, then two minutes noisy and two minutes clean in turn.

    Parameters
    ----------
    n_samples : int
        Length of the record.
    fs : float
        Sampling rate in Hz.

    Returns
    -------
    ndarray of bool, shape (n_samples,)
        True in the noisy segments.

    Examples
    --------
    >>> nst_gate(10 * 60, fs=1.0).reshape(10, 60).all(axis=1).tolist()
    [False, False, False, False, False, True, True, False, False, True]

    """
    _check_fs(fs)
    since_s = np.arange(n_samples) / fs - LEARNING_PERIOD_S
    return np.asarray((since_s >= 0) & (since_s % (2 * SEGMENT_S) < SEGMENT_S))


def baseline_wander(
    n_samples: int, *, fs: float, rms_mv: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Make the slow drift that breathing and moving electrodes cause.

    Gaussian noise whose power falls with the fourth power of the frequency above 0.2 Hz, after
    the spectrum of signal 1 of record ``bw`` of the MIT-BIH Noise Stress Test Database.

    Parameters
    ----------
    n_samples : int
        Length.
    fs : float
        Sampling rate in Hz.
    rms_mv : float
        Root mean square of the whole in mV.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of shape (n_samples,)
        Noise in mV, with mean zero.

    """
    return shaped_noise(
        n_samples,
        fs=fs,
        rms=rms_mv,
        rng=rng,
        amplitude_at=lambda hz: 1 / np.sqrt(1 + (hz / 0.2) ** 4),
    )


def muscle_noise(
    n_samples: int, *, fs: float, rms_mv: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Make the noise of muscles near the electrodes, which comes in bursts.

    Gaussian noise of mostly 12 to 45 Hz with a log-normal envelope that changes within a second,
    after the spectrum and the envelope of signal 1 of record ``ma`` of the MIT-BIH Noise Stress
    Test Database (without its baseline wander). Parameters and result are those of
    :func:`baseline_wander`.
    """
    _check_noise(n_samples, fs=fs, rms=rms_mv)
    carrier = shaped_noise(
        n_samples,
        fs=fs,
        rms=1.0,
        rng=rng,
        amplitude_at=lambda hz: (hz / 10) ** 2 / (1 + (hz / 10) ** 2) / np.sqrt(1 + (hz / 45) ** 6),
    )
    level = shaped_noise(
        n_samples,
        fs=fs,
        rms=0.6,
        rng=rng,
        amplitude_at=lambda hz: 1 / np.sqrt(1 + (hz / 0.3) ** 3),
    )
    return _scaled(carrier * np.exp(level), rms_mv)


def mains_hum(
    n_samples: int,
    *,
    fs: float,
    rms_mv: float,
    rng: np.random.Generator,
    mains_hz: float = 50.0,
) -> NDArray[np.float64]:
    """Make the hum of the mains: its fundamental and a faint third harmonic, slowly modulated.

    What lies at or above half the sampling rate is left out, as a recorder's anti-aliasing filter
    does; that can be all of it. Parameters and result are those of :func:`baseline_wander`, and
    `mains_hz` is the frequency of the mains.
    """
    _check_noise(n_samples, fs=fs, rms=rms_mv)
    if not mains_hz > 0:
        raise ValueError(f"mains_hz must be positive, got mains_hz={mains_hz!r}")
    phase = 2 * np.pi * (mains_hz * np.arange(n_samples) / fs + rng.uniform())
    level = shaped_noise(
        n_samples, fs=fs, rms=1.0, rng=rng, amplitude_at=lambda hz: 1 / (1 + (hz / 0.1) ** 2)
    )
    hum = np.zeros(n_samples)
    for multiple, share in ((1, 1.0), (3, 0.2)):
        if multiple * mains_hz < fs / 2:
            hum += share * np.sin(multiple * phase)
    return _scaled(hum * (1 + 0.2 * np.tanh(level)), rms_mv)


def shaped_noise(
    n_samples: int,
    *,
    fs: float,
    rms: float,
    rng: np.random.Generator,
    amplitude_at: Callable[[NDArray[np.float64]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Make Gaussian noise with a spectrum of one's own.

    Parameters
    ----------
    n_samples : int
        Length.
    fs : float
        Sampling rate in Hz.
    rms : float
        Root mean square of the whole, in the unit of the result.
    rng : numpy.random.Generator
    amplitude_at : callable
        Amplitude of the spectrum, in any unit, at an array of frequencies in Hz.

    Returns
    -------
    ndarray of shape (n_samples,)
        Noise with mean zero.

    """
    _check_noise(n_samples, fs=fs, rms=rms)
    # Twice as long as needed, since the end of what the transform makes runs into its start.
    size = find_fast_length(2 * n_samples)
    frequencies = np.asarray(np.fft.rfftfreq(size, 1 / fs), dtype=np.float64)
    spectrum = np.fft.rfft(rng.standard_normal(size)) * amplitude_at(frequencies)
    noise: NDArray[np.float64] = np.fft.irfft(spectrum, size)[:n_samples]
    return _scaled(noise, rms)


def find_fast_length(least: int) -> int:
    """Return the least product of 2, 3 and 5 from `least` on: transforms of that length are fast.

    As ``scipy.fft.next_fast_len`` for real values, whose import takes a service 0.2 s.

    >>> find_fast_length(7)
    8
    """
    found = 1 << (least - 1).bit_length()
    fives = 1
    while fives < found:
        threes = fives
        while threes < found:
            length = threes << max(0, (-(-least // threes) - 1).bit_length())
            found = min(found, length)
            threes *= 3
        fives *= 5
    return found


def _check_noise(n_samples: int, *, fs: float, rms: float) -> None:
    _check_fs(fs)
    if n_samples < 1:
        raise ValueError(f"n_samples must be at least 1, got n_samples={n_samples}")
    if not (rms >= 0 and np.isfinite(rms)):
        raise ValueError(f"the root mean square must be finite and not negative, got {rms!r}")


def _scaled(noise: NDArray[np.float64], rms: float) -> NDArray[np.float64]:
    centred = noise - noise.mean()
    power = float(np.sqrt(np.mean(centred**2)))
    return np.asarray(centred * (rms / power) if power > 0 else centred)
