/* Windows of beats: cut, measured, brought to forms that can be compared. */
#include "kernels.h"

enum { SLOPE_POINTS = 117, CORE = 25, MIDDLE = SLOPE_POINTS / 2, STILL_HALF = 7 };

double measure_width(const float *centre, float floor) {
    float raw[SLOPE_POINTS + 4], slope[SLOPE_POINTS];
    const float *first = centre - MIDDLE - 2;
    for (i64 i = 0; i < SLOPE_POINTS + 4; ++i) raw[i] = fabsf((first[i + 1] - first[i - 1]) / 2);
    for (i64 i = 0; i < SLOPE_POINTS; ++i) {
        double sum = 0;
        for (i64 k = 0; k < 5; ++k) sum += raw[i + k];
        slope[i] = (float)(sum / 5);
    }
    i64 steepest = MIDDLE - CORE;
    for (i64 i = MIDDLE - CORE; i <= MIDDLE + CORE; ++i) {
        if (slope[i] > slope[steepest]) steepest = i;
    }
    const float limit = floor * slope[steepest];
    i64 onset = 0, offset = SLOPE_POINTS - 1;
    int has_offset = 0;
    /* `i` is still when the samples around it are flat, as far as there are any. */
    i64 flat[SLOPE_POINTS + 1];
    flat[0] = 0;
    for (i64 i = 0; i < SLOPE_POINTS; ++i) flat[i + 1] = flat[i] + (slope[i] < limit);
    for (i64 i = 0; i < SLOPE_POINTS && !has_offset; ++i) {
        const i64 low = at_least(i - STILL_HALF, 0);
        const i64 high = at_most(i + STILL_HALF + 1, SLOPE_POINTS);
        if (flat[high] - flat[low] < high - low) continue;
        if (i <= steepest) onset = i;
        if (i >= steepest) {
            offset = i;
            has_offset = 1;
        }
    }
    return bounded(((offset - STILL_HALF) - (onset + STILL_HALF)) / FS, 0.02, 0.3);
}

/* Measure the QRS width of beats whose R-peak is `centre` values from the beginning of a row. */
KERNEL i64 ecg_measure_widths(const float *rows, i64 count, i64 row_step, i64 centre, double floor,
                              double *widths) {
    for (i64 b = 0; b < count; ++b) {
        widths[b] = measure_width(rows + b * row_step + centre, (float)floor);
    }
    return 0;
}

double sum_of(const float *values, i64 n, i64 step) {
    double sums[4] = {0, 0, 0, 0};
    i64 i = 0;
    for (; i + 4 <= n; i += 4) {
        for (i64 k = 0; k < 4; ++k) sums[k] += values[(i + k) * step];
    }
    for (; i < n; ++i) sums[0] += values[i * step];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

double squares_of(const float *values, i64 n, i64 step, double middle) {
    double sums[4] = {0, 0, 0, 0};
    i64 i = 0;
    for (; i + 4 <= n; i += 4) {
        for (i64 k = 0; k < 4; ++k) {
            const double away = values[(i + k) * step] - middle;
            sums[k] += away * away;
        }
    }
    for (; i < n; ++i) sums[0] += (values[i * step] - middle) * (values[i * step] - middle);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

void unit_row(const float *row, i64 n, i64 step, float *unit) {
    const double mean = sum_of(row, n, step) / n;
    const double norm = larger(sqrt(squares_of(row, n, step, mean)), 1e-9);
    for (i64 i = 0; i < n; ++i) unit[i] = (float)((row[i * step] - mean) / norm);
}

double product(const float *one, const float *other, i64 n) {
    double sums[4] = {0, 0, 0, 0};
    i64 i = 0;
    for (; i + 4 <= n; i += 4) {
        for (i64 k = 0; k < 4; ++k) sums[k] += (double)one[i + k] * other[i + k];
    }
    for (; i < n; ++i) sums[0] += (double)one[i] * other[i];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Cut beats in single precision, and bring them to the forms that are compared.
 *
 * wide: `half` samples on both sides of positions, of a signal that goes on with its ends
 * qrs: `qrs_half` samples on both sides, centred, of length one
 * beat: from `before` to `after`, at half the rate, centred, of length one
 */
KERNEL i64 ecg_cut_beats(const double *x, i64 n, const i64 *position, i64 count, i64 half,
                         i64 qrs_half, i64 before, i64 after, float *wide, float *qrs,
                         float *beat) {
    const i64 beat_n = (before + after + 1) / 2;
    for (i64 b = 0; b < count; ++b) {
        float *row = wide + b * 2 * half;
        for (i64 i = 0; i < 2 * half; ++i) row[i] = (float)x[inside(position[b] - half + i, n)];
        unit_row(row + half - qrs_half, 2 * qrs_half, 1, qrs + b * 2 * qrs_half);
        unit_row(row + half - before, beat_n, 2, beat + b * beat_n);
    }
    return 0;
}

/* Mean frequency of QRS complexes: of the slopes of `2 * half` values around the middle, weighted
 * by their energy. */
KERNEL i64 ecg_measure_qrs_hz(const float *middle, i64 count, i64 row_step, i64 step, i64 half,
                              double *hz) {
    for (i64 b = 0; b < count; ++b) {
        const float *row = middle + b * row_step;
        double energy = 0, bends = 0, before = 0;
        for (i64 i = -half; i + 1 < half; ++i) {
            const double slope = (double)row[(i + 1) * step] - row[i * step];
            energy += slope * slope;
            if (i > -half) bends += (slope - before) * (slope - before);
            before = slope;
        }
        hz[b] = sqrt(bends / larger(energy, 1e-12)) * FS / (2 * M_PI);
    }
    return 0;
}
