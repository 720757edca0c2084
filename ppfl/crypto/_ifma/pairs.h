/* Arithmetic modulo a square.
 *
 * Modulo n², a number is a pair (x0, x1) of d digits each that means x0 − x1·n. With R of lanes.h,
 *
 *     x0·y0 = R·z − m·n  gives  x·y/R = z − (x0·y1 + x1·y0 + m)/R · n  modulo n²:
 *
 * the quotient m of the reduction of x0·y0, which Montgomery's method throws away, is the carry
 * into x1. Modulo n², a product so takes 10·d² multiply-adds instead of 16·d², a square 7·d² of 12.
 */
#ifndef PPFL_PAIRS_H
#define PPFL_PAIRS_H

#include "lanes.h"

/* out = a·b/R modulo n², for pairs of d digits each. */
ISA static void pair_multiply(const field *f, lane *out, const lane *a, const lane *b) {
    const int d = f->d;
    multiply(f, f->room, a, b);
    copy(f->t, f->m, d);
    add_product(f->t, a, b + d, d, 1);
    add_product(f->t, a + d, b, d, 0);
    reduce(f, out + d);
    copy(out, f->room, d);
}

/* x = x²/R modulo n². */
ISA static void pair_square(const field *f, lane *x) {
    const int d = f->d;
    lane *twice = f->room + d;
    square_digits(f->t, x, d);
    reduce(f, f->room);
    for (int j = 0; j < d; j++) twice[j] = _mm512_slli_epi64(x[d + j], 1);
    carry(twice, twice, d);
    copy(f->t, f->m, d);
    add_product(f->t, x, twice, d, 1);
    reduce(f, x + d);
    copy(x, f->room, d);
}

/* x/R modulo n² as two digits to the base n: x0 + x1·n, both in [0, n). */
ISA static void pair_finish(const field *f, lane *x) {
    const int d = f->d;
    copy(f->t, x, d);
    clear(f->t + d, d);
    reduce(f, x);
    for (int j = 0; j < d; j++) f->t[j] = _mm512_add_epi64(x[d + j], f->m[j]);
    clear(f->t + d, d);
    reduce(f, x + d);
    const __mmask8 below = subtract_once(x, f->n, f->room, d);
    for (int j = 0; j < d; j++) {
        x[d + j] = _mm512_sub_epi64(_mm512_slli_epi64(f->n[j], 1), x[d + j]);
    }
    const lane one = _mm512_maskz_set1_epi64((__mmask8)~below, 1);
    x[d] = _mm512_add_epi64(x[d], one);
    carry(x + d, x + d, d);
    subtract_once(x + d, f->n, f->room, d);
    subtract_once(x + d, f->n, f->room, d); /* 2n + 1 − 0 is possible */
}

#endif
