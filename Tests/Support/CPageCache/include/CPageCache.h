// How much of a file is not on the disk yet. cachestat(2) is younger than the C library's headers, and syscall(2) is variadic.

#ifndef OUTBOARD_C_PAGE_CACHE_H
#define OUTBOARD_C_PAGE_CACHE_H

#include <stdint.h>
#include <unistd.h>

// Pages that are dirty or being written; negative where the kernel, before 6.5, cannot say.
static inline int64_t page_cache_unwritten_pages(int descriptor)
{
    struct { uint64_t offset, count; } all = { 0, 0 };
    struct { uint64_t cached, dirty, writeback, evicted, recently_evicted; } answer = { 0 };
    enum { NUMBER_OF_CACHESTAT = 451 };
    if (syscall(NUMBER_OF_CACHESTAT, descriptor, &all, &answer, 0) != 0)
        return -1;
    return (int64_t)(answer.dirty + answer.writeback);
}

#endif
