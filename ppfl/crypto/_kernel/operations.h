/* Operations on vectors of big numbers, as many at a time as there are lanes, for
 * `ppfl.crypto.lanes`. Compiled once for each instruction set, whose header is included before.
 *
 * Vectors are numbers of equal width in bytes, least significant first, one after the other. Moduli
 * are odd. Functions return 0, or −1 where memory is missing, or what their comment says.
 *
 * Exponents are secret. Their windows neither branch nor address memory: the whole row of a table
 * is read and the entry taken by masks (one exponent) or permutations (one exponent per lane).
 */
#ifndef PPFL_OPERATIONS_H
#define PPFL_OPERATIONS_H

#include "pairs.h"
#include "tables.h"
#include "vectors.h"

enum {
    BATCH = 16, /* blocks of lanes that use one row of a table while it is in the cache */
};

EXPORT(supported)(void) { return supported(); }

/* a·b mod n for each a and b; `b_step` is 0 where all share one b, else `width`.
 * r2 = R² mod n. */
EXPORT(multiply)(const modulus *mod, uint8_t *out, const uint8_t *a, const uint8_t *b,
                 size_t b_step, size_t count, const uint8_t *r2) {
    const int d = mod->d;
    const size_t width = mod->width;
    const size_t size = (size_t)d * (FIELD_LANES + 3);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *x = take(&room, d), *y = take(&room, d), *square = take(&room, d);
    load_constant(square, d, r2, width);
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, a + i * width, width, width, left, 0);
        load(y, d, b + i * b_step, width, b_step, left, 0);
        multiply(&f, x, x, y);
        multiply(&f, x, x, square);
        subtract_once(x, f.n, f.room, d);
        store(out + i * width, width, width, x, d, left);
    }
    release(all, size);
    return 0;
}

/* b + q·((a − b)·factor mod n) for each a in [0, n) and b in [0, q): the number modulo n·q that is
 * a modulo n and b modulo q, if factor is R/q mod n. lift is a multiple of n, at least q, in all
 * whole bytes of d digits; it keeps a − b from becoming negative. */
EXPORT(garner)(const modulus *mod, uint8_t *out, size_t out_width, const uint8_t *a,
               const uint8_t *b, size_t count, const uint8_t *q, const uint8_t *factor,
               const uint8_t *lift) {
    const int d = mod->d;
    const size_t width = mod->width;
    const size_t size = (size_t)d * (FIELD_LANES + 5);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *x = take(&room, d), *y = take(&room, d), *other = take(&room, d),
         *inverse = take(&room, d), *lifted = take(&room, d);
    load_constant(other, d, q, width);
    load_constant(inverse, d, factor, width);
    load_constant(lifted, d, lift, (size_t)d * DIGIT_BITS / 8);
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, a + i * width, width, width, left, 0);
        load(y, d, b + i * width, width, width, left, 0);
        for (int j = 0; j < d; j++) {
            x[j] = plus(x[j], minus(lifted[j], y[j]));
        }
        carry_signed(x, x, d);
        multiply(&f, x, x, inverse);
        subtract_once(x, f.n, f.room, d);
        copy(f.t, y, d);
        add_product(f.t, x, other, d, 1);
        carry(f.t, f.t, 2 * d);
        store(out + i * out_width, out_width, out_width, f.t, 2 * d, left);
    }
    release(all, size);
    return 0;
}

/* x^exponent modulo n² for each x of `x_width` bytes, as two digits to the base n.
 * `chunks` pairs (x0, x1) in `powers` stand for R^(k + 2) modulo n²; `windows` is the number of
 * POWER_BITS of the exponent. */
EXPORT(power)(const modulus *mod, uint8_t *out, const uint8_t *x, size_t x_width, size_t count,
              const uint8_t *powers, int chunks, const uint8_t *exponent, int windows) {
    const int d = mod->d, pair = 2 * d;
    const size_t width = mod->width;
    enum { ENTRIES = 1 << POWER_BITS };
    const size_t size = (size_t)d * (FIELD_LANES + 2 * (ENTRIES + chunks + 2));
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *table = take(&room, ENTRIES * pair), *base = take(&room, chunks * pair),
         *result = take(&room, pair), *picked = take(&room, pair);
    for (int k = 0; k < 2 * chunks; k++) load_constant(base + k * d, d, powers + k * width, width);
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        clear(result, pair);
        for (int k = 0; k < chunks; k++) {
            load(picked, d, x + i * x_width, x_width, x_width, left, (size_t)k * d);
            clear(picked + d, d);
            pair_multiply(&f, picked, picked, base + k * pair);
            for (int j = 0; j < pair; j++) result[j] = plus(result[j], picked[j]);
        }
        carry(table + pair, result, d);
        carry(table + pair + d, result + d, d);
        clear(picked, pair);
        picked[0] = broadcast(1);
        pair_multiply(&f, table, picked, base);
        for (int e = 2; e < ENTRIES; e++) {
            if (e % 2) {
                pair_multiply(&f, table + e * pair, table + (e - 1) * pair, table + pair);
            } else {
                copy(table + e * pair, table + e / 2 * pair, pair);
                pair_square(&f, table + e * pair);
            }
        }
        for (int window = windows - 1; window >= 0; window--) {
            const uint32_t digit = exponent[window / 2] >> (window % 2 * POWER_BITS) & 15u;
            pick_shared(picked, table, digit, pair);
            if (window == windows - 1) {
                copy(result, picked, pair);
                continue;
            }
            for (int k = 0; k < POWER_BITS; k++) pair_square(&f, result);
            pair_multiply(&f, result, result, picked);
        }
        pair_finish(&f, result);
        store(out + 2 * i * width, width, 2 * width, result, d, left);
        store(out + (2 * i + 1) * width, width, 2 * width, result + d, d, left);
    }
    release(all, size);
    return 0;
}

/* Tables of powers modulo n²: for each base, a pair, 2d·TABLE_SIZE digits, of which [j][e] is digit
 * j of base^e·R. r2 is R² modulo n², a pair. */
EXPORT(table)(const modulus *mod, table_digit *out, const uint8_t *bases, size_t count,
              const uint8_t *r2) {
    const int d = mod->d, pair = 2 * d;
    const size_t width = mod->width;
    const size_t size = (size_t)d * (FIELD_LANES + 6);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *square = take(&room, pair), *base = take(&room, pair), *entry = take(&room, pair);
    for (int k = 0; k < 2; k++) load_constant(square + k * d, d, r2 + k * width, width);
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        for (int k = 0; k < 2; k++) {
            load(base + k * d, d, bases + (2 * i + k) * width, width, 2 * width, left, 0);
        }
        pair_multiply(&f, base, base, square);
        clear(entry, pair);
        entry[0] = broadcast(1);
        pair_multiply(&f, entry, entry, square);
        for (int e = 0; e < TABLE_SIZE; e++) {
            for (int j = 0; j < pair; j++) {
                const uint64_t *digits = (const uint64_t *)(entry + j);
                for (int k = 0; k < left; k++) {
                    out[((i + k) * pair + j) * TABLE_SIZE + e] = (table_digit)digits[k];
                }
            }
            pair_multiply(&f, entry, entry, base);
        }
    }
    release(all, size);
    return 0;
}

/* The product over i of (base i)^(byte i of the exponent), modulo n², for each exponent of `bases`
 * bytes. */
EXPORT(fixed_base)(const modulus *mod, uint8_t *out, const table_digit *table, int bases,
                   const uint8_t *exponents, size_t count) {
    const int d = mod->d, pair = 2 * d;
    const size_t square_width = mod->square_width;
    const size_t size = (size_t)d * (FIELD_LANES + 2 * (BATCH + 2));
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *picked = take(&room, 2 * pair), *results = take(&room, BATCH * pair);
    for (size_t i = 0; i < count; i += BATCH * LANES) {
        for (int base = 0; base < bases; base++) {
            const table_digit *row = table + (size_t)base * pair * TABLE_SIZE;
            for (size_t k = i; k < i + BATCH * LANES && k < count; k += 2 * LANES) {
                lane *result = results + (k - i) / LANES * pair;
                table_digit digits[2 * LANES] = {0};
                entries index;
                for (size_t l = 0; l < 2 * LANES && k + l < count; l++) {
                    digits[l] = exponents[(k + l) * bases + base];
                }
                memcpy(&index, digits, sizeof index);
                pick(base ? picked : result, row, index, pair);
                if (base) {
                    pair_multiply(&f, result, result, picked);
                    pair_multiply(&f, result + pair, result + pair, picked + pair);
                }
            }
        }
        for (size_t k = i; k < i + BATCH * LANES && k < count; k += LANES) {
            lane *result = results + (k - i) / LANES * pair;
            pair_finish(&f, result);
            copy(f.t, result, d);
            add_product(f.t, result + d, f.n, d, 1);
            carry(f.t, f.t, pair);
            store(out + k * square_width, square_width, square_width, f.t, pair,
                  lanes_left(k, count));
        }
    }
    release(all, size);
    return 0;
}

/* ρ + n·(m·ρ mod n) mod n², which is (1 + m·n)·ρ, for each m and ρ. r3 is R³ mod n. Returns 1 where
 * an m is not below n or a ρ not below n². */
EXPORT(blind)(const modulus *mod, uint8_t *out, const uint8_t *m, const uint8_t *rho,
              size_t count, const uint8_t *r3) {
    const int d = mod->d;
    const size_t width = mod->width, square_width = mod->square_width;
    const size_t size = (size_t)d * (FIELD_LANES + 7);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *x = take(&room, d), *y = take(&room, d), *cube = take(&room, d),
         *n2 = take(&room, 2 * d), *blinder = take(&room, 2 * d);
    load_constant(cube, d, r3, width);
    load_constant(n2, 2 * d, mod->square, square_width);
    unsigned outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, m + i * width, width, width, left, 0);
        load(blinder, 2 * d, rho + i * square_width, square_width, square_width, left, 0);
        outside |= others(subtract(f.room, x, f.n, d));
        outside |= others(subtract(f.room, blinder, n2, 2 * d));
        copy(f.t, blinder, 2 * d);
        reduce(&f, y);
        multiply(&f, x, x, y);
        multiply(&f, x, x, cube);
        subtract_once(x, f.n, f.room, d);
        copy(f.t, blinder, 2 * d);
        add_product(f.t, x, f.n, d, 0);
        carry(f.t, f.t, 2 * d);
        subtract_once(f.t, n2, f.room, 2 * d);
        store(out + i * square_width, square_width, square_width, f.t, 2 * d, left);
    }
    release(all, size);
    return outside != 0;
}

/* LANES numbers modulo n that share a factor with n where one of the numbers modulo n² does.
 * Returns 1 where one is not in [1, n²). */
EXPORT(check)(const modulus *mod, uint8_t *out, const uint8_t *numbers, size_t count) {
    const int d = mod->d;
    const size_t width = mod->width, square_width = mod->square_width;
    const size_t size = (size_t)d * (FIELD_LANES + 6);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *product = take(&room, d), *x = take(&room, d), *n2 = take(&room, 2 * d),
         *number = take(&room, 2 * d);
    load_constant(n2, 2 * d, mod->square, square_width);
    clear(product, d);
    product[0] = broadcast(1);
    unsigned outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(number, 2 * d, numbers + i * square_width, square_width, square_width, left, 0);
        /* a lane without a number multiplies by 1 */
        number[0] = choose(first(left), number[0], broadcast(1));
        lane any = zero();
        for (int j = 0; j < 2 * d; j++) any = bits_of_either(any, number[j]);
        outside |= others(nonzero(any));
        outside |= others(subtract(f.room, number, n2, 2 * d));
        copy(f.t, number, 2 * d);
        reduce(&f, x);
        multiply(&f, product, product, x);
    }
    subtract_once(product, f.n, f.room, d);
    store(out, width, width, product, d, LANES);
    release(all, size);
    return outside != 0;
}

#endif
