/* What a library was built from, and the reading of samples, which is no matter of signals. */
#include "kernels.h"

/* SHA-256 of the sources, which a test compares with them. */
KERNEL const char ecg_sources[] = ECG_SOURCES;

#define MOST_DIGITS 18
#define EXACT_MANTISSA (1ULL << 53)
#define EXACT_POWER 22
#define MOST_FIVES 27

typedef unsigned __int128 u128;

static const double TENS[EXACT_POWER + 1] = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
};

/* mantissa / 10^power, rounded once, to even at a tie; 10^power is 5^power 2^power, and
 * 5^MOST_FIVES < 2^63, so that a quotient of 128 by 64 bits has more bits than a double. */
static double divide_by_tens(uint64_t mantissa, i64 power) {
    uint64_t fives = 1;
    for (i64 k = 0; k < power; k++) fives *= 5;
    int shift = 64 + __builtin_clzll(mantissa);
    u128 scaled = (u128)mantissa << shift, quotient = scaled / fives;
    int has_rest = quotient * fives != scaled;
    uint64_t high = (uint64_t)(quotient >> 64);
    int bits = high ? 128 - __builtin_clzll(high) : 64 - __builtin_clzll((uint64_t)quotient);
    int dropped = bits - 53;
    u128 kept = quotient >> dropped, half = (u128)1 << (dropped - 1);
    u128 left = quotient - (kept << dropped);
    if (left > half || (left == half && (has_rest || (kept & 1)))) kept++;
    return ldexp((double)(uint64_t)kept, dropped - shift - (int)power);
}

static inline int is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

static inline i64 skip_space(const uint8_t *text, i64 at, i64 length) {
    while (at < length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' ||
                           text[at] == '\r'))
        at++;
    return at;
}

/* The numbers of a JSON array from its first element on, and the place after its bracket.
 *
 * Returns how many; 0 for what another parser must read or refuse: anything else than numbers, an
 * empty array, more numbers than there is room for, or digits that cannot be rounded here. */
KERNEL i64 ecg_read_numbers(
    const uint8_t *text, i64 length, i64 start, double *numbers, i64 room, i64 *end
) {
    i64 at = skip_space(text, start, length), count = 0;
    while (count < room) {
        int is_negative = at < length && text[at] == '-';
        at += is_negative;
        if (at >= length || !is_digit(text[at])) return 0;
        uint64_t mantissa = 0;
        i64 digits = 0, power = 0;
        int is_whole = 1;
        if (text[at] == '0') {
            at++;
            if (at < length && is_digit(text[at])) return 0;
        }
        for (; at < length && is_digit(text[at]); at++, digits++)
            mantissa = 10 * mantissa + (text[at] - '0');
        if (digits > MOST_DIGITS) return 0;
        if (at < length && text[at] == '.') {
            is_whole = 0;
            i64 first = ++at;
            for (; at < length && is_digit(text[at]); at++) {
                digits += mantissa != 0 || text[at] != '0';
                if (digits > MOST_DIGITS) return 0;
                mantissa = 10 * mantissa + (text[at] - '0');
            }
            if (at == first) return 0;
            power = first - at;
        }
        if (at < length && (text[at] == 'e' || text[at] == 'E')) {
            is_whole = 0;
            int is_small = ++at < length && text[at] == '-';
            at += at < length && (text[at] == '-' || text[at] == '+');
            i64 first = at, exponent = 0;
            for (; at < length && is_digit(text[at]); at++) {
                exponent = 10 * exponent + (text[at] - '0');
                if (exponent > 999) return 0;
            }
            if (at == first) return 0;
            power += is_small ? -exponent : exponent;
        }
        double value;
        if (mantissa == 0) {
            value = 0.0;
            is_negative = is_negative && !is_whole; /* pydantic reads -0 as an integer */
        } else if (mantissa <= EXACT_MANTISSA && power >= -EXACT_POWER && power <= EXACT_POWER)
            value = power < 0 ? (double)mantissa / TENS[-power] : (double)mantissa * TENS[power];
        else if (power <= 0 && power >= -MOST_FIVES) value = divide_by_tens(mantissa, -power);
        else return 0;
        numbers[count++] = is_negative ? -value : value;
        at = skip_space(text, at, length);
        if (at >= length) return 0;
        if (text[at] == ']') {
            *end = at + 1;
            return count;
        }
        if (text[at] != ',') return 0;
        at = skip_space(text, at + 1, length);
    }
    return 0;
}
