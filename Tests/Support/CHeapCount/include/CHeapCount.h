// How much of the heap is in use, which Swift cannot ask: the Glibc module leaves <malloc.h> out.

#ifndef OUTBOARD_C_HEAP_COUNT_H
#define OUTBOARD_C_HEAP_COUNT_H

#include <malloc.h>
#include <stddef.h>

// The sanitizers bring a heap of their own, which glibc does not know of.
extern size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

// Bytes that have been allocated and not freed.
static inline size_t heap_bytes_in_use(void)
{
    if (__sanitizer_get_current_allocated_bytes)
        return __sanitizer_get_current_allocated_bytes();
    struct mallinfo2 information = mallinfo2();
    return information.uordblks + information.hblkhd;
}

#endif
