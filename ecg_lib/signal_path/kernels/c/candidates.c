/* Features of candidate R-peaks, in the order of CANDIDATE_FEATURES. */
#include "kernels.h"

enum {
    AROUND = 4,             /* beats, and other candidates, on each side */
    GROUP = 2 * AROUND,     /* four before, the nearest first, then four after */
    ENVELOPE_POINTS = 17,   /* each 18 samples, 0.4 s to both sides */
    PICTURE_POINTS = 51,    /* each 6 samples, 0.42 s to both sides */
    SHAPE_FROM = 17, SHAPE_POINTS = 17,
    ROW = 20,               /* a shape and zeros, for a processor that takes four at a time */
    QRS_FROM = 19, QRS_POINTS = 13,
    BEFORE_FROM = 1, AFTER_FROM = 35, BASELINE_POINTS = 15,
    SHIFTS = 5,             /* -2 to 2 points of the picture */
    KNOWN_REACH = 12,       /* candidates on each side whose likeness is kept */
    KNOWN = 2 * KNOWN_REACH + 1,
    UNKNOWN = 3,            /* no correlation */
    SIZES = 4,
    CURVE_STEP = 5,         /* 14 ms: a second difference that T waves hardly have */
    CURVE_REACH = 9, CURVE_QRS_REACH = 38,
    LEVEL_WIDTH = 720, LEVEL_BINS = 17,
    SURROUNDINGS = 3 * ENVELOPE_POINTS + 6, /* features that no other candidate plays a part in */
    FEATURES = SURROUNDINGS + 25 + 3 * SIZES
};

static const double TINY = 1e-12, FLOOR = 0.02;
static const double GREATEST_VERDICT = 10.0, GREATEST_DISTANCE_S = 2.0;

typedef struct {
    const i64 *position;
    const double *sizes[SIZES]; /* height, slope, span, curvature */
    const float *shapes;    /* (n, SHIFTS, ROW), centred, of length one */
    float *known;           /* (n, KNOWN), likeness to the candidates around as far as known */
} Candidates;

static double log_ratio(double one, double other) {
    return bounded(log((one + TINY) / (other + TINY)), -4.0, 4.0);
}

/* The lower one of two in the middle. */
static double lower_median(double *values, i64 n, double nothing) {
    return n > 0 ? select_rank(values, n, (n - 1) / 2) : nothing;
}

/* Centre a shape and scale it to length one. */
static void normalise(const double *shape, float *normal) {
    double sum = 0, squares = 0;
    for (i64 i = 0; i < SHAPE_POINTS; ++i) sum += shape[i];
    const double mean = sum / SHAPE_POINTS;
    for (i64 i = 0; i < SHAPE_POINTS; ++i) squares += (shape[i] - mean) * (shape[i] - mean);
    const double norm = sqrt(squares) + TINY;
    for (i64 i = 0; i < SHAPE_POINTS; ++i) normal[i] = (float)((shape[i] - mean) / norm);
    for (i64 i = SHAPE_POINTS; i < ROW; ++i) normal[i] = 0;
}

static void read_picture(const double *smooth, i64 n_samples, i64 position, double *picture) {
    for (i64 k = 0; k < PICTURE_POINTS; ++k) {
        picture[k] = smooth[inside(position + (k - PICTURE_POINTS / 2) * 6, n_samples)];
    }
}

static double middle_of(const double *values) {
    double copy[BASELINE_POINTS];
    memcpy(copy, values, sizeof copy);
    return select_rank(copy, BASELINE_POINTS, BASELINE_POINTS / 2);
}

/* The members nearest to each candidate, but itself; -1 where there is none. */
static void find_neighbours(const unsigned char *is_beat, unsigned char kind, i64 n, i64 *members,
                            i64 *neighbours) {
    i64 count = 0, before = 0;
    for (i64 i = 0; i < n; ++i) {
        if (is_beat[i] == kind) members[count++] = i;
    }
    for (i64 i = 0; i < n; ++i) {
        while (before < count && members[before] < i) ++before;
        const i64 after = before < count && members[before] == i ? before + 1 : before;
        for (i64 k = 0; k < AROUND; ++k) {
            const i64 left = before - 1 - k, right = after + k;
            neighbours[i * GROUP + k] = left >= 0 ? members[left] : -1;
            neighbours[i * GROUP + AROUND + k] = right < count ? members[right] : -1;
        }
    }
}

/* Distances from the beats around, in seconds and in RR intervals. */
static float *put_rhythm(const Candidates *all, i64 i, const i64 *beats, float *to) {
    static const i64 NEAR[4] = {0, 1, AROUND, AROUND + 1};
    double distance_s[4], rr_s[GROUP];
    for (i64 k = 0; k < 4; ++k) {
        const i64 beat = beats[NEAR[k]];
        const double away = beat < 0 ? 3.0 : fabs(all->position[beat] / FS - all->position[i] / FS);
        distance_s[k] = bounded(away, 0.1, 3.0);
    }
    i64 known = 0;
    for (i64 k = 0; k + 1 < GROUP; ++k) {
        if (k == AROUND - 1 || beats[k] < 0 || beats[k + 1] < 0) continue;
        rr_s[known++] = fabs(all->position[beats[k + 1]] / FS - all->position[beats[k]] / FS);
    }
    const double local_s = bounded(lower_median(rr_s, known, 0.8), 0.25, 2.5);
    for (i64 k = 0; k < 4; ++k) *to++ = (float)log(distance_s[k]);
    *to++ = (float)log(local_s);
    *to++ = (float)log(distance_s[0] / local_s);
    *to++ = (float)log(distance_s[2] / local_s);
    *to++ = (float)log((distance_s[0] + distance_s[2]) / local_s);
    *to++ = (float)log(distance_s[1] / local_s);
    *to++ = (float)log(distance_s[3] / local_s);
    return to;
}

/* Size over that of beats and of other candidates around. */
static float *put_sizes(const Candidates *all, i64 i, const i64 *beats, const i64 *others,
                        float *to) {
    double usual[SIZES][2];
    for (i64 size = 0; size < SIZES; ++size) {
        const double *of = all->sizes[size];
        for (i64 side = 0; side < 2; ++side) {
            const i64 beat = beats[side * AROUND];
            *to++ = beat < 0 ? 0.0f : (float)log_ratio(of[i], of[beat]);
        }
    }
    for (i64 size = 0; size < SIZES; ++size) {
        const double *of = all->sizes[size];
        for (i64 kind = 0; kind < 2; ++kind) {
            const i64 *group = kind ? others : beats;
            double values[GROUP];
            i64 known = 0;
            for (i64 k = 0; k < GROUP; ++k) {
                if (group[k] >= 0) values[known++] = of[group[k]];
            }
            usual[size][kind] = log_ratio(of[i], lower_median(values, known, of[i]));
            *to++ = (float)usual[size][kind];
        }
    }
    double tallest = 0;
    for (i64 k = 0; k < GROUP; ++k) {
        if (others[k] >= 0) tallest = larger(tallest, all->sizes[0][others[k]]);
    }
    *to++ = (float)bounded(log((all->sizes[0][i] + TINY) / (tallest + 1e-3)), -4.0, 6.0);
    *to++ = (float)bounded(usual[0][0] - usual[0][1], -4.0, 4.0);
    return to;
}

/* Best correlation over small shifts with a neighbour. */
static double compare(const Candidates *all, i64 i, i64 neighbour) {
    const float *shape = all->shapes + (neighbour * SHIFTS + SHIFTS / 2) * ROW;
    double best = -2;
    for (i64 shift = 0; shift < SHIFTS; ++shift) {
        const float *shifted = all->shapes + (i * SHIFTS + shift) * ROW;
        float sums[4] = {0, 0, 0, 0};
        for (i64 k = 0; k < ROW; k += 4) {
            for (i64 lane = 0; lane < 4; ++lane) sums[lane] += shape[k + lane] * shifted[k + lane];
        }
        best = larger(best, (double)((sums[0] + sums[1]) + (sums[2] + sums[3])));
    }
    return best;
}

/* The same, once for each two candidates that are near. */
static double compare_once(const Candidates *all, i64 i, i64 neighbour) {
    const i64 away = neighbour - i + KNOWN_REACH;
    if (away < 0 || away >= KNOWN) return compare(all, i, neighbour);
    float *known = all->known + i * KNOWN + away;
    if (*known == UNKNOWN) *known = (float)compare(all, i, neighbour);
    return *known;
}

/* Greatest, second and mean correlation with each group, and that with the nearest beats. */
static float *put_likeness(const Candidates *all, i64 i, const i64 *beats, const i64 *others,
                           float *to) {
    float nearest[2] = {0, 0};
    for (i64 kind = 0; kind < 2; ++kind) {
        const i64 *group = kind ? others : beats;
        double best = -2, second = -2, sum = 0;
        i64 count = 0;
        for (i64 k = 0; k < GROUP; ++k) {
            if (group[k] < 0) continue;
            const double alike = compare_once(all, i, group[k]);
            if (kind == 0 && k % AROUND == 0) nearest[k / AROUND] = (float)alike;
            sum += alike;
            ++count;
            if (alike > best) {
                second = best;
                best = alike;
            } else {
                second = larger(second, alike);
            }
        }
        *to++ = count > 0 ? (float)best : 0.0f;
        *to++ = count > 1 ? (float)second : 0.0f;
        *to++ = count > 0 ? (float)(sum / count) : 0.0f;
    }
    *to++ = nearest[0];
    *to++ = nearest[1];
    return to;
}

/* The magnitude of the second difference; zero at the ends. */
static void measure_curvature(const double *smooth, i64 n, double *curvature) {
    memset(curvature, 0, n * sizeof(double));
    for (i64 i = CURVE_STEP; i + CURVE_STEP < n; ++i) {
        curvature[i] = fabs(smooth[i + CURVE_STEP] - 2 * smooth[i] + smooth[i - CURVE_STEP]);
    }
}

/* The greatest of the values from `first` to `last`; zero when all are outside the signal. */
static double greatest_of(const double *values, i64 n, i64 first, i64 last) {
    const i64 from = at_least(first, 0);
    return greatest_value(values + from, at_most(last, n - 1) + 1 - from, 0);
}

/* Put the features that depend on what the others are taken for. -1 without memory. */
static i64 put_context(const Candidates *all, i64 n, const unsigned char *is_beat, i64 columns,
                       float *features) {
    i64 *beats = malloc(n * (2 * GROUP + 1) * sizeof(i64));
    if (!beats) return -1;
    i64 *others = beats + n * GROUP, *members = others + n * GROUP;
    find_neighbours(is_beat, 1, n, members, beats);
    find_neighbours(is_beat, 0, n, members, others);
    for (i64 i = 0; i < n; ++i) {
        const i64 *near = beats + i * GROUP, *near_others = others + i * GROUP;
        float *to = features + i * columns + SURROUNDINGS;
        to = put_rhythm(all, i, near, to);
        to = put_sizes(all, i, near, near_others, to);
        to = put_likeness(all, i, near, near_others, to);
        *to = is_beat[i];
    }
    free(beats);
    return 0;
}

/* Compute the features of each candidate, the first FEATURES of each row of `columns`. What a
 * second look needs again is kept: `sizes`, the span and the curvature, shape (2, n), and `shapes`,
 * shape (n, SHIFTS * ROW + KNOWN): the shapes of all, then their likeness. */
KERNEL i64 ecg_measure_candidates(const i64 *position, const double *height, const double *slope,
                                  i64 n, const double *steep, const double *slow,
                                  const double *smooth, i64 n_samples, const double *steep_level,
                                  const double *slow_level, const unsigned char *is_beat,
                                  double *sizes, float *shapes, i64 columns, float *features) {
    double *sums = malloc((2 * n_samples + 1 + n) * sizeof(double));
    if (!sums) return -1;
    double *curvature = sums + n_samples + 1, *curve_level = curvature + n_samples;
    double *span = sizes, *curve = sizes + n;
    measure_curvature(smooth, n_samples, curvature);
    if (local_level(curvature, n_samples, position, n, LEVEL_WIDTH, LEVEL_BINS, curve_level) < 0) {
        free(sums);
        return -1;
    }
    sums[0] = 0;
    for (i64 i = 0; i < n_samples; ++i) sums[i + 1] = sums[i] + steep[i];
    double picture[PICTURE_POINTS];
    for (i64 i = 0; i < n; ++i) {
        const i64 here = position[i];
        float *to = features + i * columns;
        for (i64 k = 0; k < ENVELOPE_POINTS; ++k) {
            const i64 middle = here + (k - ENVELOPE_POINTS / 2) * 18;
            const i64 at = inside(middle, n_samples);
            to[k] = (float)log(steep[at] / steep_level[i] + FLOOR);
            to[ENVELOPE_POINTS + k] = (float)log(slow[at] / slow_level[i] + FLOOR);
            const double greatest = greatest_of(curvature, n_samples, middle - CURVE_REACH,
                                                middle + CURVE_REACH - 1);
            to[2 * ENVELOPE_POINTS + k] = (float)smaller(greatest / curve_level[i], 3.0);
        }
        to += 3 * ENVELOPE_POINTS;
        read_picture(smooth, n_samples, here, picture);
        span[i] = span_of(picture + QRS_FROM, QRS_POINTS) + TINY;
        curve[i] =
            greatest_of(curvature, n_samples, here - CURVE_QRS_REACH, here + CURVE_QRS_REACH);
        for (i64 shift = 0; shift < SHIFTS; ++shift) {
            normalise(picture + SHAPE_FROM + shift - SHIFTS / 2,
                      shapes + (i * SHIFTS + shift) * ROW);
        }
        const i64 first = at_least(here - 360, 0), last = at_most(here + 360, n_samples);
        const double noise = (sums[last] - sums[first]) / (last - first);
        const double drift =
            fabs(middle_of(picture + AFTER_FROM) - middle_of(picture + BEFORE_FROM));
        *to++ = (float)log(noise / steep_level[i] + FLOOR);
        *to++ = (float)log(slope[i] / steep_level[i] + FLOOR);
        *to++ = (float)log(span[i] / (span_of(picture, PICTURE_POINTS) + TINY) + FLOOR);
        *to++ = (float)smaller(drift / span[i], 3.0);
        *to++ = (float)smaller(here / FS, 2.0);
        *to++ = (float)smaller((n_samples - here) / FS, 2.0);
    }
    free(sums);
    const Candidates all = {position, {height, slope, span, curve}, shapes,
                            shapes + n * SHIFTS * ROW};
    for (i64 i = 0; i < n * KNOWN; ++i) all.known[i] = UNKNOWN;
    return put_context(&all, n, is_beat, columns, features);
}

static float bounded_verdict(const float *verdicts, i64 i, i64 n) {
    if (i < 0 || i >= n) return (float)-GREATEST_VERDICT;
    return (float)bounded(verdicts[i], -GREATEST_VERDICT, GREATEST_VERDICT);
}

/* Put the verdicts on a candidate and its neighbours, with their distances. */
static void put_verdicts(const i64 *position, i64 i, i64 n, const float *verdicts, float *to) {
    static const i64 BESIDE[4] = {-1, -2, 1, 2};
    to[0] = bounded_verdict(verdicts, i, n);
    for (i64 k = 0; k < 4; ++k) {
        const i64 other = i + BESIDE[k];
        to[1 + k] = bounded_verdict(verdicts, other, n);
        const double away_s = other < 0 || other >= n
                                  ? GREATEST_DISTANCE_S
                                  : fabs(position[other] / FS - position[i] / FS);
        to[5 + k] = (float)smaller(away_s, GREATEST_DISTANCE_S);
    }
}

/* Complete rows of ecg_measure_candidates for a second look: the features of the context as the
 * verdicts have it, and then the verdicts and what the rules say. */
KERNEL i64 ecg_look_again(const i64 *position, const double *height, const double *slope, i64 n,
                          const double *sizes, float *shapes, const unsigned char *by_rules,
                          const float *verdicts, i64 columns, float *features) {
    unsigned char *is_beat = malloc(n);
    if (!is_beat) return -1;
    for (i64 i = 0; i < n; ++i) {
        float *to = features + i * columns + FEATURES;
        is_beat[i] = verdicts[i] > 0;
        put_verdicts(position, i, n, verdicts, to);
        to[9] = by_rules[i];
    }
    const Candidates all = {position, {height, slope, sizes, sizes + n}, shapes,
                            shapes + n * SHIFTS * ROW};
    const i64 result = put_context(&all, n, is_beat, columns, features);
    free(is_beat);
    return result;
}
