/* Zero-phase filters, resampling and slopes of a signal. */
#include "kernels.h"

/* Four filters side by side: a processor computes them as fast as one. */
typedef double lanes __attribute__((vector_size(32)));

enum { LANES = 4, MAX_SECTIONS = 8 };

typedef struct {
    lanes gain, a1, a2; /* numerator gain * (1, 0, -1) */
} Section;

#ifdef __x86_64__
#include <immintrin.h>
/* On a flat line filters decay into denormal numbers, which take a hundred times as long. */
static unsigned flush_tiny(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
}
static void restore(unsigned before) { _mm_setcsr(before); }
#else
static unsigned flush_tiny(void) { return 0; }
static void restore(unsigned before) { (void)before; }
#endif

/* A signal extended by its point reflection at both ends. */
static inline double extended(const double *x, i64 n, i64 i) {
    return i < 0 ? 2 * x[0] - x[-i] : i >= n ? 2 * x[n - 1] - x[2 * n - 2 - i] : x[i];
}

/* Filter one sample of each lane (in place). */
static inline void step(const Section *sections, i64 order, lanes *state, lanes *sample) {
    lanes x = *sample;
    for (i64 s = 0; s < order; ++s) {
        const lanes driven = sections[s].gain * x;
        const lanes y = driven + state[2 * s];
        state[2 * s] = state[2 * s + 1] - sections[s].a1 * y;
        state[2 * s + 1] = -driven - sections[s].a2 * y;
        x = y;
    }
    *sample = x;
}

static inline void begin(lanes *state, const double *steady, i64 order, i64 lane, double x) {
    for (i64 s = 0; s < 2 * order; ++s) state[s][lane] = steady[s * LANES + lane] * x;
}

static inline __attribute__((always_inline)) i64 band_pass(
    const double *x, i64 n, i64 n_bands, i64 order, const double *coefficients,
    const double *steady, const i64 *pads, double *filtered) {
    Section sections[MAX_SECTIONS];
    lanes state[2 * MAX_SECTIONS];
    memcpy(sections, coefficients, order * sizeof(Section));
    memset(state, 0, sizeof state);
    i64 reach = 0;
    for (i64 lane = 0; lane < n_bands; ++lane) reach = at_least(reach, pads[lane]);
    /* Forwards once; what is beyond the end is kept apart, and before the beginning not at all. */
    lanes *beyond = aligned_alloc(32, (reach + 1) * sizeof(lanes));
    if (!beyond) return -1;
    const unsigned before = flush_tiny();
    for (i64 i = -reach; i < n + reach; ++i) {
        const double sample = extended(x, n, i);
        if (i <= 0) {
            for (i64 lane = 0; lane < n_bands; ++lane) {
                if (i == -pads[lane]) begin(state, steady, order, lane, sample);
            }
        }
        lanes all = {sample, sample, sample, sample};
        step(sections, order, state, &all);
        if (i >= n) {
            beyond[i - n] = all;
        } else if (i >= 0) {
            for (i64 lane = 0; lane < n_bands; ++lane) filtered[lane * n + i] = all[lane];
        }
    }
    for (i64 i = n + reach - 1; i >= 0; --i) {
        lanes all = {0, 0, 0, 0};
        if (i >= n) {
            all = beyond[i - n];
        } else {
            for (i64 lane = 0; lane < n_bands; ++lane) all[lane] = filtered[lane * n + i];
        }
        if (i >= n - 1) {
            for (i64 lane = 0; lane < n_bands; ++lane) {
                if (i == n + pads[lane] - 1) begin(state, steady, order, lane, all[lane]);
            }
        }
        step(sections, order, state, &all);
        if (i < n) {
            for (i64 lane = 0; lane < n_bands; ++lane) filtered[lane * n + i] = all[lane];
        }
    }
    restore(before);
    free(beyond);
    return 0;
}

/* Filter forwards and backwards with up to four Butterworth band-passes of one order at once.
 *
 * coefficients: gain, a1 and a2 of each section, shape (order, 3, 4)
 * steady: states of a signal that has always been 1, shape (order, 2, 4)
 * pads: samples by which each band continues the signal at both ends
 * filtered: shape (n_bands, n)
 */
KERNEL i64 ecg_band_pass(const double *x, i64 n, i64 n_bands, i64 order,
                         const double *coefficients, const double *steady, const i64 *pads,
                         double *filtered) {
    /* What nearly all calls ask for, with its loops written out by the compiler. */
    if (order == 2 && n_bands == LANES) {
        return band_pass(x, n, LANES, 2, coefficients, steady, pads, filtered);
    }
    return band_pass(x, n, n_bands, order, coefficients, steady, pads, filtered);
}

/* Compute the samples of `up / down` times the rate; `weights` has `width` for each of `up`
 * phases. */
KERNEL i64 ecg_resample(const double *x, i64 n, const double *weights, i64 width, i64 up, i64 down,
                        double *resampled, i64 n_resampled) {
    const i64 reach = width / 2;
    for (i64 m = 0; m < n_resampled; ++m) {
        const double *of_phase = weights + m % up * width;
        const i64 first = m * down / up - reach;
        double sums[4] = {0, 0, 0, 0};
        i64 j = 0;
        if (first >= 0 && first + width <= n) {
            for (; j + 4 <= width; j += 4) {
                for (i64 k = 0; k < 4; ++k) sums[k] += x[first + j + k] * of_phase[j + k];
            }
        }
        for (; j < width; ++j) sums[0] += x[inside(first + j, n)] * of_phase[j];
        resampled[m] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    return 0;
}

static inline i64 reflected(i64 i, i64 n) {
    while (i < 0 || i >= n) i = i < 0 ? -1 - i : 2 * n - 1 - i;
    return i;
}

/* Absolute slope of a signal, and its average over a window; the ends are mirrored. */
KERNEL i64 ecg_average_slope(const double *x, i64 n, i64 window, double *slope, double *average) {
    slope[0] = fabs(x[1] - x[0]);
    slope[n - 1] = fabs(x[n - 1] - x[n - 2]);
    for (i64 i = 1; i < n - 1; ++i) slope[i] = fabs((x[i + 1] - x[i - 1]) / 2);
    const i64 before = window / 2;
    double sum = 0;
    for (i64 i = 0; i < window; ++i) sum += slope[reflected(i - before, n)];
    /* Rounding of the running sum may leave it below zero on a still line. */
    average[0] = larger(sum / window, 0.0);
    for (i64 i = 1; i < n; ++i) {
        const i64 leaves = i - 1 - before, enters = leaves + window;
        const double in = enters < n ? slope[enters] : slope[reflected(enters, n)];
        sum += in - (leaves >= 0 ? slope[leaves] : slope[reflected(leaves, n)]);
        average[i] = larger(sum / window, 0.0);
    }
    return 0;
}
