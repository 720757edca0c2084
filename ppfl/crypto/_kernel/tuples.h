/* Arithmetic modulo a power of n.
 *
 * Modulo n^k, k >= 2, a number is a tuple (x_0, …, x_(k−1)) of d digits each that means the sum of
 * x_i·(−n)^i. With R of numbers.h, and m_(−1) = 0, the tuple z with
 *
 *     x_0·y_i + x_1·y_(i−1) + … + x_i·y_0 + m_(i−1) = R·z_i − m_i·n
 *
 * is x·y/R: the quotient m_i of a reduction, which Montgomery's method throws away, is the carry
 * into the next part, whose sign is the other. For k = 2, 3, 4 a product so takes 10, 18 and 28·d²
 * halves of products of digits where numbers of k·d digits take 16, 36 and 64; a square 7, 12, 18
 * where they take 12, 27 and 48.
 *
 * Parts stay below 2n: a product of two such tuples adds at most 16·n²/R < n to n.
 */
#ifndef PPFL_TUPLES_H
#define PPFL_TUPLES_H

#include "numbers.h"

/* out = a·b/R. */
ISA static void tuple_multiply(const field *f, lane *out, const lane *a, const lane *b) {
    const int d = f->d, last = f->parts - 1;
    for (int i = 0; i <= last; i++) {
        if (i) copy(f->t, f->m, d);
        else clear(f->t, d);
        add_product(f->t, a, d, b + i * d, d, 1);
        for (int j = 1; j <= i; j++) add_product(f->t, a + j * d, d, b + (i - j) * d, d, 0);
        reduce(f, i < last ? f->room + i * d : out + i * d);
    }
    copy(out, f->room, last * d);
}

/* x = x²/R. */
ISA static void tuple_square(const field *f, lane *x) {
    const int d = f->d, last = f->parts - 1;
    lane *doubled = f->room + (last - 1) * d; /* part i, from 1 on, lies i·d further */
    for (int i = 1; i <= last; i++) {
        for (int j = i * d; j < (i + 1) * d; j++) doubled[j] = twice(x[j]);
        carry(doubled + i * d, doubled + i * d, d);
    }
    for (int i = 0; i <= last; i++) {
        int j = 0;
        if (i % 2) {
            copy(f->t, f->m, d);
            add_product(f->t, x, d, doubled + i * d, d, 1);
            j = 1;
        } else {
            square_digits(f->t, x + i / 2 * d, d);
            for (int k = 0; i && k < d; k++) f->t[k] = plus(f->t[k], f->m[k]);
        }
        for (; 2 * j < i; j++) add_product(f->t, x + j * d, d, doubled + (i - j) * d, d, 0);
        reduce(f, i < last ? f->room + i * d : x + i * d);
    }
    copy(x, f->room, last * d);
}

/* x/R in digits to the base n: the sum of x_i·n^i, each in [0, n). */
ISA static void tuple_finish(const field *f, lane *x) {
    const int d = f->d;
    lane carried = zero(); /* in [−2, 1] */
    for (int i = 0; i < f->parts; i++, x += d) {
        for (int j = 0; j < d; j++) f->t[j] = i ? plus(x[j], f->m[j]) : x[j];
        clear(f->t + d, d);
        reduce(f, x); /* at most n + 1 */
        for (int j = 0; i && j < d; j++) {
            /* what is lent here to stay above 0 is missing in the next digit */
            x[j] = i % 2 ? minus(twice(f->n[j]), x[j]) : plus(f->n[j], x[j]);
        }
        x[0] = plus(x[0], carried);
        carry_signed(x, x, d);
        carried = i ? broadcast(i % 2 ? -2ULL : -1ULL) : zero();
        for (int k = 0; k < (i ? 2 : 1); k++) {
            const lanes_set below = subtract_once(x, f->n, f->room, d);
            carried = plus(carried, choose(below, zero(), broadcast(1)));
        }
    }
}

/* room = the sum of x_i·n^i, of `parts` digits to the base n. */
INLINE void expand(const field *f, const lane *x, int parts) {
    const int d = f->d;
    copy(f->room, x + (parts - 1) * d, d);
    for (int i = parts - 2, size = d; i >= 0; i--, size += d) {
        copy(f->t, x + i * d, d);
        clear(f->t + d, size - d);
        add_product(f->t, f->room, size, f->n, d, 1);
        carry(f->room, f->t, size + d);
    }
}

#endif
