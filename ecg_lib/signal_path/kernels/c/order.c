/* Order statistics: medians, rank filters and what is built on them. */
#include "kernels.h"

/* Move values below a pivot, or those not above it, to the front and return their count. There is
 * no branch for each value: a processor would predict every second one wrongly. */
static inline __attribute__((always_inline)) i64 partition(double *values, i64 n, double pivot,
                                                           int takes_equal) {
    i64 count = 0;
    for (i64 i = 0; i < n; ++i) {
        const double value = values[i];
        values[i] = values[count];
        values[count] = value;
        count += takes_equal ? value <= pivot : value < pivot;
    }
    return count;
}

/* Any of `n` values, as if at random, the same on each call with this seed. */
static double draw(const double *values, i64 n, uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return values[(*seed >> 33) % (uint64_t)n];
}

static double middle_of_three(double a, double b, double c) {
    return a < b ? (b < c ? b : larger(a, c)) : (a < c ? a : larger(b, c));
}

/* The middle one of three values, or of many the middle one of three such. With the first, middle
 * and last of many, values that rise and fall again would take the square of their number. */
static double choose_pivot(const double *values, i64 n, uint64_t *seed) {
    if (n <= 100) return middle_of_three(values[0], values[n / 2], values[n - 1]);
    double middle[3];
    for (i64 i = 0; i < 3; ++i) {
        const double a = draw(values, n, seed), b = draw(values, n, seed);
        middle[i] = middle_of_three(a, b, draw(values, n, seed));
    }
    return middle_of_three(middle[0], middle[1], middle[2]);
}

double select_rank(double *values, i64 n, i64 k) {
    i64 low = 0, high = n;
    uint64_t seed = 1;
    while (high - low > 1) {
        const double pivot = choose_pivot(values + low, high - low, &seed);
        const i64 first = low + partition(values + low, high - low, pivot, 0);
        if (k < first) {
            high = first;
        } else if (first > low) {
            low = first;
        } else { /* the pivot is the least: those that equal it go, or none where it is NaN */
            const i64 after = low + partition(values + low, high - low, pivot, 1);
            if (k < after || after == low) return values[k];
            low = after;
        }
    }
    return values[k];
}

double median_of(double *values, i64 n) {
    const double upper = select_rank(values, n, n / 2);
    if (n % 2) return upper;
    double lower = values[0];
    for (i64 i = 1; i < n / 2; ++i) lower = larger(lower, values[i]);
    return (lower + upper) / 2;
}

void median_of_columns(double (*rows)[COLUMNS], i64 n, double *medians) {
    double top[COLUMNS], above[COLUMNS];
    /* Each round moves the greatest of what is left out of it, from the greatest of all down to the
     * lower one of the two in the middle. */
    for (i64 left = n; left > (n - 1) / 2; --left) {
        for (i64 c = 0; c < COLUMNS; ++c) {
            above[c] = left < n ? top[c] : 0;
            top[c] = rows[0][c];
        }
        for (i64 row = 1; row < left; ++row) {
            for (i64 c = 0; c < COLUMNS; ++c) {
                const double value = rows[row][c];
                rows[row - 1][c] = smaller(top[c], value);
                top[c] = larger(top[c], value);
            }
        }
    }
    for (i64 c = 0; c < COLUMNS; ++c) medians[c] = n % 2 ? top[c] : (top[c] + above[c]) / 2;
}

void filter_rank(const double *values, i64 n, i64 size, i64 rank, double *window,
                 double *filtered) {
    const i64 before = size / 2;
    for (i64 i = 0; i < size; ++i) {
        const double value = values[inside(i - before, n)];
        i64 place = i;
        for (; place > 0 && window[place - 1] > value; --place) window[place] = window[place - 1];
        window[place] = value;
    }
    filtered[0] = window[rank];
    for (i64 i = 1; i < n; ++i) {
        const double leaves = values[inside(i - 1 - before, n)];
        const double enters = values[inside(i - 1 - before + size, n)];
        i64 place = 0;
        while (place + 1 < size && window[place] != leaves) ++place;
        for (; place + 1 < size && window[place + 1] < enters; ++place) {
            window[place] = window[place + 1];
        }
        for (; place > 0 && window[place - 1] > enters; --place) window[place] = window[place - 1];
        window[place] = enters;
        filtered[i] = window[rank];
    }
}

double interpolate(double at, const double *knots, const double *values, i64 n) {
    if (at <= knots[0]) return values[0];
    if (at >= knots[n - 1]) return values[n - 1];
    i64 low = 0, high = n - 1;
    while (high - low > 1) {
        const i64 middle = (low + high) / 2;
        if (knots[middle] <= at) low = middle;
        else high = middle;
    }
    const double slope = (values[high] - values[low]) / (knots[high] - knots[low]);
    return slope * (at - knots[low]) + values[low];
}

double span_of(const double *values, i64 n) {
    double least = values[0], greatest = values[0];
    for (i64 i = 1; i < n; ++i) {
        least = smaller(least, values[i]);
        greatest = larger(greatest, values[i]);
    }
    return greatest - least;
}

/* Subtract the median, and divide by 1.4826 times the median absolute deviation unless it is 0. */
KERNEL i64 ecg_robust_scale(const double *values, i64 n, double *scaled) {
    memcpy(scaled, values, n * sizeof(double));
    const double centre = median_of(scaled, n);
    for (i64 i = 0; i < n; ++i) scaled[i] = fabs(values[i] - centre);
    const double deviation = 1.4826 * median_of(scaled, n), unit = deviation > 0 ? deviation : 1;
    for (i64 i = 0; i < n; ++i) scaled[i] = (values[i] - centre) / unit;
    return 0;
}

KERNEL i64 ecg_filter_rank(const double *values, i64 n, i64 size, i64 rank, double *filtered) {
    double *window = malloc(size * sizeof(double));
    if (!window) return -1;
    if (n > 0) filter_rank(values, n, size, rank, window, filtered);
    free(window);
    return 0;
}

/* Median of each of `n_bins` bins of one width; the last one goes on to the end. */
KERNEL i64 ecg_median_of_bins(const double *values, i64 n, i64 width, i64 n_bins, double *medians) {
    double *copy = malloc((n - (n_bins - 1) * width) * sizeof(double));
    if (!copy) return -1;
    for (i64 bin = 0; bin < n_bins; ++bin) {
        const i64 size = bin == n_bins - 1 ? n - bin * width : width;
        memcpy(copy, values + bin * width, size * sizeof(double));
        medians[bin] = median_of(copy, size);
    }
    free(copy);
    return 0;
}

/* Median of each column of single precision values, `row_step` and `step` values apart. */
KERNEL i64 ecg_median_of_columns(const float *values, i64 n_rows, i64 n_columns, i64 row_step,
                                 i64 step, double *medians) {
    double few[MOST_ROWS][COLUMNS], of_few[COLUMNS];
    double *columns = malloc(COLUMNS * n_rows * sizeof(double));
    if (!columns) return -1;
    for (i64 first = 0; first < n_columns; first += COLUMNS) {
        const i64 count = at_most(COLUMNS, n_columns - first);
        const int is_few = count == COLUMNS && n_rows <= MOST_ROWS;
        for (i64 row = 0; row < n_rows; ++row) {
            const float *from = values + row * row_step + first * step;
            if (is_few) {
                for (i64 c = 0; c < COLUMNS; ++c) few[row][c] = from[c * step];
            } else {
                for (i64 c = 0; c < count; ++c) columns[c * n_rows + row] = from[c * step];
            }
        }
        if (is_few) median_of_columns(few, n_rows, of_few);
        for (i64 c = 0; c < count; ++c) {
            const double median = is_few ? of_few[c] : median_of(columns + c * n_rows, n_rows);
            medians[first + c] = (float)median;
        }
    }
    free(columns);
    return 0;
}
