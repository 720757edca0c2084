/* Arithmetic on eight numbers side by side.
 *
 * A number is an array of digits to the base 2^52, least significant first; a `lane` holds one
 * digit of eight numbers. Multiplication is almost-Montgomery [GK16]: with R = 2^(52·d), a·b/R
 * mod n comes out below 2n without a final subtraction wherever a·b <= R·n. Python chooses d such
 * that n < R/2^16, which leaves room for sums and for numbers not reduced. Carries wait in the upper
 * 12 bits of each digit until a reduction ends: a column takes at most 6·d products, so d <= 340.
 *
 * Nothing here branches on, or addresses memory by, the value of a digit.
 *
 * [GK16] S. Gueron, V. Krasnov, "Accelerating Big Integer Arithmetic Using Intel IFMA Extensions",
 * ARITH 2016.
 */
#ifndef PPFL_LANES_H
#define PPFL_LANES_H

#include <immintrin.h>
#include <stdint.h>

#define ISA __attribute__((target("avx512f,avx512ifma,avx512vl,avx512dq")))
#define INLINE static inline __attribute__((always_inline)) ISA

enum {
    LANES = 8,
    DIGIT_BITS = 52,
    BLOCK = 5, /* digits multiplied in one sweep: d is a multiple, as 20, 30, 40, 60 and 80 are */
};

typedef __m512i lane;

/* One modulus, shared by all lanes, and room to multiply in. */
typedef struct {
    int d;
    lane *n;      /* d digits of the modulus, the same in every lane */
    lane inverse; /* −1/n mod 2^52 */
    lane *t;      /* 2d digits: a product before its reduction */
    lane *m;      /* d digits: (t + m·n)/R is what the last reduction returned */
    lane *room;   /* 2d digits: results that cannot be put in their place yet */
} field;

INLINE lane mask52(void) { return _mm512_set1_epi64((1LL << DIGIT_BITS) - 1); }

INLINE lane add_low(lane sum, lane a, lane b) { return _mm512_madd52lo_epu64(sum, a, b); }

INLINE lane add_high(lane sum, lane a, lane b) { return _mm512_madd52hi_epu64(sum, a, b); }

/* Digit j of a sweep: w, which holds t[j, j + BLOCK], += a[j] · b[0, BLOCK), moves up a digit. */
INLINE lane sweep_digit(lane digit, const lane *b, lane *w, lane next) {
    w[BLOCK] = next;
#pragma GCC unroll 5
    for (int r = 0; r < BLOCK; r++) w[r] = add_low(w[r], digit, b[r]);
#pragma GCC unroll 5
    for (int r = 0; r < BLOCK; r++) w[r + 1] = add_high(w[r + 1], digit, b[r]);
    const lane done = w[0];
#pragma GCC unroll 5
    for (int r = 0; r < BLOCK; r++) w[r] = w[r + 1];
    return done;
}

/* t[0, count + BLOCK) += a[0, count) · b[0, BLOCK), where w holds t[0, BLOCK) already and the last
 * `fresh` digits of t have no value yet. Two memory reads and one write feed ten multiply-adds, so
 * that the multipliers never wait. */
INLINE void sweep(lane *t, const lane *a, int count, const lane *b, lane *w, int fresh) {
    for (int j = 0; j < count - fresh; j++) t[j] = sweep_digit(a[j], b, w, t[j + BLOCK]);
    for (int j = count - fresh; j < count; j++) {
        t[j] = sweep_digit(a[j], b, w, _mm512_setzero_si512());
    }
#pragma GCC unroll 5
    for (int r = 0; r < BLOCK; r++) t[count + r] = w[r];
}

/* t += a·b, of d digits each; if `fresh`, only t[0, d) has a value before. */
INLINE void add_product(lane *t, const lane *a, const lane *b, int d, int fresh) {
    for (int i = 0; i < d; i += BLOCK, t += BLOCK) {
        lane rows[BLOCK], w[BLOCK + 1];
#pragma GCC unroll 5
        for (int r = 0; r < BLOCK; r++) rows[r] = b[i + r], w[r] = t[r];
        sweep(t, a, d, rows, w, fresh ? BLOCK : 0);
    }
}

INLINE void clear(lane *x, int count) {
    for (int j = 0; j < count; j++) x[j] = _mm512_setzero_si512();
}

INLINE void copy(lane *to, const lane *from, int count) {
    for (int j = 0; j < count; j++) to[j] = from[j];
}

/* out = x with every digit below 2^52; what the last digit carries is lost. */
INLINE void carry(lane *out, const lane *x, int count) {
    lane over = _mm512_setzero_si512();
    for (int j = 0; j < count; j++) {
        const lane digit = _mm512_add_epi64(x[j], over);
        out[j] = _mm512_and_si512(digit, mask52());
        over = _mm512_srai_epi64(digit, DIGIT_BITS); /* signed, for differences */
    }
}

/* out = (t + m·n)/R, which is t/R mod n, below t/R + n; m < R is kept in f->m. */
INLINE void reduce(const field *f, lane *out) {
    const int d = f->d;
    lane *t = f->t;
    for (int i = 0; i < d; i += BLOCK, t += BLOCK) {
        lane m[BLOCK], w[2 * BLOCK + 1];
#pragma GCC unroll 10
        for (int r = 0; r < 2 * BLOCK; r++) w[r] = t[r];
#pragma GCC unroll 5
        for (int r = 0; r < BLOCK; r++) {
            m[r] = add_low(_mm512_setzero_si512(), w[r], f->inverse);
            f->m[i + r] = m[r];
            /* w[r] + m·n[0] ends in 52 zeros, so it carries w[r] / 2^52 rounded up: there is no
             * need to wait for the product, nor to form it */
            lane over = _mm512_srli_epi64(_mm512_add_epi64(w[r], mask52()), DIGIT_BITS);
            over = add_high(over, f->n[0], m[r]);
#pragma GCC unroll 5
            for (int j = 1; j < BLOCK; j++) w[r + j] = add_low(w[r + j], f->n[j], m[r]);
#pragma GCC unroll 5
            for (int j = 1; j < BLOCK; j++) w[r + j + 1] = add_high(w[r + j + 1], f->n[j], m[r]);
            w[r + 1] = _mm512_add_epi64(w[r + 1], over);
        }
        sweep(t + BLOCK, f->n + BLOCK, d - BLOCK, m, w + BLOCK, 0);
    }
    carry(out, t, d);
}

/* out = a·b/R mod n. */
INLINE void multiply(const field *f, lane *out, const lane *a, const lane *b) {
    clear(f->t, f->d);
    add_product(f->t, a, b, f->d, 1);
    reduce(f, out);
}

/* t = a², for a of d digits: each product of two different digits once, doubled. */
INLINE void square_digits(lane *t, const lane *a, int d) {
    clear(t, d);
    clear(t + 2 * d - BLOCK, BLOCK);
    for (int i = 0; i < d; i += BLOCK) {
        lane w[2 * BLOCK + 1], rows[BLOCK];
#pragma GCC unroll 10
        for (int r = 0; r < 2 * BLOCK; r++) w[r] = t[2 * i + r];
#pragma GCC unroll 5
        for (int r = 0; r < BLOCK; r++) rows[r] = a[i + r];
#pragma GCC unroll 5
        for (int r = 0; r < BLOCK; r++) {
#pragma GCC unroll 5
            for (int j = r + 1; j < BLOCK; j++) {
                w[r + j] = add_low(w[r + j], rows[r], rows[j]);
                w[r + j + 1] = add_high(w[r + j + 1], rows[r], rows[j]);
            }
        }
#pragma GCC unroll 5
        for (int r = 0; r < BLOCK; r++) t[2 * i + r] = w[r];
        const int rest = d - i - BLOCK;
        sweep(t + 2 * i + BLOCK, a + i + BLOCK, rest, rows, w + BLOCK, rest ? BLOCK : 0);
    }
    for (int i = 0; i < d; i++) {
        const lane low = _mm512_slli_epi64(t[2 * i], 1), high = _mm512_slli_epi64(t[2 * i + 1], 1);
        t[2 * i] = add_low(low, a[i], a[i]);
        t[2 * i + 1] = add_high(high, a[i], a[i]);
    }
}

/* room = x − n modulo 2^(52·d); returns the lanes where x < n. */
INLINE __mmask8 subtract(lane *room, const lane *x, const lane *n, int d) {
    lane over = _mm512_setzero_si512();
    for (int j = 0; j < d; j++) {
        const lane digit = _mm512_add_epi64(_mm512_sub_epi64(x[j], n[j]), over);
        room[j] = _mm512_and_si512(digit, mask52());
        over = _mm512_srai_epi64(digit, DIGIT_BITS);
    }
    return _mm512_movepi64_mask(over);
}

/* x mod n, for x < 2n; returns the lanes where x < n already. */
INLINE __mmask8 subtract_once(lane *x, const lane *n, lane *room, int d) {
    const __mmask8 below = subtract(room, x, n, d);
    for (int j = 0; j < d; j++) x[j] = _mm512_mask_mov_epi64(room[j], below, x[j]);
    return below;
}

#endif
