/* AVX-512 IFMA: eight numbers side by side, to the base 2^52.
 *
 * Two instructions multiply digits, one for each half of a product, and add.
 */
#ifndef PPFL_IFMA_H
#define PPFL_IFMA_H

#include <immintrin.h>
#include <stdint.h>

#define ISA __attribute__((target("avx512f,avx512ifma,avx512vl,avx512dq")))
#define INLINE static inline __attribute__((always_inline)) ISA
#define EXPORT(name) ISA int ppfl_ifma_##name

enum {
    LANES = 8,
    DIGIT_BITS = 52,
    PICK_BITS = 4, /* a permutation picks one of 2^4 entries */
};

typedef __m512i lane;
typedef __mmask8 lanes_set; /* some of the lanes */
typedef uint64_t table_digit;    /* a digit in a table */
typedef struct {
    lane block[2];
} entries; /* an entry, or an index, for each lane of two blocks */
typedef struct {
    lanes_set block[2];
} entries_set;

INLINE int supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512ifma") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

INLINE lane zero(void) { return _mm512_setzero_si512(); }

INLINE lane broadcast(uint64_t word) { return _mm512_set1_epi64((long long)word); }

INLINE lane read(const uint64_t *words) { return _mm512_loadu_si512(words); }

INLINE lane plus(lane a, lane b) { return _mm512_add_epi64(a, b); }

INLINE lane minus(lane a, lane b) { return _mm512_sub_epi64(a, b); }

INLINE lane twice(lane a) { return _mm512_slli_epi64(a, 1); }

INLINE lane bits_of_either(lane a, lane b) { return _mm512_or_si512(a, b); }

INLINE lane digit_of(lane a) {
    return _mm512_and_si512(a, _mm512_set1_epi64((1LL << DIGIT_BITS) - 1));
}

/* a / 2^DIGIT_BITS, rounded down, of a in [0, 2^64). */
INLINE lane above(lane a) { return _mm512_srli_epi64(a, DIGIT_BITS); }

/* The same of a in [−2^63, 2^63). */
INLINE lane above_signed(lane a) { return _mm512_srai_epi64(a, DIGIT_BITS); }

/* A product of two digits is its low part, and 2^DIGIT_BITS times its high part. */
INLINE lane add_low(lane sum, lane a, lane b) { return _mm512_madd52lo_epu64(sum, a, b); }

INLINE lane add_high(lane sum, lane a, lane b) { return _mm512_madd52hi_epu64(sum, a, b); }

/* a·b mod 2^DIGIT_BITS of any a and b. */
INLINE lane low_digit(lane a, lane b) { return add_low(zero(), a, b); }

/* (a + b·c) / 2^DIGIT_BITS, where that is whole: b·c then ends in what a lacks, so it is enough to
 * round a up, and there is no need to wait for the low part of b·c. */
INLINE lane above_sum(lane a, lane b, lane c) {
    return add_high(above(plus(a, _mm512_set1_epi64((1LL << DIGIT_BITS) - 1))), b, c);
}

INLINE lanes_set negative(lane a) { return _mm512_movepi64_mask(a); }

INLINE lanes_set nonzero(lane a) { return _mm512_test_epi64_mask(a, a); }

INLINE lanes_set first(int count) { return (lanes_set)((1u << count) - 1); }

/* All lanes where a bit of a secret is 1, without a branch. */
INLINE lanes_set spread(uint32_t secret, int bit) {
    return (lanes_set)(0u - (secret >> bit & 1u));
}

/* One bit for each lane that is not in the set. */
INLINE unsigned others(lanes_set set) { return (unsigned)(lanes_set)~set; }

INLINE lane choose(lanes_set set, lane inside, lane outside) {
    return _mm512_mask_mov_epi64(outside, set, inside);
}

INLINE entries pick_entries(const table_digit *row, entries index) {
    const lane low = read(row), high = read(row + 8);
    return (entries){{_mm512_permutex2var_epi64(low, index.block[0], high),
                      _mm512_permutex2var_epi64(low, index.block[1], high)}};
}

INLINE entries_set where_bit(entries index, int bit) {
    const lane weight = _mm512_set1_epi64(1LL << bit);
    return (entries_set){{_mm512_test_epi64_mask(index.block[0], weight),
                          _mm512_test_epi64_mask(index.block[1], weight)}};
}

INLINE entries choose_entries(entries_set set, entries inside, entries outside) {
    return (entries){{choose(set.block[0], inside.block[0], outside.block[0]),
                      choose(set.block[1], inside.block[1], outside.block[1])}};
}

INLINE lane block_of(entries all, int which) { return all.block[which]; }

#endif
