// Memory for the baselines, or the end of the process.

#ifndef OUTBOARD_BASELINES_MEMORY_H
#define OUTBOARD_BASELINES_MEMORY_H

#include <stdlib.h>
#include <string.h>

static inline void *allocate_zeroed(size_t alignment, size_t byte_count)
{
    void *memory = aligned_alloc(alignment, byte_count);
    if (!memory)
        abort();
    return memset(memory, 0, byte_count);
}

static inline void *reallocate(void *memory, size_t byte_count)
{
    memory = realloc(memory, byte_count);
    if (!memory)
        abort();
    return memory;
}

#endif
