// Numbers that are the same for the same seed. xorshift64*

#ifndef OUTBOARD_BASELINES_RANDOM_H
#define OUTBOARD_BASELINES_RANDOM_H

#include <stdint.h>

static inline uint64_t random_below(uint64_t *state, uint64_t limit)
{
    uint64_t value = *state | (*state == 0);
    value ^= value >> 12;
    value ^= value << 25;
    value ^= value >> 27;
    *state = value;
    return (uint64_t)(((unsigned __int128)(value * UINT64_C(0x2545f4914f6cdd1d)) * limit) >> 64);
}

#endif
