/* Beats against the template of their recording: groups of one shape, shifts and features. */
#include "kernels.h"

enum {
    WINDOW = 360, CENTRE = 180, MAX_ROW = WINDOW, CHANNELS = 2,
    P_FROM = 85, P_POINTS = 64, T_FROM = 216, T_POINTS = 113,
    REST_BEFORE = 133, REST_AFTER = 227,
    NOISE_BEATS = 9, RHYTHM_BEATS = 11,
};

/* Constants in the order in which Python gives them. */
enum {
    QRS_HALF, BEAT_BEFORE, BEAT_AFTER, QRS_WEIGHT, DIFFERENCES, LEAST_LIMIT, GREATEST_LIMIT,
    SHARPNESS, SCORE_SHARE, SCORE_PREMATURITY, SCORE_PAUSE, SCORE_WIDTH, SCORE_RECORDING,
    SLOPE_FLOOR
};

/* How many similar beats count as neighbours in shape, and the median of their similarity. */
static double usual_similarity(const float *similarity, i64 n, double *row, double *means) {
    const i64 n_nearest = at_most(5, at_least(1, n / 6));
    for (i64 i = 0; i < n; ++i) {
        for (i64 j = 0; j < n; ++j) row[j] = j == i ? -1.0 : similarity[i * n + j];
        double sum = 0;
        select_rank(row, n, n - n_nearest);
        for (i64 j = n - n_nearest; j < n; ++j) sum += row[j];
        means[i] = sum / n_nearest;
    }
    return median_of(means, n);
}

/* The exponential of -80 to 80 to single precision: a power of two, and a polynomial of the rest.
 * The library's takes five times as long, for digits that are not kept. */
static inline float exponential(float x) {
    const float whole = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* rounded */
    const float rest = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
    float sum = 1.0f / 5040;
    sum = sum * rest + 1.0f / 720;
    sum = sum * rest + 1.0f / 120;
    sum = sum * rest + 1.0f / 24;
    sum = sum * rest + 1.0f / 6;
    sum = sum * rest + 0.5f;
    sum = sum * rest + 1.0f;
    sum = sum * rest + 1.0f;
    union {
        int32_t bits;
        float value;
    } power = {((int32_t)whole + 127) << 23};
    return sum * power.value;
}

/* Turn similarities into how much beats are of one shape, by a logistic function. */
static void squash(const float *similarity, i64 n, double limit, double sharpness,
                   float *sameness) {
    for (i64 j = 0; j < n; ++j) {
        /* -80 of NaN too: it must be a whole power of two. */
        const float at = (float)smaller(larger((similarity[j] - limit) * sharpness, -80), 80);
        sameness[j] = 1.0f / (1.0f + exponential(-at));
    }
    for (i64 j = 0; j < n; ++j) {
        const double at = (similarity[j] - limit) * sharpness;
        if (at < -80) sameness[j] = at < -105 ? 0.0f : (float)exp(at);
    }
}

/* Means of values over the beats of one shape; what is not known is 0 in `values` and in `known`.
 * Three values, with their weights, are summed at once. */
static void means_of_shape(const float *sameness, const double *values, const double *known, i64 n,
                           double *means) {
    double totals[3] = {0, 0, 0}, weights[3] = {0, 0, 0};
    for (i64 j = 0; j < n; ++j) {
        const double weight = sameness[j];
        for (i64 k = 0; k < 3; ++k) {
            totals[k] += weight * values[3 * j + k];
            weights[k] += weight * known[3 * j + k];
        }
    }
    for (i64 k = 0; k < 3; ++k) means[k] = totals[k] / larger(weights[k], 1e-3);
}

static void weighted_mean(const float *weights, const float *rows, i64 n, i64 row_step,
                          float *mean) {
    double sums[MAX_ROW] = {0}, total = 0;
    for (i64 i = 0; i < n; ++i) {
        const double weight = weights[i];
        const float *row = rows + i * row_step;
        total += weight;
        for (i64 k = 0; k < WINDOW; ++k) sums[k] += weight * row[k];
    }
    for (i64 k = 0; k < WINDOW; ++k) mean[k] = (float)(sums[k] / total);
}

/* Compare the beats of a block with each other.
 *
 * sameness: shape (n, n); shapes: share, count, prematurity, pause and width, shape (n, 5)
 * score: how much each beat's shape looks like the conducted one
 * template: mean of the windows of the shape of the highest score
 * wide: windows with `margin` samples more on both sides, shape (n, 360 + 2 * margin)
 * returns the index of that beat
 */
KERNEL i64 ecg_survey(const float *similarity, const float *wide, i64 n, i64 margin,
                      const double *rr_prev, const double *rr_next, const double *width,
                      double median_rr, const double *constants, float *sameness, double *shapes,
                      double *score, float *template) {
    double *memory = malloc(6 * n * sizeof(double));
    if (!memory) return -1;
    double *values = memory, *known = memory + 3 * n;
    double usual = n > 1 ? usual_similarity(similarity, n, memory, memory + n) : 1.0;
    const double limit = bounded(1 - constants[DIFFERENCES] * (1 - usual), constants[LEAST_LIMIT],
                                 constants[GREATEST_LIMIT]);
    for (i64 i = 0; i < n; ++i) {
        squash(similarity + i * n, i, limit, constants[SHARPNESS] / (1 - limit), sameness + i * n);
        sameness[i * n + i] = 1.0f;
        for (i64 j = 0; j < i; ++j) sameness[j * n + i] = sameness[i * n + j];
    }
    for (i64 i = 0; i < n; ++i) {
        values[3 * i] = log(rr_prev[i] / median_rr);
        values[3 * i + 1] = log(rr_prev[i] / rr_next[i]);
        values[3 * i + 2] = width[i];
        for (i64 k = 0; k < 3; ++k) {
            known[3 * i + k] = isfinite(values[3 * i + k]) ? 1.0 : 0.0;
            if (!isfinite(values[3 * i + k])) values[3 * i + k] = 0.0;
        }
    }
    for (i64 i = 0; i < n; ++i) {
        const float *row = sameness + i * n;
        double sum = 0, *to = shapes + 5 * i;
        for (i64 j = 0; j < n; ++j) sum += row[j];
        to[0] = (float)(sum / n);
        to[1] = (float)log(sum);
        means_of_shape(row, values, known, n, to + 2);
        score[i] = constants[SCORE_SHARE] * log(to[0] + 0.02) +
                   constants[SCORE_PREMATURITY] * bounded(to[2], -0.6, 0.1) +
                   constants[SCORE_PAUSE] * bounded(to[3], -0.6, 0.2) -
                   constants[SCORE_WIDTH] * to[4];
    }
    free(memory);
    i64 best = 0;
    for (i64 i = 1; i < n; ++i) best = score[i] > score[best] ? i : best;
    weighted_mean(sameness + best * n, wide + margin, n, WINDOW + 2 * margin, template);
    return best;
}

/* The shift, in samples from `-margin`, at which part of a row correlates best with a target. */
static i64 best_shift(const float *reach, i64 n, i64 margin, const float *target) {
    double sum = 0, squares = 0, best = -1e9;
    i64 at = 0;
    for (i64 i = 0; i < n; ++i) {
        sum += reach[i];
        squares += (double)reach[i] * reach[i];
    }
    for (i64 shift = 0; shift <= 2 * margin; ++shift) {
        if (shift > 0) {
            const double leaves = reach[shift - 1], enters = reach[shift - 1 + n];
            sum += enters - leaves;
            squares += enters * enters - leaves * leaves;
        }
        /* The target is centred, so the mean of the row drops out of the product. */
        const double norm = larger(sqrt(larger(squares - sum * sum / n, 0.0)), 1e-9);
        /* A shift must pay: without this, beats unlike the template wander. */
        const double fit = product(reach + shift, target, n) / norm -
                           0.002 * (double)llabs(shift - margin);
        if (fit > best) {
            best = fit;
            at = shift;
        }
    }
    return at;
}

static double usual_if_unknown(double log_ratio) {
    return isnan(log_ratio) ? 0.0 : bounded(log_ratio, -1.5, 1.5);
}

/* A block of beats and all that is measured of it; `features` has one row of doubles a beat. */
typedef struct {
    i64 n;
    const double *rr_prev, *rr_next, *width, *constants, *shapes;
    double median_rr;
    const float *windows; /* (n, 360), shifted */
    const unsigned char *is_template;
    double *features, *memory; /* memory: 4 * n */
} Block;

enum {
    RHYTHM = 0, SHAPE = 8, SHAPES = 23, TO_RECORDING = 28, FIT_OF_TEMPLATE = 29, EXCESS = 30,
    NOISE = 41, FEATURES = 48
};

enum {
    QRS_SIMILARITY = SHAPE, BEAT_SIMILARITY, P_SIMILARITY, T_SIMILARITY, QRS_RESIDUAL,
    BEAT_RESIDUAL, WIDTH_RATIO, WIDTH_S, AMPLITUDE_RATIO
};

/* RR intervals against those between conducted beats in the neighbourhood. */
static void put_rhythm(const Block *block) {
    const i64 n = block->n;
    double *at = block->memory, *rr = at + n, *local = rr + n, window[RHYTHM_BEATS];
    i64 conducted = 0, known = 0;
    for (i64 i = 1; i < n; ++i) {
        if (block->is_template[i] && block->is_template[i - 1] && isfinite(block->rr_prev[i])) {
            at[conducted] = i;
            rr[conducted++] = block->rr_prev[i];
        }
    }
    double usual = block->median_rr;
    if (conducted >= 5) {
        const i64 size = at_most(RHYTHM_BEATS, conducted);
        filter_rank(rr, conducted, size, size / 2, window, local);
    } else if (conducted >= 3) {
        usual = median_of(rr, conducted);
    }
    double mean = 0, squares = 0;
    for (i64 i = 0; i < n; ++i) {
        const double over = log(block->rr_prev[i] / block->median_rr);
        if (!isfinite(over)) continue;
        mean += over;
        ++known;
    }
    mean /= at_least(known, 1);
    for (i64 i = 0; i < n; ++i) {
        const double over = log(block->rr_prev[i] / block->median_rr);
        if (isfinite(over)) squares += (over - mean) * (over - mean);
    }
    const double variability = sqrt(squares / at_least(known, 1));
    for (i64 i = 0; i < n; ++i) {
        double *to = block->features + i * FEATURES + RHYTHM;
        const double reference = conducted >= 5 ? interpolate(i, at, local, conducted) : usual;
        to[0] = usual_if_unknown(log(block->rr_prev[i] / reference));
        to[1] = usual_if_unknown(log(block->rr_next[i] / reference));
        to[2] = usual_if_unknown(log(block->rr_prev[i] / block->rr_next[i]));
        to[5] = usual_if_unknown(log(block->rr_prev[i] / block->median_rr));
        to[6] = variability;
        to[7] = reference;
    }
    for (i64 i = 0; i < n; ++i) {
        double *to = block->features + i * FEATURES + RHYTHM;
        to[3] = i > 0 ? to[0 - FEATURES] : 0.0;
        to[4] = i + 1 < n ? to[1 + FEATURES] : 0.0;
    }
}

static double distance(const float *one, const float *other, i64 n, i64 step) {
    double squares[4] = {0, 0, 0, 0};
    i64 i = 0;
    for (; i + 4 <= n; i += 4) {
        for (i64 k = 0; k < 4; ++k) {
            const double gap = (double)one[(i + k) * step] - other[(i + k) * step];
            squares[k] += gap * gap;
        }
    }
    for (; i < n; ++i) {
        const double gap = (double)one[i * step] - other[i * step];
        squares[0] += gap * gap;
    }
    return sqrt((squares[0] + squares[1]) + (squares[2] + squares[3]));
}

/* Length of values about their mean. */
static double size_of(const float *values, i64 n, i64 step) {
    return sqrt(squares_of(values, n, step, sum_of(values, n, step) / n)) + 1e-9;
}

static double range_of(const float *values, i64 n) {
    float least = values[0], greatest = values[0];
    for (i64 i = 1; i < n; ++i) {
        least = values[i] < least ? values[i] : least;
        greatest = values[i] > greatest ? values[i] : greatest;
    }
    return greatest - least;
}

/* Similarity, residual, width and size of each beat against the template. */
static void put_shapes(const Block *block, const float *template) {
    const i64 n = block->n, half = (i64)block->constants[QRS_HALF], qrs_n = 2 * half;
    const i64 beat_from = CENTRE - (i64)block->constants[BEAT_BEFORE];
    const i64 beat_n =
        ((i64)block->constants[BEAT_BEFORE] + (i64)block->constants[BEAT_AFTER] + 1) / 2;
    const float *qrs_t = template + CENTRE - half, *beat_t = template + beat_from;
    float qrs_form[MAX_ROW], beat_form[MAX_ROW], p_form[P_POINTS], t_form[T_POINTS];
    float form[MAX_ROW], last_qrs[MAX_ROW];
    unit_row(qrs_t, qrs_n, 1, qrs_form);
    unit_row(beat_t, beat_n, 2, beat_form);
    unit_row(template + P_FROM, P_POINTS, 1, p_form);
    unit_row(template + T_FROM, T_POINTS, 1, t_form);
    const double template_width =
        measure_width(template + CENTRE, (float)block->constants[SLOPE_FLOOR]);
    const double qrs_size = size_of(qrs_t, qrs_n, 1), beat_size = size_of(beat_t, beat_n, 2);
    const double range = larger(range_of(qrs_t, qrs_n), 1e-9);
    for (i64 i = 0; i < n; ++i) {
        const float *row = block->windows + i * WINDOW, *qrs = row + CENTRE - half;
        double *to = block->features + i * FEATURES;
        unit_row(qrs, qrs_n, 1, form);
        to[QRS_SIMILARITY] = product(form, qrs_form, qrs_n);
        to[SHAPE + 13] = i > 0 ? product(form, last_qrs, qrs_n) : 1.0;
        memcpy(last_qrs, form, sizeof form);
        unit_row(row + beat_from, beat_n, 2, form);
        to[BEAT_SIMILARITY] = product(form, beat_form, beat_n);
        unit_row(row + P_FROM, P_POINTS, 1, form);
        to[P_SIMILARITY] = product(form, p_form, P_POINTS);
        unit_row(row + T_FROM, T_POINTS, 1, form);
        to[T_SIMILARITY] = product(form, t_form, T_POINTS);
        to[QRS_RESIDUAL] = log(distance(qrs, qrs_t, qrs_n, 1) / qrs_size + 0.01);
        to[BEAT_RESIDUAL] = log(distance(row + beat_from, beat_t, beat_n, 2) / beat_size + 0.01);
        to[WIDTH_RATIO] = log(block->width[i] / template_width);
        to[WIDTH_S] = block->width[i];
        to[AMPLITUDE_RATIO] = log(range_of(qrs, qrs_n) / range + 1e-3);
    }
    for (i64 i = 0; i < n; ++i) {
        double *to = block->features + i * FEATURES;
        const double *before = i > 0 ? to - FEATURES : to, *after = i + 1 < n ? to + FEATURES : to;
        to[SHAPE + 9] = before[QRS_SIMILARITY];
        to[SHAPE + 10] = after[QRS_SIMILARITY];
        to[SHAPE + 11] = before[BEAT_SIMILARITY];
        to[SHAPE + 12] = after[BEAT_SIMILARITY];
        to[SHAPE + 14] = after[SHAPE + 13];
        memcpy(to + SHAPES, block->shapes + 5 * i, 5 * sizeof(double));
    }
}

/* Median of a feature over the beats of the template; of |feature - centre| when asked. */
static double usual_of(const Block *block, i64 column, int is_deviation, double centre) {
    double *values = block->memory;
    i64 count = 0;
    for (i64 i = 0; i < block->n; ++i) {
        if (!block->is_template[i]) continue;
        const double value = block->features[i * FEATURES + column];
        values[count++] = is_deviation ? fabs(value - centre) : value;
    }
    return median_of(values, count);
}

/* Differences to the template relative to those of its own beats. */
static void put_excess(const Block *block) {
    /* Floors: differences as small as these come from sampling alone. */
    static const double LIKENESS_FLOOR[4] = {0.003, 0.005, 0.02, 0.02};
    static const double SIZE_FLOOR[2] = {0.005, 0.03};
    double likeness[4], residual[2], size[2], deviation[2];
    for (i64 k = 0; k < 4; ++k) likeness[k] = usual_of(block, QRS_SIMILARITY + k, 0, 0);
    for (i64 k = 0; k < 2; ++k) {
        residual[k] = usual_of(block, QRS_RESIDUAL + k, 0, 0);
        size[k] = usual_of(block, WIDTH_S + k, 0, 0);
        deviation[k] = 1.4826 * usual_of(block, WIDTH_S + k, 1, size[k]) + SIZE_FLOOR[k];
    }
    for (i64 i = 0; i < block->n; ++i) {
        const double *of = block->features + i * FEATURES;
        double *to = block->features + i * FEATURES + EXCESS;
        for (i64 k = 0; k < 4; ++k) {
            to[k] = log((1 - of[QRS_SIMILARITY + k] + LIKENESS_FLOOR[k]) /
                        (1 - likeness[k] + LIKENESS_FLOOR[k]));
        }
        for (i64 k = 0; k < 2; ++k) {
            to[4 + k] = of[QRS_RESIDUAL + k] - residual[k];
            to[6 + k] = asinh((of[WIDTH_S + k] - size[k]) / deviation[k]);
        }
        to[8] = likeness[0];
        to[9] = likeness[2];
        to[10] = likeness[3];
    }
}

/* What is left of a beat outside its QRS complex: level, greatest, slope and drift. */
static void measure_noise(const float *difference, double *to) {
    double squares = 0, slopes = 0, parts[2];
    float steps[WINDOW];
    const i64 from[2] = {0, REST_AFTER}, lengths[2] = {REST_BEFORE, WINDOW - REST_AFTER};
    const i64 n = REST_BEFORE + WINDOW - REST_AFTER;
    for (i64 part = 0; part < 2; ++part) {
        const float *values = difference + from[part];
        const i64 length = lengths[part];
        for (i64 i = 0; i + 1 < length; ++i) steps[i] = values[i + 1] - values[i];
        slopes += squares_of(steps, length - 1, 1, 0.0);
        parts[part] = sum_of(values, length, 1);
    }
    const double mean = (parts[0] + parts[1]) / n;
    double greatest[4] = {0, 0, 0, 0};
    for (i64 part = 0; part < 2; ++part) {
        const float *values = difference + from[part];
        i64 i = 0;
        squares += squares_of(values, lengths[part], 1, mean);
        for (; i + 4 <= lengths[part]; i += 4) {
            for (i64 k = 0; k < 4; ++k) {
                greatest[k] = larger(greatest[k], fabs((double)values[i + k]));
            }
        }
        for (; i < lengths[part]; ++i) greatest[0] = larger(greatest[0], fabs((double)values[i]));
    }
    to[0] = log(sqrt(squares / n) + 0.01);
    to[1] = log(larger(larger(greatest[0], greatest[1]), larger(greatest[2], greatest[3])) + 0.02);
    to[2] = log(sqrt(slopes / (n - 2)) + 0.001);
    to[6] = log(fabs(parts[1] / lengths[1] - parts[0] / lengths[0]) + 0.01);
}

/* Only of the beats from `first` to `stop`, and of those that their medians need. */
static void put_noise(const Block *block, const float *template, double amplitude, i64 first,
                      i64 stop) {
    const i64 n = block->n, size = at_most(NOISE_BEATS, n);
    const i64 from = at_least(first - NOISE_BEATS, 0), to_row = at_most(stop + NOISE_BEATS, n);
    double *values = block->memory, *filtered = values + n, window[NOISE_BEATS];
    float difference[WINDOW];
    for (i64 i = from; i < to_row; ++i) {
        for (i64 k = 0; k < WINDOW; ++k) {
            difference[k] = (block->windows[i * WINDOW + k] - template[k]) / (float)amplitude;
        }
        measure_noise(difference, block->features + i * FEATURES + NOISE);
    }
    for (i64 what = 0; what < 2; ++what) {
        const i64 count = to_row - from;
        for (i64 i = 0; i < count; ++i) {
            values[i] = block->features[(from + i) * FEATURES + NOISE + 2 * what];
        }
        filter_rank(values, count, size, size / 2, window, filtered);
        for (i64 i = 0; i < count; ++i) {
            block->features[(from + i) * FEATURES + NOISE + 3 + what] = filtered[i];
        }
    }
    for (i64 i = from; i < to_row; ++i) {
        double *to = block->features + i * FEATURES + NOISE;
        to[5] = to[0];
        if (i > from) to[5] = larger(to[5], to[0 - FEATURES]);
        if (i + 1 < to_row) to[5] = larger(to[5], to[FEATURES]);
    }
}

static float clipped(float value) { return value < -8 ? -8 : value > 8 ? 8 : value; }

static double similarity(const float *qrs, const float *beat, const float *other_qrs,
                         const float *other_beat, i64 half, i64 beat_n, double qrs_weight) {
    return qrs_weight * product(qrs, other_qrs, 2 * half) +
           (1 - qrs_weight) * product(beat, other_beat, beat_n);
}

/* Compute windows and features of a block against the template that fits the whole recording.
 *
 * wide: windows with `margin` samples more on both sides, shape (n, 360 + 2 * margin)
 * qrs, beat: the forms of these beats
 * recording: the template of the recording
 * windows (kept, 360, 2), features (kept, FEATURES) and is_template (kept,) take the rows from
 * `first` to `stop`
 * returns the index of the beat whose shape the template is of
 */
KERNEL i64 ecg_describe(const float *wide, i64 n, i64 margin, const float *qrs, const float *beat,
                        const float *sameness, const double *score, const double *shapes,
                        const float *recording, const double *rr_prev, const double *rr_next,
                        const double *width, double median_rr, const double *constants, i64 first,
                        i64 stop, float *windows, float *features, unsigned char *is_template) {
    const i64 row_step = WINDOW + 2 * margin;
    const i64 half = (i64)constants[QRS_HALF], beat_from = CENTRE - (i64)constants[BEAT_BEFORE];
    const i64 beat_n = ((i64)constants[BEAT_BEFORE] + (i64)constants[BEAT_AFTER] + 1) / 2;
    double *memory = malloc(n * (FEATURES + 5) * sizeof(double));
    float *shifted = malloc(n * WINDOW * sizeof(float));
    unsigned char *in_template = malloc(n);
    if (!memory || !shifted || !in_template) {
        free(memory);
        free(shifted);
        free(in_template);
        return -1;
    }
    double *to_recording = memory + n * (FEATURES + 4);
    float recording_qrs[MAX_ROW], recording_beat[MAX_ROW];
    unit_row(recording + CENTRE - half, 2 * half, 1, recording_qrs);
    unit_row(recording + beat_from, beat_n, 2, recording_beat);
    i64 best = 0;
    double greatest = -1e300;
    for (i64 i = 0; i < n; ++i) {
        to_recording[i] = similarity(qrs + i * 2 * half, beat + i * beat_n, recording_qrs,
                                     recording_beat, half, beat_n, constants[QRS_WEIGHT]);
        const double fits =
            score[i] + constants[SCORE_RECORDING] * bounded(to_recording[i], 0.0, 1.0);
        if (fits > greatest) {
            greatest = fits;
            best = i;
        }
    }
    const float *weights = sameness + best * n;
    float template[WINDOW], target[MAX_ROW], form[MAX_ROW];
    weighted_mean(weights, wide + margin, n, row_step, template);
    unit_row(template + CENTRE - half, 2 * half, 1, target);
    for (i64 i = 0; i < n; ++i) {
        const float *row = wide + i * row_step;
        const i64 shift = best_shift(row + CENTRE - half, 2 * half, margin, target);
        memcpy(shifted + i * WINDOW, row + shift, WINDOW * sizeof(float));
        in_template[i] = weights[i] > 0.5f;
    }
    weighted_mean(weights, shifted, n, WINDOW, template);
    const double amplitude = larger(range_of(template + CENTRE - half, 2 * half), 1e-9);
    unit_row(template + CENTRE - half, 2 * half, 1, target);
    unit_row(template + beat_from, beat_n, 2, form);
    const double fit = similarity(target, form, recording_qrs, recording_beat, half, beat_n,
                                  constants[QRS_WEIGHT]);
    const Block block = {n, rr_prev, rr_next, width, constants, shapes, median_rr, shifted,
                         in_template, memory + 4 * n, memory};
    put_rhythm(&block);
    put_shapes(&block, template);
    for (i64 i = 0; i < n; ++i) {
        block.features[i * FEATURES + TO_RECORDING] = to_recording[i];
        block.features[i * FEATURES + FIT_OF_TEMPLATE] = fit;
    }
    put_excess(&block);
    put_noise(&block, template, amplitude, first, stop);
    for (i64 i = first; i < stop; ++i) {
        const i64 to = i - first;
        is_template[to] = in_template[i];
        for (i64 k = 0; k < FEATURES; ++k) {
            features[to * FEATURES + k] = (float)block.features[i * FEATURES + k];
        }
        const float *row = shifted + i * WINDOW;
        float own[WINDOW], rest[WINDOW];
        for (i64 k = 0; k < WINDOW; ++k) own[k] = clipped(row[k] / (float)amplitude);
        for (i64 k = 0; k < WINDOW; ++k) {
            rest[k] = clipped((row[k] - template[k]) / (float)amplitude);
        }
        for (i64 k = 0; k < WINDOW; ++k) {
            float *both = windows + (to * WINDOW + k) * CHANNELS;
            both[0] = own[k];
            both[1] = rest[k];
        }
    }
    free(memory);
    free(shifted);
    free(in_template);
    return best;
}

/* Part beats by shape: the one that is like most of those that are due starts a form of these, and
 * so on until none is like another. Rows of `sameness` have `columns` values; that of a beat with
 * itself is `offset` from the first of its row's number. Clears `is_due` of beats with a form;
 * returns the number of forms, of which there were `n_forms` before. */
KERNEL i64 ecg_group_shapes(const float *sameness, i64 n, i64 columns, i64 offset, double least,
                            i64 n_forms, unsigned char *is_due, i64 *form) {
    for (;; ++n_forms) {
        i64 best = 0, most = 0;
        for (i64 i = 0; i < n; ++i) {
            if (!is_due[i]) continue;
            const float *row = sameness + i * columns + offset;
            i64 count = 0;
            for (i64 k = 0; k < n; ++k) count += is_due[k] & (row[k] >= least);
            if (count > most) {
                most = count;
                best = i;
            }
        }
        if (most < 2) return n_forms; /* a beat that looks like no other is marked by its index */
        const float *row = sameness + best * columns + offset;
        for (i64 k = 0; k < n; ++k) {
            if (!is_due[k] || !(row[k] >= least)) continue;
            is_due[k] = 0;
            form[k] = n_forms;
        }
    }
}
