/* Tables of powers, read by a secret index: every entry of a row is read, whatever the index. */
#ifndef PPFL_TABLES_H
#define PPFL_TABLES_H

#include "numbers.h"

enum {
    POWER_BITS = 4,   /* 2^4 entries: 65 + 14 products for 257 bits; 5 bits would take 52 + 30 */
    TABLE_SIZE = 256, /* a window of a fixed base is a byte of its exponent */
    GROUP_BITS = PICK_BITS + 3,
    GROUPS = TABLE_SIZE >> GROUP_BITS, /* 2 or 4 */
};

/* The entry of a table of 2^POWER_BITS tuples that an index names, the same in every lane. */
ISA static void pick_shared(lane *out, const lane *table, uint32_t index, int size) {
    const lanes_set bit0 = spread(index, 0), bit1 = spread(index, 1), bit2 = spread(index, 2),
                    bit3 = spread(index, 3);
    for (int j = 0; j < size; j++) {
        lane found[8];
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            found[k] = choose(bit0, table[(2 * k + 1) * size + j], table[2 * k * size + j]);
        }
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) found[k] = choose(bit1, found[2 * k + 1], found[2 * k]);
        const lane low = choose(bit2, found[1], found[0]), high = choose(bit2, found[3], found[2]);
        out[j] = choose(bit3, high, low);
    }
}

/* Of 2^GROUP_BITS entries of a row those that the lowest GROUP_BITS of an index name; bits[k] says
 * where bit PICK_BITS + k is 1. */
INLINE entries pick_in_group(const table_digit *row, entries index, const entries_set *bits) {
    entries found[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
        found[k] = pick_entries(row + (k << PICK_BITS), index);
        if (k % 2) found[k - 1] = choose_entries(bits[0], found[k], found[k - 1]);
        if (k % 4 == 3) found[k - 3] = choose_entries(bits[1], found[k - 1], found[k - 3]);
    }
    return choose_entries(bits[2], found[4], found[0]);
}

/* In each lane of two blocks the entry of a table's row that its index in [0, TABLE_SIZE) names.
 * A gather would be an address that depends on a secret; permutations read every entry, and cost
 * 23 % of the product that follows at 30 digits of 52 bits, 12 % at 60. */
ISA static void pick(lane *out, const table_digit *row, entries index, int size) {
    entries_set bits[5];
#pragma GCC unroll 5
    for (int k = 0; k < 5; k++) bits[k] = where_bit(index, PICK_BITS + k);
    for (int j = 0; j < size; j++, row += TABLE_SIZE) {
        entries found[GROUPS];
#pragma GCC unroll GROUPS
        for (int g = 0; g < GROUPS; g++) {
            found[g] = pick_in_group(row + (g << GROUP_BITS), index, bits);
            if (g % 2) found[g - 1] = choose_entries(bits[3], found[g], found[g - 1]);
        }
        if (GROUPS == 4) found[0] = choose_entries(bits[4], found[GROUPS / 2], found[0]);
        out[j] = block_of(found[0], 0);
        out[size + j] = block_of(found[0], 1);
    }
}

#endif
