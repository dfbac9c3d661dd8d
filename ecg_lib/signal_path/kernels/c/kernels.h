/* What the files of the kernels share. Samples are at 360 Hz where nothing else is said.
 *
 * The Python modules that call a kernel say what it computes and from which source; here is how.
 * tests/ecg_lib/signal_path/kernels/ holds the same in NumPy, and compares.
 *
 * A kernel that needs memory of its own returns -1 when there is none.
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

/* The index of a sample of a signal that goes on with its end values. */
static inline i64 inside(i64 index, i64 n) { return index < 0 ? 0 : index >= n ? n - 1 : index; }

/* The value at rank `k` of unordered values, which are moved: those before it are not greater. */
double select_rank(double *values, i64 n, i64 k);

/* The median; of an even number the mean of the two in the middle. Moves the values. */
double median_of(double *values, i64 n);

/* The value of a rank in a window around each value; the ends go on with their values.
 * `window` holds `size` values. */
void filter_rank(const double *values, i64 n, i64 size, i64 rank, double *window, double *filtered);

/* As numpy.interp: the ends are constant. `knots` ascend. */
double interpolate(double at, const double *knots, const double *values, i64 n);

/* Span of values: greatest less least. */
double span_of(const double *values, i64 n);

#endif
