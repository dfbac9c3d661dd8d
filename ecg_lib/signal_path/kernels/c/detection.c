/* Candidates of the R-peak detector: where they are, what the rules say, and their extrema. */
#include "kernels.h"

/* Local maxima, the middles of plateaus; at most n / 2. */
static i64 find_tops(const double *x, i64 n, i64 *tops) {
    i64 count = 0, risen_at = -1;
    for (i64 i = 0; i + 1 < n; ++i) {
        if (x[i + 1] > x[i]) {
            risen_at = i + 1;
        } else if (x[i + 1] < x[i]) {
            if (risen_at >= 0) tops[count++] = (risen_at + i) / 2;
            risen_at = -1;
        }
    }
    return count;
}

enum { OPEN, KEPT, DROPPED };

/* Of maxima nearer than `distance` keep the highest, then the highest of those that are left, and
 * so on; of equal heights the later one. Returns how many are kept.
 *
 * The highest within its own neighbourhood is kept whatever is beyond, so that no order of all is
 * needed. Rounds go to and fro: heights that rise or fall over the whole signal take one each. */
static i64 thin_out(const double *x, i64 distance, i64 *tops, i64 count, i64 *open, char *state) {
    memset(state, OPEN, count);
    i64 n_open = count;
    for (i64 i = 0; i < count; ++i) open[i] = i;
    for (int is_back = 0; n_open > 0; is_back = !is_back) {
        for (i64 k = 0; k < n_open; ++k) {
            const i64 i = is_back ? n_open - 1 - k : k, here = tops[open[i]];
            if (state[open[i]] != OPEN) continue;
            /* NaN hides nothing, and nothing hides it: each round keeps at least one. */
            int is_highest = 1;
            for (i64 j = i - 1; j >= 0 && is_highest; --j) {
                if (here - tops[open[j]] >= distance) break;
                is_highest = state[open[j]] != OPEN || !(x[tops[open[j]]] > x[here]);
            }
            for (i64 j = i + 1; j < n_open && is_highest; ++j) {
                if (tops[open[j]] - here >= distance) break;
                is_highest = state[open[j]] != OPEN || !(x[tops[open[j]]] >= x[here]);
            }
            if (!is_highest) continue;
            state[open[i]] = KEPT;
            for (i64 j = i - 1; j >= 0 && here - tops[open[j]] < distance; --j) {
                state[open[j]] = DROPPED;
            }
            for (i64 j = i + 1; j < n_open && tops[open[j]] - here < distance; ++j) {
                state[open[j]] = DROPPED;
            }
        }
        i64 left = 0;
        for (i64 i = 0; i < n_open; ++i) {
            if (state[open[i]] == OPEN) open[left++] = open[i];
        }
        n_open = left;
    }
    i64 kept = 0;
    for (i64 i = 0; i < count; ++i) {
        if (state[i] == KEPT) tops[kept++] = tops[i];
    }
    return kept;
}

/* Find local maxima that no higher one within `distance` rules out. `position` has room for
 * n / distance + 2; returns how many there are. */
KERNEL i64 ecg_find_maxima(const double *x, i64 n, i64 distance, i64 *position) {
    i64 *tops = malloc((n + 2) * sizeof(i64));
    char *state = malloc(n / 2 + 1);
    i64 count = -1;
    if (tops && state) {
        count = find_tops(x, n, tops);
        count = thin_out(x, distance, tops, count, tops + n / 2 + 1, state);
        memcpy(position, tops, count * sizeof(i64));
    }
    free(tops);
    free(state);
    return count;
}

i64 local_level(const double *envelope, i64 n, const i64 *position, i64 count, i64 width, i64 bins,
                double *level) {
    const i64 n_bins = at_least(1, n / width), size = at_most(n_bins, bins);
    double *memory = malloc((3 * n_bins + size) * sizeof(double));
    if (!memory) return -1;
    double *greatest = memory, *usual = memory + n_bins, *middle = memory + 2 * n_bins;
    for (i64 bin = 0; bin < n_bins; ++bin) {
        const i64 stop = bin == n_bins - 1 ? n : (bin + 1) * width;
        const double *first = envelope + bin * width;
        greatest[bin] = greatest_value(first, stop - bin * width, *first);
        middle[bin] = bin * width + width / 2.0;
    }
    filter_rank(greatest, n_bins, size, size / 2, memory + 3 * n_bins, usual);
    const double tiny = 2.2250738585072014e-308;
    for (i64 bin = 0; bin < n_bins; ++bin) usual[bin] = larger(usual[bin], tiny);
    for (i64 i = 0; i < count; ++i) level[i] = interpolate(position[i], middle, usual, n_bins);
    free(memory);
    return 0;
}

/* Greatest value from `from` to `to`, each `step` samples, around positions. */
KERNEL i64 ecg_max_around(const double *x, i64 n, const i64 *position, i64 count, i64 from, i64 to,
                          i64 step, double *greatest) {
    for (i64 i = 0; i < count; ++i) {
        double value = x[inside(position[i] + from, n)];
        for (i64 offset = from + step; offset <= to; offset += step) {
            value = larger(value, x[inside(position[i] + offset, n)]);
        }
        greatest[i] = value;
    }
    return 0;
}

/* Measure candidates: height over the local level, the greater one of two scales; slope; and both
 * levels. The window is that of the steep scale. */
KERNEL i64 ecg_measure_heights(const double *steep, const double *slope, const double *slow, i64 n,
                               const i64 *position, i64 count, i64 window, i64 width, i64 bins,
                               double slow_weight, double *height, double *steepest,
                               double *steep_level, double *slow_level) {
    if (local_level(steep, n, position, count, width, bins, steep_level) < 0) return -1;
    if (local_level(slow, n, position, count, width, bins, slow_level) < 0) return -1;
    const i64 first = -(window / 2), last = (window - 1) / 2;
    ecg_max_around(slow, n, position, count, first, last, 1, height);
    ecg_max_around(slope, n, position, count, first, last, 1, steepest);
    for (i64 i = 0; i < count; ++i) {
        height[i] = larger(steep[position[i]] / steep_level[i],
                           slow_weight * (height[i] / slow_level[i]));
    }
    return 0;
}

/* Span of the values from `from` to `to` around positions. */
KERNEL i64 ecg_span_around(const double *x, i64 n, const i64 *position, i64 count, i64 from, i64 to,
                           double *span) {
    for (i64 i = 0; i < count; ++i) {
        const i64 first = inside(position[i] + from, n), last = inside(position[i] + to, n);
        span[i] = span_of(x + first, last - first + 1);
    }
    return 0;
}

/* Constants of the rules, in the order in which Python gives them. */
enum {
    STRONG, T_REACH, P_REACH, T_SLOPE, T_WAVE_S, NEXT_BEAT_S, LONGEST_GAP_S, N_GAPS, GAPS
};

/* Take back candidates that are the T wave of a beat or the P wave of the next. */
static void reject_waves(const i64 *position, const double *slope, i64 n, const double *rules,
                         unsigned char *accepted) {
    i64 last = -1;
    for (i64 i = 0; i < n; ++i) {
        if (!accepted[i]) continue;
        if (last >= 0) {
            const double distance = position[i] - position[last];
            if (distance < rules[T_REACH] && slope[i] < rules[T_SLOPE] * slope[last]) {
                accepted[i] = 0;
                continue;
            }
            if (distance < rules[P_REACH] && slope[last] < rules[T_SLOPE] * slope[i]) {
                accepted[last] = 0;
            }
        }
        last = i;
    }
}

/* Accept the tallest candidate in each RR interval that is too long; returns how many. */
static i64 fill_gaps(const i64 *position, const double *height, const double *slope, i64 n,
                     const double *rules, double gap, double least, i64 *beats, double *rr_s,
                     double *local_s, unsigned char *accepted) {
    double window[9];
    i64 count = 0, found = 0;
    for (i64 i = 0; i < n; ++i) {
        if (accepted[i]) beats[count++] = i;
    }
    if (count < 3) return 0;
    for (i64 b = 0; b + 1 < count; ++b) {
        rr_s[b] = smaller(position[beats[b + 1]] / FS - position[beats[b]] / FS, 2.0);
    }
    const i64 size = at_most(9, count - 1);
    filter_rank(rr_s, count - 1, size, size / 2, window, local_s);
    for (i64 b = 0; b + 1 < count; ++b) {
        const i64 before = beats[b], after = beats[b + 1];
        const double before_s = position[before] / FS, after_s = position[after] / FS;
        if (after - before < 2) continue;
        if (!(after_s - before_s > smaller(gap * local_s[b], rules[LONGEST_GAP_S]))) continue;
        i64 best = -1;
        for (i64 i = before + 1; i < after; ++i) {
            const double here_s = position[i] / FS;
            if (height[i] > least &&
                (here_s - before_s > rules[T_WAVE_S] ||
                 slope[i] > rules[T_SLOPE] * slope[before]) &&
                after_s - here_s > rules[NEXT_BEAT_S] && (best < 0 || height[i] > height[best])) {
                best = i;
            }
        }
        if (best >= 0) {
            accepted[best] = 1;
            ++found;
        }
    }
    return found;
}

/* Accept candidates by height, slope and gap alone. */
KERNEL i64 ecg_accept_by_rules(const i64 *position, const double *height, const double *slope,
                               i64 n, const double *rules, unsigned char *accepted) {
    i64 *beats = malloc((n + 1) * sizeof(i64));
    double *rr_s = malloc((2 * n + 1) * sizeof(double));
    i64 done = -1;
    if (beats && rr_s) {
        for (i64 i = 0; i < n; ++i) accepted[i] = height[i] >= rules[STRONG];
        reject_waves(position, slope, n, rules, accepted);
        for (i64 g = 0; g < (i64)rules[N_GAPS]; ++g) {
            const double gap = rules[GAPS + 2 * g], least = rules[GAPS + 2 * g + 1];
            for (i64 again = 0; again < 2; ++again) {
                if (!fill_gaps(position, height, slope, n, rules, gap, least, beats, rr_s,
                               rr_s + n, accepted)) {
                    break;
                }
            }
        }
        done = 0;
    }
    free(beats);
    free(rr_s);
    return done;
}

/* The sample of the extremum of each complex, in the polarity of the neighbourhood. */
KERNEL i64 ecg_find_extrema(const double *smooth, i64 n, const i64 *position, i64 count, i64 reach,
                            i64 polarity_beats, double ratio, i64 *placed) {
    const i64 width = 6 * reach + 1, size = at_most(polarity_beats, count);
    double *memory = malloc((width + 4 * count + size) * sizeof(double));
    i64 *lowest = malloc(count * sizeof(i64));
    if (!memory || !lowest) {
        free(memory);
        free(lowest);
        return -1;
    }
    double *around = memory, *up = memory + width, *down = up + count;
    double *upright = down + count, *usual = upright + count, *window = usual + count;
    for (i64 b = 0; b < count; ++b) {
        i64 high = -reach, low = -reach;
        for (i64 i = -3 * reach; i <= 3 * reach; ++i) {
            around[i + 3 * reach] = smooth[inside(position[b] + i, n)];
        }
        const double *here = around + 3 * reach;
        for (i64 i = -reach + 1; i <= reach; ++i) {
            if (here[i] > here[high]) high = i;
            if (here[i] < here[low]) low = i;
        }
        const double tallest = here[high], deepest = here[low];
        const double middle = median_of(around, width);
        up[b] = larger(tallest - middle, 1e-9);
        down[b] = larger(middle - deepest, 1e-9);
        upright[b] = log(up[b] / down[b]);
        placed[b] = position[b] + high;
        lowest[b] = position[b] + low;
    }
    filter_rank(upright, count, size, size / 2, window, usual);
    for (i64 b = 0; b < count; ++b) {
        const int takes_up = usual[b] > 0 ? down[b] < ratio * up[b] : up[b] > ratio * down[b];
        placed[b] = inside(takes_up ? placed[b] : lowest[b], n);
    }
    free(memory);
    free(lowest);
    return 0;
}
