/* Measures over windows of the signal: quiet lines, flutter, spikes, likeness, hum. */
#include "kernels.h"

/* Find where `values` stay below `limit` for more than `least` samples: first sample, and first
 * after it, of each. `gaps` has room for 2 * (n / least + 2); returns how many there are. */
KERNEL i64 ecg_find_quiet(const double *values, i64 n, double limit, double least, i64 *gaps) {
    i64 count = 0, last = -1;
    for (i64 i = 0; i <= n; ++i) {
        if (i < n && !(values[i] >= limit)) continue;
        if (i - last > least) {
            gaps[2 * count] = last + 1;
            gaps[2 * count++ + 1] = i;
        }
        last = i;
    }
    return count;
}

static double mean_of(const double *values, i64 n) {
    double sum = 0;
    for (i64 i = 0; i < n; ++i) sum += values[i];
    return sum / n;
}

/* Constants of flutter, in the order in which Python gives them. */
enum { RATE_HZ, MAX_LEAKAGE, LOWEST_HZ, HIGHEST_HZ, MAX_SLOPE_RATIO, MIN_RANGE_MV };

static int is_flutter(const double *waves, i64 width, const double *limits, double *slopes,
                      double *sizes) {
    const double tiny = 1e-12;
    double steepest = 0;
    for (i64 i = 0; i + 1 < width; ++i) {
        slopes[i] = fabs(waves[i + 1] - waves[i]);
        steepest = larger(steepest, slopes[i]);
    }
    const double mean_slope = mean_of(slopes, width - 1) + tiny;
    /* Twice the limit of the sharper measure below, so that few windows come to it. */
    if (!(steepest < 2 * limits[MAX_SLOPE_RATIO] * mean_slope)) return 0;
    const double mean = mean_of(waves, width);
    double size = 0;
    for (i64 i = 0; i < width; ++i) {
        sizes[i] = waves[i] - mean;
        size += fabs(sizes[i]);
    }
    /* A sine of n samples a period has a mean slope of 2 pi / n times its mean size. */
    const double half_period = M_PI * (size / width + tiny) / mean_slope;
    const double frequency_hz = limits[RATE_HZ] / (2 * half_period);
    if (!(frequency_hz > limits[LOWEST_HZ] && frequency_hz < limits[HIGHEST_HZ])) return 0;
    if (!(span_of(sizes, width) > limits[MIN_RANGE_MV])) return 0;
    const i64 lag = (i64)nearbyint(half_period);
    double left = 0, passed = 0;
    for (i64 i = lag; i < width; ++i) {
        left += fabs(sizes[i] + sizes[i - lag]);
        passed += fabs(sizes[i]) + fabs(sizes[i - lag]);
    }
    if (!(left < limits[MAX_LEAKAGE] * passed)) return 0;
    const double steep = select_rank(slopes, width - 1, (i64)(0.98 * (width - 1)));
    const double usual = select_rank(slopes, width - 1, (width - 1) / 2);
    return steep < limits[MAX_SLOPE_RATIO] * usual;
}

/* Tell which windows look like flutter. The signal is averaged over four samples first; of what is
 * left, windows have `width` samples and are `step` apart. */
KERNEL i64 ecg_find_flutter(const double *x, i64 n, i64 width, i64 step, const double *limits,
                            unsigned char *found) {
    const i64 n_waves = n / 4;
    double *memory = malloc((n_waves + 2 * width) * sizeof(double)), *waves = memory + 2 * width;
    if (!memory) return -1;
    for (i64 i = 0; i < n_waves; ++i) {
        waves[i] = (x[4 * i] + x[4 * i + 1] + x[4 * i + 2] + x[4 * i + 3]) / 4;
    }
    for (i64 start = 0, w = 0; start + width <= n_waves; start += step, ++w) {
        found[w] = is_flutter(waves + start, width, limits, memory, memory + width);
    }
    free(memory);
    return 0;
}

static double bend(const double *x, i64 i) { return fabs((x[i + 1] - 2 * x[i]) + x[i - 1]); }

/* Span after a moving average of nine samples. */
static double smooth_span(const double *x, i64 n) {
    double sums[128], least = 0, greatest = 0;
    sums[0] = x[0];
    for (i64 i = 1; i < n; ++i) sums[i] = sums[i - 1] + x[i];
    for (i64 i = 9; i < n; ++i) {
        const double value = sums[i] - sums[i - 9];
        least = i == 9 ? value : smaller(least, value);
        greatest = i == 9 ? value : larger(greatest, value);
    }
    return (greatest - least) / 9;
}

/* Constants of spikes, in the order in which Python gives them. */
enum { MAX_BURST, MAX_BEFORE, MAX_AFTER, MIN_SLOW, MAX_BASE, MIN_OVER_NOISE };

static int has_spike(const double *x, i64 peak, const double *limits) {
    i64 at = peak - 40;
    double spike = bend(x, at);
    for (i64 i = peak - 39; i < peak + 26; ++i) {
        const double value = bend(x, i);
        if (value > spike) {
            spike = value;
            at = i;
        }
    }
    i64 burst = 0;
    for (i64 i = at - 20; i < at + 21; ++i) burst += bend(x, i) > 0.25 * spike;
    if (burst > limits[MAX_BURST]) return 0;
    for (i64 i = at - 45; i < at - 4; ++i) {
        if (!(bend(x, i) <= limits[MAX_BEFORE] * spike)) return 0;
    }
    for (i64 i = at + 6; i < at + 41; ++i) {
        if (!(bend(x, i) <= limits[MAX_AFTER] * spike)) return 0;
    }
    const double span = span_of(x + peak - 70, 140);
    if (!(smooth_span(x + at + 2, 73) >= limits[MIN_SLOW] * span)) return 0;
    if (!(smooth_span(x + at - 54, 48) <= limits[MAX_BASE] * span)) return 0;
    double bends[121];
    for (i64 i = 0; i < 121; ++i) bends[i] = bend(x, at - 60 + i);
    return spike > limits[MIN_OVER_NOISE] * (median_of(bends, 121) + 1e-9);
}

/* Tell which beats have the spike of a pacemaker; `asked` says which ones to look at, of which
 * none is nearer to an end than 102 samples before and 147 after. */
KERNEL i64 ecg_find_spikes(const double *x, const i64 *peaks, i64 count,
                           const unsigned char *asked, const double *limits,
                           unsigned char *found) {
    for (i64 b = 0; b < count; ++b) found[b] = asked[b] && has_spike(x, peaks[b], limits);
    return 0;
}

/* How much each beat resembles its three likest of the `reach` neighbours on each side. */
KERNEL i64 ecg_likeness_of_beats(const double *x, i64 n, const i64 *peaks, i64 count, i64 half,
                                 i64 reach, double *likeness) {
    const i64 width = 2 * half;
    double *rows = malloc(count * width * sizeof(double));
    double *best = malloc(3 * count * sizeof(double));
    if (!rows || !best) {
        free(rows);
        free(best);
        return -1;
    }
    for (i64 b = 0; b < count; ++b) {
        double *row = rows + b * width, squares = 0;
        for (i64 i = 0; i < width; ++i) row[i] = x[inside(peaks[b] - half + i, n)];
        const double mean = mean_of(row, width);
        for (i64 i = 0; i < width; ++i) {
            row[i] -= mean;
            squares += row[i] * row[i];
        }
        const double norm = larger(sqrt(squares), 1e-12);
        for (i64 i = 0; i < width; ++i) row[i] /= norm;
    }
    for (i64 i = 0; i < 3 * count; ++i) best[i] = -1.0;
    for (i64 distance = 1; distance <= at_most(reach, count - 1); ++distance) {
        for (i64 b = distance; b < count; ++b) {
            const double *one = rows + b * width, *other = one - distance * width;
            double sums[4] = {0, 0, 0, 0};
            for (i64 i = 0; i + 4 <= width; i += 4) {
                for (i64 k = 0; k < 4; ++k) sums[k] += one[i + k] * other[i + k];
            }
            for (i64 i = width / 4 * 4; i < width; ++i) sums[0] += one[i] * other[i];
            const double alike = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            for (i64 side = 0; side < 2; ++side) {
                double *three = best + 3 * (b - side * distance);
                double value = alike;
                for (i64 k = 0; k < 3; ++k) {
                    const double higher = larger(value, three[k]);
                    value = smaller(value, three[k]);
                    three[k] = higher;
                }
            }
        }
    }
    for (i64 b = 0; b < count; ++b) {
        likeness[b] = (best[3 * b] + best[3 * b + 1] + best[3 * b + 2]) / 3;
    }
    free(rows);
    free(best);
    return 0;
}

/* The steepest deflection from each beat to the next, outside `clear` samples around beats; 0 for
 * none. `between` has one value less than there are beats. */
KERNEL i64 ecg_max_between(const double *energy, const i64 *peaks, i64 count, i64 clear,
                           double *between) {
    for (i64 b = 0; b + 1 < count; ++b) {
        const i64 first = peaks[b] + clear;
        between[b] = greatest_value(energy + first, peaks[b + 1] - clear - first, 0);
    }
    return 0;
}

/* Cut parts of a signal, less their means, and weight them by a window of their length. */
KERNEL i64 ecg_cut_parts(const double *x, const i64 *starts, i64 count, const double *window,
                         i64 length, double *parts) {
    for (i64 k = 0; k < count; ++k) {
        const double *from = x + starts[k], mean = mean_of(from, length);
        for (i64 i = 0; i < length; ++i) parts[k * length + i] = (from[i] - mean) * window[i];
    }
    return 0;
}

/* The median power of each bin from `first` on; `column` has room for `n_spectra`. */
static void measure_power(const double *spectra, i64 n_spectra, i64 n_bins, i64 first,
                          double *column, double *power) {
    double few[MOST_ROWS][COLUMNS];
    i64 bin = first;
    for (; n_spectra <= MOST_ROWS && bin + COLUMNS <= n_bins; bin += COLUMNS) {
        for (i64 k = 0; k < n_spectra; ++k) {
            const double *at = spectra + (k * n_bins + bin) * 2;
            for (i64 c = 0; c < COLUMNS; ++c) {
                few[k][c] = at[2 * c] * at[2 * c] + at[2 * c + 1] * at[2 * c + 1];
            }
        }
        median_of_columns(few, n_spectra, power + bin);
    }
    for (; bin < n_bins; ++bin) {
        for (i64 k = 0; k < n_spectra; ++k) {
            const double *at = spectra + (k * n_bins + bin) * 2;
            column[k] = at[0] * at[0] + at[1] * at[1];
        }
        power[bin] = median_of(column, n_spectra);
    }
}

/* Find peaks of the median spectrum of some parts of a signal, and their power over a quantile of
 * their neighbourhood, which begins `near` bins away and ends `far` bins away.
 *
 * spectra: real and imaginary part of each bin, shape (n_spectra, n_bins, 2)
 * bins: those of the peaks, from `first` to `last`; ratios: theirs; both have room for all
 * returns how many there are
 */
KERNEL i64 ecg_find_lines(const double *spectra, i64 n_spectra, i64 n_bins, i64 first, i64 last,
                          i64 near, i64 far, double quantile, i64 *bins, double *ratios) {
    const i64 n = 2 * (far - near);
    double *around = malloc((n + n_bins + n_spectra) * sizeof(double));
    if (!around) return -1;
    double *power = around + n, *column = power + n_bins;
    measure_power(spectra, n_spectra, n_bins, at_most(first - far, first - 2 * near), column,
                  power);
    i64 count = 0;
    for (i64 bin = first; bin < last; ++bin) {
        int is_peak = 1;
        for (i64 i = bin - 2 * near; i <= bin + 2 * near && is_peak; ++i) {
            is_peak = power[bin] >= power[i];
        }
        if (!is_peak) continue;
        memcpy(around, power + bin - far, (far - near) * sizeof(double));
        memcpy(around + far - near, power + bin + near + 1, (far - near) * sizeof(double));
        const double at = quantile * (n - 1);
        const i64 rank = (i64)at;
        const double low = select_rank(around, n, rank);
        double high = around[n - 1];
        for (i64 i = rank + 1; i < n; ++i) high = smaller(high, around[i]);
        bins[count] = bin;
        ratios[count++] = power[bin] / larger(low + (at - rank) * (high - low), 1e-30);
    }
    free(around);
    return count;
}
