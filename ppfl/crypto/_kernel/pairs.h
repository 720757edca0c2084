/* Arithmetic modulo a square.
 *
 * Modulo n², a number is a pair (x0, x1) of d digits each that means x0 − x1·n. With R of
 * numbers.h,
 *
 *     x0·y0 = R·z − m·n  gives  x·y/R = z − (x0·y1 + x1·y0 + m)/R · n  modulo n²:
 *
 * the quotient m of the reduction of x0·y0, which Montgomery's method throws away, is the carry
 * into x1. Modulo n², a product so takes 5·d² products of digits instead of 8·d², a square 3.5·d²
 * of 6·d².
 */
#ifndef PPFL_PAIRS_H
#define PPFL_PAIRS_H

#include "numbers.h"

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
    lane *doubled = f->room + d;
    square_digits(f->t, x, d);
    reduce(f, f->room);
    for (int j = 0; j < d; j++) doubled[j] = twice(x[d + j]);
    carry(doubled, doubled, d);
    copy(f->t, f->m, d);
    add_product(f->t, x, doubled, d, 1);
    reduce(f, x + d);
    copy(x, f->room, d);
}

/* x/R modulo n² as two digits to the base n: x0 + x1·n, both in [0, n). */
ISA static void pair_finish(const field *f, lane *x) {
    const int d = f->d;
    copy(f->t, x, d);
    clear(f->t + d, d);
    reduce(f, x);
    for (int j = 0; j < d; j++) f->t[j] = plus(x[d + j], f->m[j]);
    clear(f->t + d, d);
    reduce(f, x + d);
    const lanes_set below = subtract_once(x, f->n, f->room, d);
    for (int j = 0; j < d; j++) x[d + j] = minus(twice(f->n[j]), x[d + j]);
    x[d] = plus(x[d], choose(below, zero(), broadcast(1)));
    carry_signed(x + d, x + d, d);
    subtract_once(x + d, f->n, f->room, d);
    subtract_once(x + d, f->n, f->room, d); /* 2n + 1 − 0 is possible */
}

#endif
