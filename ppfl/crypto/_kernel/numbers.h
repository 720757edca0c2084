/* Arithmetic on numbers side by side, as many as an instruction set has lanes.
 *
 * A number is an array of digits to the base B = 2^DIGIT_BITS, least significant first; a `lane`
 * holds one digit of LANES numbers. Multiplication is almost-Montgomery [GK16]: with R = B^d, a·b/R
 * mod n comes out below 2n without a final subtraction wherever a·b <= R·n. Python chooses d such
 * that n < R/2^16, which leaves room for sums and for numbers not reduced. Carries wait above a
 * digit until a reduction ends, where 12 bits are free, since sums of products have no sign. For
 * numbers modulo n^k (tuples.h) a column takes k·d products before its reduction and d in it, each
 * of two halves if digits have 52 bits: d·(k + 1) is at most 2040, or 4080 with digits of 26 bits,
 * which leaves some for what else is added.
 *
 * Nothing here branches on, or addresses memory by, the value of a digit. The instruction set's
 * header, which says how to do each step, is included before.
 *
 * [GK16] S. Gueron, V. Krasnov, "Accelerating Big Integer Arithmetic Using Intel IFMA Extensions",
 * ARITH 2016.
 */
#ifndef PPFL_NUMBERS_H
#define PPFL_NUMBERS_H

enum { BLOCK = 5 }; /* digits multiplied in one sweep, which registers hold; d is a multiple */

/* One modulus, shared by all lanes, and room to multiply in. */
typedef struct {
    int d, parts; /* digits of n; the k of tuples.h, or 1 where only n is a modulus */
    lane *n;      /* d digits of the modulus, the same in every lane */
    lane inverse; /* −1/n mod B */
    lane *t;      /* span·d digits, span the greater of parts and 2: a sum before its reduction */
    lane *m;      /* d digits: (t + m·n)/R is what the last reduction returned */
    lane *room;   /* 2·(span − 1)·d digits: results that cannot be put in their place yet */
} field;

/* t[0, BLOCK) += a[0, BLOCK) · b[0, BLOCK), where w holds t[0, BLOCK) before, and t[BLOCK, 2·BLOCK)
 * after. Column j of t is in w[j % BLOCK]: the last product that reaches a column frees its place,
 * so that nothing moves from register to register. */
INLINE void sweep_block(lane *t, const lane *a, const lane *b, lane *w, int fresh) {
#pragma GCC unroll BLOCK
    for (int j = 0; j < BLOCK; j++) {
        const lane digit = a[j];
        t[j] = add_low(w[j], digit, b[0]);
        w[j] = fresh ? zero() : t[j + BLOCK];
#pragma GCC unroll BLOCK
        for (int r = 1; r < BLOCK; r++) {
            w[(j + r) % BLOCK] = add_low(w[(j + r) % BLOCK], digit, b[r]);
        }
#pragma GCC unroll BLOCK
        for (int r = 0; r < BLOCK; r++) {
            w[(j + r + 1) % BLOCK] = add_high(w[(j + r + 1) % BLOCK], digit, b[r]);
        }
    }
}

/* t[0, count + BLOCK) += a[0, count) · b[0, BLOCK), where w holds t[0, BLOCK) already, and, if
 * `fresh`, the last BLOCK digits of t have no value yet. Two memory reads and one write feed BLOCK
 * products, so that the multipliers never wait. */
INLINE void sweep(lane *t, const lane *a, int count, const lane *b, lane *w, int fresh) {
    const int known = fresh ? count - BLOCK : count;
    for (int j = 0; j < known; j += BLOCK) sweep_block(t + j, a + j, b, w, 0);
    if (fresh) sweep_block(t + known, a + known, b, w, 1);
#pragma GCC unroll BLOCK
    for (int r = 0; r < BLOCK; r++) t[count + r] = w[r];
}

/* t += a·b, of `count` and d digits; if `fresh`, only t[0, count) has a value before. */
INLINE void add_product(lane *t, const lane *a, int count, const lane *b, int d, int fresh) {
    for (int i = 0; i < d; i += BLOCK, t += BLOCK) {
        lane rows[BLOCK], w[BLOCK];
#pragma GCC unroll BLOCK
        for (int r = 0; r < BLOCK; r++) rows[r] = b[i + r], w[r] = t[r];
        sweep(t, a, count, rows, w, fresh);
    }
}

INLINE void clear(lane *x, int count) {
    for (int j = 0; j < count; j++) x[j] = zero();
}

INLINE void copy(lane *to, const lane *from, int count) {
    for (int j = 0; j < count; j++) to[j] = from[j];
}

/* out = x with every digit below B; returns what the last digit carries. */
INLINE lane carry_digits(lane *out, const lane *x, int count, int with_signs) {
    lane over = zero();
    for (int j = 0; j < count; j++) {
        const lane digit = plus(x[j], over);
        out[j] = digit_of(digit);
        over = with_signs ? above_signed(digit) : above(digit);
    }
    return over;
}

INLINE void carry(lane *out, const lane *x, int count) { carry_digits(out, x, count, 0); }

/* The same for digits of which some are negative; returns the lanes where x is. */
INLINE lanes_set carry_signed(lane *out, const lane *x, int count) {
    return negative(carry_digits(out, x, count, 1));
}

/* out = (t + m·n)/R, which is t/R mod n, below t/R + n; m < R is kept in f->m. */
INLINE void reduce(const field *f, lane *out) {
    const int d = f->d;
    lane *t = f->t;
    for (int i = 0; i < d; i += BLOCK, t += BLOCK) {
        lane m[BLOCK], w[2 * BLOCK + 1];
#pragma GCC unroll 2 * BLOCK
        for (int r = 0; r < 2 * BLOCK; r++) w[r] = t[r];
#pragma GCC unroll BLOCK
        for (int r = 0; r < BLOCK; r++) {
            m[r] = low_digit(w[r], f->inverse);
            f->m[i + r] = m[r];
            const lane over = above_sum(w[r], f->n[0], m[r]);
#pragma GCC unroll BLOCK
            for (int j = 1; j < BLOCK; j++) w[r + j] = add_low(w[r + j], f->n[j], m[r]);
#pragma GCC unroll BLOCK
            for (int j = 1; j < BLOCK; j++) w[r + j + 1] = add_high(w[r + j + 1], f->n[j], m[r]);
            w[r + 1] = plus(w[r + 1], over);
        }
        sweep(t + BLOCK, f->n + BLOCK, d - BLOCK, m, w + BLOCK, 0);
    }
    carry(out, t, d);
}

/* out = a·b/R mod n. */
INLINE void multiply(const field *f, lane *out, const lane *a, const lane *b) {
    clear(f->t, f->d);
    add_product(f->t, a, f->d, b, f->d, 1);
    reduce(f, out);
}

/* t = a², for a of d digits: each product of two different digits once, doubled. */
INLINE void square_digits(lane *t, const lane *a, int d) {
    clear(t, d);
    clear(t + 2 * d - BLOCK, BLOCK);
    for (int i = 0; i < d; i += BLOCK) {
        lane w[2 * BLOCK + 1], rows[BLOCK];
#pragma GCC unroll 2 * BLOCK
        for (int r = 0; r < 2 * BLOCK; r++) w[r] = t[2 * i + r];
#pragma GCC unroll BLOCK
        for (int r = 0; r < BLOCK; r++) rows[r] = a[i + r];
#pragma GCC unroll BLOCK
        for (int r = 0; r < BLOCK; r++) {
#pragma GCC unroll BLOCK
            for (int j = r + 1; j < BLOCK; j++) {
                w[r + j] = add_low(w[r + j], rows[r], rows[j]);
                w[r + j + 1] = add_high(w[r + j + 1], rows[r], rows[j]);
            }
        }
#pragma GCC unroll BLOCK
        for (int r = 0; r < BLOCK; r++) t[2 * i + r] = w[r];
        const int rest = d - i - BLOCK;
        sweep(t + 2 * i + BLOCK, a + i + BLOCK, rest, rows, w + BLOCK, rest > 0);
    }
    for (int i = 0; i < d; i++) {
        const lane low = twice(t[2 * i]), high = twice(t[2 * i + 1]);
        t[2 * i] = add_low(low, a[i], a[i]);
        t[2 * i + 1] = add_high(high, a[i], a[i]);
    }
}

/* room = x − n modulo R; returns the lanes where x < n. */
INLINE lanes_set subtract(lane *room, const lane *x, const lane *n, int d) {
    for (int j = 0; j < d; j++) room[j] = minus(x[j], n[j]);
    return carry_signed(room, room, d);
}

/* x mod n, for x < 2n; returns the lanes where x < n already. */
INLINE lanes_set subtract_once(lane *x, const lane *n, lane *room, int d) {
    const lanes_set below = subtract(room, x, n, d);
    for (int j = 0; j < d; j++) x[j] = choose(below, x[j], room[j]);
    return below;
}

#endif
