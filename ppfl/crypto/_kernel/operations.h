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

#include "tables.h"
#include "tuples.h"
#include "vectors.h"

enum {
    BATCH = 16, /* blocks of lanes that use one row of a table while it is in the cache */
};

EXPORT(supported)(void) { return supported(); }

/* a·b mod n for each a and b. r2 = R² mod n. */
EXPORT(multiply)(const modulus *mod, uint8_t *out, const uint8_t *a, const uint8_t *b,
                 size_t count, const uint8_t *r2) {
    const int d = mod->d;
    const size_t width = mod->width;
    const size_t size = lanes_for(mod, 3);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *x = take(&room, d), *y = take(&room, d), *square = take(&room, d);
    load_constant(square, d, r2, width);
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, a + i * width, width, width, left, 0);
        load(y, d, b + i * width, width, width, left, 0);
        multiply(&f, x, x, y);
        multiply(&f, x, x, square);
        subtract_once(x, f.n, f.room, d);
        store(out + i * width, width, width, x, d, left);
    }
    release(all, size);
    return 0;
}

/* c_1·x + … + c_terms·x^terms mod n for each x, where `series` holds c_1·R mod n and so on.
 * r2 = R² mod n. Returns 1 where an x is not below n. */
EXPORT(evaluate)(const modulus *mod, uint8_t *out, const uint8_t *numbers, size_t count,
                 const uint8_t *series, int terms, const uint8_t *r2) {
    const int d = mod->d;
    const size_t width = mod->width;
    const size_t size = lanes_for(mod, terms + 4);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *c = take(&room, terms * d), *x = take(&room, d), *lifted = take(&room, d),
         *sum = take(&room, d), *square = take(&room, d);
    for (int k = 0; k < terms; k++) load_constant(c + k * d, d, series + k * width, width);
    load_constant(square, d, r2, width);
    unsigned outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, numbers + i * width, width, width, left, 0);
        outside |= others(subtract(f.room, x, f.n, d));
        if (terms > 1) multiply(&f, lifted, x, square);
        copy(sum, c + (terms - 1) * d, d);
        for (int k = terms - 2; k >= 0; k--) {
            multiply(&f, sum, sum, lifted);
            for (int j = 0; j < d; j++) sum[j] = plus(sum[j], c[k * d + j]);
            carry(sum, sum, d);
        }
        multiply(&f, sum, sum, x);
        subtract_once(sum, f.n, f.room, d);
        store(out + i * width, width, width, sum, d, left);
    }
    release(all, size);
    return outside != 0;
}

/* b + q·((a − b)·factor mod n) for each a in [0, n) and b in [0, q): the number modulo n·q that is
 * a modulo n and b modulo q, if factor is R/q mod n. lift is a multiple of n, at least q, in all
 * whole bytes of d digits; it keeps a − b from becoming negative. */
EXPORT(garner)(const modulus *mod, uint8_t *out, size_t out_width, const uint8_t *a,
               const uint8_t *b, size_t count, const uint8_t *q, const uint8_t *factor,
               const uint8_t *lift) {
    const int d = mod->d;
    const size_t width = mod->width;
    const size_t size = lanes_for(mod, 5);
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
        add_product(f.t, x, d, other, d, 1);
        carry(f.t, f.t, 2 * d);
        store(out + i * out_width, out_width, out_width, f.t, 2 * d, left);
    }
    release(all, size);
    return 0;
}

/* x^exponent modulo n^parts for each x of `x_width` bytes, as `rest` + `quotient`·n.
 * `chunks` tuples in `powers` stand for R^(k + 2); `windows` is the number of POWER_BITS of the
 * exponent. */
EXPORT(power)(const modulus *mod, uint8_t *rest, uint8_t *quotient, const uint8_t *x,
              size_t x_width, size_t count, const uint8_t *powers, int chunks,
              const uint8_t *exponent, int windows) {
    const int d = mod->d, parts = mod->parts, whole = parts * d;
    const size_t width = mod->width, quotient_width = mod->quotient_width;
    enum { ENTRIES = 1 << POWER_BITS };
    const size_t size = lanes_for(mod, parts * (ENTRIES + chunks + 2));
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *table = take(&room, ENTRIES * whole), *base = take(&room, chunks * whole),
         *result = take(&room, whole), *picked = take(&room, whole);
    for (int k = 0; k < parts * chunks; k++) {
        load_constant(base + k * d, d, powers + k * width, width);
    }
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        clear(result, whole);
        for (int k = 0; k < chunks; k++) {
            load(picked, d, x + i * x_width, x_width, x_width, left, (size_t)k * d);
            clear(picked + d, whole - d);
            tuple_multiply(&f, picked, picked, base + k * whole);
            for (int j = 0; j < whole; j++) result[j] = plus(result[j], picked[j]);
        }
        for (int k = 0; k < whole; k += d) carry(table + whole + k, result + k, d);
        clear(picked, whole);
        picked[0] = broadcast(1);
        tuple_multiply(&f, table, picked, base);
        for (int e = 2; e < ENTRIES; e++) {
            if (e % 2) {
                tuple_multiply(&f, table + e * whole, table + (e - 1) * whole, table + whole);
            } else {
                copy(table + e * whole, table + e / 2 * whole, whole);
                tuple_square(&f, table + e * whole);
            }
        }
        for (int window = windows - 1; window >= 0; window--) {
            const uint32_t digit = exponent[window / 2] >> (window % 2 * POWER_BITS) & 15u;
            pick_shared(picked, table, digit, whole);
            if (window == windows - 1) {
                copy(result, picked, whole);
                continue;
            }
            for (int k = 0; k < POWER_BITS; k++) tuple_square(&f, result);
            tuple_multiply(&f, result, result, picked);
        }
        tuple_finish(&f, result);
        store(rest + i * width, width, width, result, d, left);
        expand(&f, result + d, parts - 1);
        store(quotient + i * quotient_width, quotient_width, quotient_width, f.room, whole - d,
              left);
    }
    release(all, size);
    return 0;
}

/* Tables of powers modulo n^parts: for each base, a tuple, parts·d·TABLE_SIZE digits, of which
 * [j][e] is digit j of base^e·R. r2 is R², a tuple. */
EXPORT(table)(const modulus *mod, table_digit *out, const uint8_t *bases, size_t count,
              const uint8_t *r2) {
    const int d = mod->d, parts = mod->parts, whole = parts * d;
    const size_t width = mod->width;
    const size_t size = lanes_for(mod, 3 * parts);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *square = take(&room, whole), *base = take(&room, whole), *entry = take(&room, whole);
    for (int k = 0; k < parts; k++) load_constant(square + k * d, d, r2 + k * width, width);
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        for (int k = 0; k < parts; k++) {
            load(base + k * d, d, bases + (parts * i + k) * width, width, parts * width, left, 0);
        }
        tuple_multiply(&f, base, base, square);
        clear(entry, whole);
        entry[0] = broadcast(1);
        tuple_multiply(&f, entry, entry, square);
        for (int e = 0; e < TABLE_SIZE; e++) {
            for (int j = 0; j < whole; j++) {
                const uint64_t *digits = (const uint64_t *)(entry + j);
                for (int k = 0; k < left; k++) {
                    out[((i + k) * whole + j) * TABLE_SIZE + e] = (table_digit)digits[k];
                }
            }
            tuple_multiply(&f, entry, entry, base);
        }
    }
    release(all, size);
    return 0;
}

/* The product over i of (base i)^(byte i of the exponent), modulo n^parts, for each exponent of
 * `bases` bytes. */
EXPORT(fixed_base)(const modulus *mod, uint8_t *out, const table_digit *table, int bases,
                   const uint8_t *exponents, size_t count) {
    const int parts = mod->parts, whole = parts * mod->d;
    const size_t top_width = mod->top_width;
    const size_t size = lanes_for(mod, parts * (BATCH + 2));
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *picked = take(&room, 2 * whole), *results = take(&room, BATCH * whole);
    for (size_t i = 0; i < count; i += BATCH * LANES) {
        for (int base = 0; base < bases; base++) {
            const table_digit *row = table + (size_t)base * whole * TABLE_SIZE;
            for (size_t k = i; k < i + BATCH * LANES && k < count; k += 2 * LANES) {
                lane *result = results + (k - i) / LANES * whole;
                table_digit digits[2 * LANES] = {0};
                entries index;
                for (size_t l = 0; l < 2 * LANES && k + l < count; l++) {
                    digits[l] = exponents[(k + l) * bases + base];
                }
                memcpy(&index, digits, sizeof index);
                pick(base ? picked : result, row, index, whole);
                if (base) {
                    tuple_multiply(&f, result, result, picked);
                    tuple_multiply(&f, result + whole, result + whole, picked + whole);
                }
            }
        }
        for (size_t k = i; k < i + BATCH * LANES && k < count; k += LANES) {
            lane *result = results + (k - i) / LANES * whole;
            tuple_finish(&f, result);
            expand(&f, result, parts);
            store(out + k * top_width, top_width, top_width, f.room, whole, lanes_left(k, count));
        }
    }
    release(all, size);
    return 0;
}

/* ρ + f·(x·ρ mod n) mod f·n, which is (1 + f·x)·ρ, for each x and ρ, where f divides n and `top` is
 * f·n, of `top_width` bytes. r3 is R³ mod n. Returns 1 where an x is not below n or a ρ not below
 * f·n. */
EXPORT(blind)(const modulus *mod, uint8_t *out, const uint8_t *numbers, const uint8_t *rho,
              size_t count, const uint8_t *factor, const uint8_t *top, size_t top_width,
              const uint8_t *r3) {
    const int d = mod->d;
    const size_t width = mod->width;
    const size_t size = lanes_for(mod, 8);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *x = take(&room, d), *y = take(&room, d), *cube = take(&room, d),
         *multiplier = take(&room, d), *limit = take(&room, 2 * d), *blinder = take(&room, 2 * d);
    load_constant(cube, d, r3, width);
    load_constant(multiplier, d, factor, width);
    load_constant(limit, 2 * d, top, top_width);
    unsigned outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, numbers + i * width, width, width, left, 0);
        load(blinder, 2 * d, rho + i * top_width, top_width, top_width, left, 0);
        outside |= others(subtract(f.room, x, f.n, d));
        outside |= others(subtract(f.room, blinder, limit, 2 * d));
        copy(f.t, blinder, 2 * d);
        reduce(&f, y);
        multiply(&f, x, x, y);
        multiply(&f, x, x, cube);
        subtract_once(x, f.n, f.room, d);
        copy(f.t, blinder, 2 * d);
        add_product(f.t, x, d, multiplier, d, 0);
        carry(f.t, f.t, 2 * d);
        subtract_once(f.t, limit, f.room, 2 * d);
        store(out + i * top_width, top_width, top_width, f.t, 2 * d, left);
    }
    release(all, size);
    return outside != 0;
}

/* LANES numbers modulo n that share a factor with n where one of the numbers modulo n^parts does.
 * Returns 1 where one is not in [1, n^parts). */
EXPORT(check)(const modulus *mod, uint8_t *out, const uint8_t *numbers, size_t count) {
    const int d = mod->d, parts = mod->parts, whole = parts * d;
    const size_t width = mod->width, top_width = mod->top_width;
    const size_t size = lanes_for(mod, 2 + 2 * parts);
    lane *const all = arena(size), *room = all;
    if (!all) return -1;
    const field f = open_field(&room, mod);
    lane *product = take(&room, d), *x = take(&room, d), *limit = take(&room, whole),
         *number = take(&room, whole);
    load_constant(limit, whole, mod->top, top_width);
    clear(product, d);
    product[0] = broadcast(1);
    unsigned outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(number, whole, numbers + i * top_width, top_width, top_width, left, 0);
        /* a lane without a number multiplies by 1 */
        number[0] = choose(first(left), number[0], broadcast(1));
        lane any = zero();
        for (int j = 0; j < whole; j++) any = bits_of_either(any, number[j]);
        outside |= others(nonzero(any));
        outside |= others(subtract(f.room, number, limit, whole));
        /* x = number/R^(parts − 1) modulo n, d digits after d digits */
        copy(x, number, d);
        for (int k = d; k < whole; k += d) {
            copy(f.t, x, d);
            clear(f.t + d, d);
            reduce(&f, x);
            for (int j = 0; j < d; j++) x[j] = plus(x[j], number[k + j]);
        }
        carry(x, x, d);
        multiply(&f, product, product, x);
    }
    subtract_once(product, f.n, f.room, d);
    store(out, width, width, product, d, LANES);
    release(all, size);
    return outside != 0;
}

#endif
