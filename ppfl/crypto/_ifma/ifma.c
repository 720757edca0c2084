/* Vectors of big numbers, eight at a time, for `ppfl.crypto.lanes`.
 *
 * Vectors are numbers of equal width in bytes, least significant first, one after the other. Moduli
 * are odd. Functions return 0, or −1 where memory is missing, or what their comment says.
 *
 * Exponents are secret. Their windows neither branch nor address memory: the whole row of a table
 * is read and the entry taken by masks (one exponent) or permutations (one exponent per lane).
 */
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include "pairs.h"
#include "vectors.h"

enum {
    POWER_BITS = 4,  /* 2^4 entries: 65 + 14 products for 257 bits; 5 bits would take 52 + 30 */
    TABLE_SIZE = 256, /* a window of a fixed base is a byte of its exponent */
    BATCH = 16,      /* blocks of lanes that use one row of a table while it is in the cache */
};

int ppfl_supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

/* a·b mod n for each a and b; `b_step` is 0 where all share one b, else `width`.
 * r2 = R² mod n. */
ISA int ppfl_multiply(const modulus *mod, uint8_t *out, const uint8_t *a, const uint8_t *b,
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
ISA int ppfl_garner(const modulus *mod, uint8_t *out, size_t out_width, const uint8_t *a,
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
            x[j] = _mm512_add_epi64(x[j], _mm512_sub_epi64(lifted[j], y[j]));
        }
        carry(x, x, d);
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

/* All lanes where a bit of a secret is 1, without a branch. */
INLINE __mmask8 spread(uint32_t secret, int bit) { return (__mmask8)(0u - (secret >> bit & 1u)); }

/* The entry of a table of 2^POWER_BITS pairs that an index names, the same in every lane. */
ISA static void pick_shared(lane *out, const lane *table, uint32_t index, int pair) {
    const __mmask8 bit0 = spread(index, 0), bit1 = spread(index, 1), bit2 = spread(index, 2),
                   bit3 = spread(index, 3);
    for (int j = 0; j < pair; j++) {
        lane found[8];
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            found[k] = _mm512_mask_mov_epi64(table[2 * k * pair + j], bit0,
                                             table[(2 * k + 1) * pair + j]);
        }
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            found[k] = _mm512_mask_mov_epi64(found[2 * k], bit1, found[2 * k + 1]);
        }
        const lane low = _mm512_mask_mov_epi64(found[0], bit2, found[1]),
                   high = _mm512_mask_mov_epi64(found[2], bit2, found[3]);
        out[j] = _mm512_mask_mov_epi64(low, bit3, high);
    }
}

/* x^exponent modulo n² for each x of `x_width` bytes, as two digits to the base n.
 * `chunks` pairs (x0, x1) in `powers` stand for R^(k + 2) modulo n²; `windows` is the number of
 * POWER_BITS of the exponent. */
ISA int ppfl_power(const modulus *mod, uint8_t *out, const uint8_t *x, size_t x_width, size_t count,
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
            for (int j = 0; j < pair; j++) result[j] = _mm512_add_epi64(result[j], picked[j]);
        }
        carry(table + pair, result, d);
        carry(table + pair + d, result + d, d);
        clear(picked, pair);
        picked[0] = _mm512_set1_epi64(1);
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

/* Tables of powers modulo n²: for each base, a pair, 2d·TABLE_SIZE words; word [j][e] is digit j of
 * base^e·R. r2 is R² modulo n², a pair. */
ISA int ppfl_table(const modulus *mod, uint64_t *out, const uint8_t *bases, size_t count,
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
        entry[0] = _mm512_set1_epi64(1);
        pair_multiply(&f, entry, entry, square);
        for (int e = 0; e < TABLE_SIZE; e++) {
            for (int j = 0; j < pair; j++) {
                const uint64_t *digits = (const uint64_t *)(entry + j);
                for (int k = 0; k < left; k++) {
                    out[((i + k) * pair + j) * TABLE_SIZE + e] = digits[k];
                }
            }
            pair_multiply(&f, entry, entry, base);
        }
    }
    release(all, size);
    return 0;
}

/* Entries [16·k, 16·k + 16) of a table's row by the lowest four bits of an index, which are all
 * that a permutation reads, for two blocks of lanes: the table's words are read once for both. */
INLINE void pick_16(lane *found, const uint64_t *words, const lane *index) {
    const lane low = _mm512_loadu_si512(words), high = _mm512_loadu_si512(words + 8);
    found[0] = _mm512_permutex2var_epi64(low, index[0], high);
    found[1] = _mm512_permutex2var_epi64(low, index[1], high);
}

INLINE void pick_between(lane *left, const lane *right, const __mmask8 *bit) {
    left[0] = _mm512_mask_mov_epi64(left[0], bit[0], right[0]);
    left[1] = _mm512_mask_mov_epi64(left[1], bit[1], right[1]);
}

/* In each lane of two blocks the entry of a table's row that its index in [0, TABLE_SIZE) names.
 * A gather would be an address that depends on a secret; permutations read every entry, and cost
 * 23 % of the product that follows at 30 digits, 12 % at 60. */
ISA static void pick(lane *out, const uint64_t *row, const lane *index, int pair) {
    __mmask8 bit[4][2];
    for (int k = 0; k < 4; k++) {
        const lane weight = _mm512_set1_epi64(16 << k);
        bit[k][0] = _mm512_test_epi64_mask(index[0], weight);
        bit[k][1] = _mm512_test_epi64_mask(index[1], weight);
    }
    for (int j = 0; j < pair; j++, row += TABLE_SIZE) {
        lane found[4][2], half[2][2];
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
#pragma GCC unroll 4
            for (int q = 0; q < 4; q++) {
                lane odd[2];
                pick_16(found[q], row + 128 * h + 32 * q, index);
                pick_16(odd, row + 128 * h + 32 * q + 16, index);
                pick_between(found[q], odd, bit[0]);
                if (q % 2) pick_between(found[q - 1], found[q], bit[1]);
            }
            pick_between(found[0], found[2], bit[2]);
            half[h][0] = found[0][0], half[h][1] = found[0][1];
        }
        pick_between(half[0], half[1], bit[3]);
        out[j] = half[0][0], out[pair + j] = half[0][1];
    }
}

/* The product over i of (base i)^(byte i of the exponent), modulo n², for each exponent of `bases`
 * bytes. */
ISA int ppfl_fixed_base(const modulus *mod, uint8_t *out, const uint64_t *table, int bases,
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
            const uint64_t *row = table + (size_t)base * pair * TABLE_SIZE;
            for (size_t k = i; k < i + BATCH * LANES && k < count; k += 2 * LANES) {
                lane *result = results + (k - i) / LANES * pair, index[2];
                uint64_t digits[2 * LANES] = {0};
                for (size_t l = 0; l < 2 * LANES && k + l < count; l++) {
                    digits[l] = exponents[(k + l) * bases + base];
                }
                memcpy(index, digits, sizeof index);
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
ISA int ppfl_blind(const modulus *mod, uint8_t *out, const uint8_t *m, const uint8_t *rho,
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
    __mmask8 outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(x, d, m + i * width, width, width, left, 0);
        load(blinder, 2 * d, rho + i * square_width, square_width, square_width, left, 0);
        outside |= (__mmask8)~subtract(f.room, x, f.n, d);
        outside |= (__mmask8)~subtract(f.room, blinder, n2, 2 * d);
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

/* Eight numbers modulo n that share a factor with n where one of the numbers modulo n² does.
 * Returns 1 where one is not in [1, n²). */
ISA int ppfl_check(const modulus *mod, uint8_t *out, const uint8_t *numbers, size_t count) {
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
    product[0] = _mm512_set1_epi64(1);
    __mmask8 outside = 0;
    for (size_t i = 0; i < count; i += LANES) {
        const int left = lanes_left(i, count);
        load(number, 2 * d, numbers + i * square_width, square_width, square_width, left, 0);
        /* a lane without a number multiplies by 1 */
        number[0] = _mm512_mask_set1_epi64(number[0], (__mmask8)(0xff << left), 1);
        lane any = _mm512_setzero_si512();
        for (int j = 0; j < 2 * d; j++) any = _mm512_or_si512(any, number[j]);
        outside |= (__mmask8)~_mm512_test_epi64_mask(any, any);
        outside |= (__mmask8)~subtract(f.room, number, n2, 2 * d);
        copy(f.t, number, 2 * d);
        reduce(&f, x);
        multiply(&f, product, product, x);
    }
    subtract_once(product, f.n, f.room, d);
    store(out, width, width, product, d, LANES);
    release(all, size);
    return outside != 0;
}

#else

int ppfl_supported(void) { return 0; }

#endif
