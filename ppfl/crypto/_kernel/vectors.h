/* Memory of a call, and numbers in bytes to numbers in lanes and back. */
#ifndef PPFL_VECTORS_H
#define PPFL_VECTORS_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "numbers.h"

static inline lane *arena(size_t lanes) {
    return aligned_alloc(sizeof(lane), lanes * sizeof(lane));
}

static inline void release(lane *arena, size_t lanes) {
    memset(arena, 0, lanes * sizeof(lane));
    __asm__ volatile("" : : "r"(arena) : "memory"); /* else the compiler may skip the zeros */
    free(arena);
}

static inline lane *take(lane **room, int count) {
    lane *taken = *room;
    *room += count;
    return taken;
}

/* Digit `index` of a number of `width` bytes. */
static inline uint64_t get_digit(const uint8_t *number, size_t width, size_t index) {
    const size_t bit = index * DIGIT_BITS, byte = bit / 8;
    uint64_t word = 0;
    if (byte + 8 <= width) {
        memcpy(&word, number + byte, 8);
    } else if (byte < width) {
        memcpy(&word, number + byte, width - byte);
    }
    return word >> (bit % 8) & ((1ULL << DIGIT_BITS) - 1);
}

/* Digits [first, first + d) of up to LANES numbers, `step` bytes apart; 0 in lanes without one. */
INLINE void load(lane *x, int d, const uint8_t *bytes, size_t width, size_t step, int count,
                 size_t first) {
    for (int j = 0; j < d; j++) {
        uint64_t digits[LANES] = {0};
        for (int i = 0; i < count; i++) digits[i] = get_digit(bytes + i * step, width, first + j);
        x[j] = read(digits);
    }
}

INLINE void load_constant(lane *x, int d, const uint8_t *bytes, size_t width) {
    load(x, d, bytes, width, 0, LANES, 0);
}

/* The lowest `width` bytes of up to LANES numbers of d digits, each below B. */
INLINE void store(uint8_t *bytes, size_t width, size_t step, const lane *x, int d, int count) {
    const uint64_t *digits = (const uint64_t *)x;
    for (int i = 0; i < count; i++) {
        for (size_t byte = 0; byte < width; byte += 8) {
            const size_t first = byte * 8 / DIGIT_BITS, shift = byte * 8 % DIGIT_BITS,
                         last = first + 64 / DIGIT_BITS + 2;
            uint64_t word = 0;
            for (size_t j = first, at = 0; j < last && j < (size_t)d; j++, at += DIGIT_BITS) {
                const uint64_t digit = digits[j * LANES + i];
                if (at < shift) word = digit >> shift;
                else if (at == shift) word = digit;
                else if (at - shift < 64) word |= digit << (at - shift);
            }
            memcpy(bytes + i * step + byte, &word, width - byte < 8 ? width - byte : 8);
        }
    }
}

/* What Python says about a modulus. */
typedef struct {
    const uint8_t *n;
    const uint8_t *top;    /* n^parts */
    size_t width;          /* bytes of n and of numbers modulo n */
    size_t quotient_width; /* bytes of numbers modulo n^(parts − 1) */
    size_t top_width;      /* bytes of n^parts and of numbers modulo it */
    int d, parts;
} modulus;

static inline int span_of(const modulus *mod) { return mod->parts < 2 ? 2 : mod->parts; }

/* Lanes for a field and for `digits` times d digits beside it. */
static inline size_t lanes_for(const modulus *mod, int digits) {
    return (size_t)mod->d * (3 * span_of(mod) + digits);
}

/* The field of a modulus, at the beginning of the room. */
INLINE field open_field(lane **room, const modulus *mod) {
    const int d = mod->d, span = span_of(mod);
    const uint64_t lowest = get_digit(mod->n, mod->width, 0);
    uint64_t inverse = 1;
    for (int bits = 1; bits < 64; bits *= 2) inverse *= 2 - lowest * inverse; /* Newton */
    field f = {d, mod->parts, take(room, d), broadcast(0 - inverse), take(room, span * d),
               take(room, d), take(room, 2 * (span - 1) * d)};
    load_constant(f.n, d, mod->n, mod->width);
    return f;
}

INLINE int lanes_left(size_t done, size_t count) {
    return count - done < LANES ? (int)(count - done) : LANES;
}

#endif
