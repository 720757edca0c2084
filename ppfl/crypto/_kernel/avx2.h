/* AVX2: four numbers side by side, to the base 2^26.
 *
 * The only multiplication, of 32 bits by 32, gives a whole product of two digits at once. Its 52
 * bits leave as much room for sums as half a product of digits of 52 bits does, so that moduli may
 * be as long. A digit in a table has 32 bits, so that tables take no more memory.
 */
#ifndef PPFL_AVX2_H
#define PPFL_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define ISA __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) ISA
#define EXPORT(name) ISA int ppfl_avx2_##name

enum {
    LANES = 4,
    DIGIT_BITS = 26,
    PICK_BITS = 3, /* a permutation picks one of 2^3 entries */
};

typedef __m256i lane;
typedef __m256i lanes_set;   /* some of the lanes: all ones, others 0 */
typedef uint32_t table_digit;     /* a digit in a table */
typedef __m256i entries;     /* an entry, or an index, of 32 bits for each lane of two blocks */
typedef __m256i entries_set; /* some of them, by the uppermost of their 32 bits */

INLINE int supported(void) { return __builtin_cpu_supports("avx2"); }

INLINE lane zero(void) { return _mm256_setzero_si256(); }

INLINE lane broadcast(uint64_t word) { return _mm256_set1_epi64x((long long)word); }

INLINE lane read(const uint64_t *words) { return _mm256_loadu_si256((const lane *)words); }

INLINE lane plus(lane a, lane b) { return _mm256_add_epi64(a, b); }

INLINE lane minus(lane a, lane b) { return _mm256_sub_epi64(a, b); }

INLINE lane twice(lane a) { return _mm256_slli_epi64(a, 1); }

INLINE lane bits_of_either(lane a, lane b) { return _mm256_or_si256(a, b); }

INLINE lane digit_of(lane a) {
    return _mm256_and_si256(a, _mm256_set1_epi64x((1LL << DIGIT_BITS) - 1));
}

/* a / 2^DIGIT_BITS, rounded down, of a in [0, 2^64). */
INLINE lane above(lane a) { return _mm256_srli_epi64(a, DIGIT_BITS); }

/* The same of a in [−2^63, 2^63), for which AVX2 has no instruction. */
INLINE lane above_signed(lane a) {
    const lane sign = _mm256_set1_epi64x(1LL << (63 - DIGIT_BITS));
    return minus(_mm256_xor_si256(above(a), sign), sign);
}

/* A product of two digits fits its lane: all of it is low. */
INLINE lane add_low(lane sum, lane a, lane b) { return plus(sum, _mm256_mul_epu32(a, b)); }

INLINE lane add_high(lane sum, lane a, lane b) {
    (void)a, (void)b;
    return sum;
}

/* a·b mod 2^DIGIT_BITS of any a and b. */
INLINE lane low_digit(lane a, lane b) { return digit_of(_mm256_mul_epu32(a, b)); }

/* (a + b·c) / 2^DIGIT_BITS, where that is whole. */
INLINE lane above_sum(lane a, lane b, lane c) { return above(add_low(a, b, c)); }

INLINE lanes_set negative(lane a) { return _mm256_cmpgt_epi64(zero(), a); }

INLINE lanes_set nonzero(lane a) {
    return _mm256_xor_si256(_mm256_cmpeq_epi64(a, zero()), _mm256_set1_epi64x(-1));
}

INLINE lanes_set first(int count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
}

/* All lanes where a bit of a secret is 1, without a branch. */
INLINE lanes_set spread(uint32_t secret, int bit) {
    return _mm256_set1_epi64x(0 - (long long)(secret >> bit & 1u));
}

/* One bit for each lane that is not in the set. */
INLINE unsigned others(lanes_set set) {
    return ~(unsigned)_mm256_movemask_pd(_mm256_castsi256_pd(set)) & 15u;
}

INLINE lane choose(lanes_set set, lane inside, lane outside) {
    return _mm256_blendv_epi8(outside, inside, set);
}

INLINE entries pick_entries(const table_digit *row, entries index) {
    return _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const lane *)row), index);
}

INLINE entries_set where_bit(entries index, int bit) {
    return _mm256_slli_epi32(index, 31 - bit);
}

INLINE entries choose_entries(entries_set set, entries inside, entries outside) {
    return _mm256_castps_si256(_mm256_blendv_ps(
        _mm256_castsi256_ps(outside), _mm256_castsi256_ps(inside), _mm256_castsi256_ps(set)));
}

INLINE lane block_of(entries all, int which) {
    return _mm256_cvtepu32_epi64(which ? _mm256_extracti128_si256(all, 1)
                                       : _mm256_castsi256_si128(all));
}

#endif
