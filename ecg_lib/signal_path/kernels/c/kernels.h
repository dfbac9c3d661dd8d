/* Declarations shared by the kernels. Signals are at 360 Hz unless stated otherwise.
 *
 * The Python module that calls a kernel documents what it computes, and its source.
 * tests/ecg_lib/signal_path/kernels/ compares each with NumPy code.
 *
 * A kernel that cannot allocate memory returns -1.
 */
#ifndef ECG_KERNELS_H
#define ECG_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL __attribute__((visibility("default")))
#define FS 360.0

typedef int64_t i64;

static inline double larger(double one, double other) { return one > other ? one : other; }
static inline double smaller(double one, double other) { return one < other ? one : other; }
static inline i64 at_most(i64 value, i64 limit) { return value < limit ? value : limit; }
static inline i64 at_least(i64 value, i64 limit) { return value > limit ? value : limit; }

static inline double bounded(double value, double least, double greatest) {
    return value < least ? least : value > greatest ? greatest : value;
}

/* The greatest of finite values and of `least`. Four at once: each comparison waits for the one
 * before. */
static inline double greatest_value(const double *values, i64 n, double least) {
    double greatest[4] = {least, least, least, least};
    i64 i = 0;
    for (; i + 4 <= n; i += 4) {
        for (i64 k = 0; k < 4; ++k) greatest[k] = larger(greatest[k], values[i + k]);
    }
    for (; i < n; ++i) greatest[0] = larger(greatest[0], values[i]);
    return larger(larger(greatest[0], greatest[1]), larger(greatest[2], greatest[3]));
}

/* The index of a sample of a signal that goes on with its end values. */
static inline i64 inside(i64 index, i64 n) { return index < 0 ? 0 : index >= n ? n - 1 : index; }

/* The value at rank `k`. Reorders the values: those before it are not greater. */
double select_rank(double *values, i64 n, i64 k);

/* The median; of an even number the mean of the two in the middle. Reorders the values. */
double median_of(double *values, i64 n);

/* The same of each column of 1 to MOST_ROWS rows of finite values, without a branch that depends on
 * a value. */
enum { COLUMNS = 8, MOST_ROWS = 48 };
void median_of_columns(double (*rows)[COLUMNS], i64 n, double *medians);

/* The value of a rank in a window around each value; the ends go on with their values.
 * `window` holds `size` values. */
void filter_rank(const double *values, i64 n, i64 size, i64 rank, double *window, double *filtered);

/* As numpy.interp: the ends are constant. `knots` ascend. */
double interpolate(double at, const double *knots, const double *values, i64 n);

/* Median, over `bins` bins of `width` samples, of the greatest value in each, at positions.
 * -1 without memory. */
i64 local_level(const double *envelope, i64 n, const i64 *position, i64 count, i64 width, i64 bins,
                double *level);

/* The greatest value less the least. */
double span_of(const double *values, i64 n);

/* What templates need of windows. `measure_width` takes the sample of an R-peak that has 62 samples
 * on both sides, and gives seconds. */
double measure_width(const float *centre, float floor);

/* Centre values that are `step` apart, and scale them to length one. */
void unit_row(const float *row, i64 n, i64 step, float *unit);

double product(const float *one, const float *other, i64 n);

/* Of values that are `step` apart: their sum, and that of the squares of their distances from
 * `middle`. Four sums at once: each addition of one sum waits for the one before it. */
double sum_of(const float *values, i64 n, i64 step);
double squares_of(const float *values, i64 n, i64 step, double middle);

#endif
