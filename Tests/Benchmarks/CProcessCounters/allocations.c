#include "CProcessCounters.h"

#include <errno.h>
#include <stddef.h>

static _Thread_local uint64_t allocations;

uint64_t count_of_allocations(void) { return allocations; }

#if !__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer)

// glibc's own names for what it also calls malloc and so on.
extern void *__libc_malloc(size_t byte_count);
extern void *__libc_calloc(size_t count, size_t byte_count);
extern void *__libc_realloc(void *memory, size_t byte_count);
extern void *__libc_memalign(size_t alignment, size_t byte_count);
extern void __libc_free(void *memory);

void *malloc(size_t byte_count)
{
    allocations++;
    return __libc_malloc(byte_count);
}

void *calloc(size_t count, size_t byte_count)
{
    allocations++;
    return __libc_calloc(count, byte_count);
}

void *realloc(void *memory, size_t byte_count)
{
    allocations++;
    return __libc_realloc(memory, byte_count);
}

void *memalign(size_t alignment, size_t byte_count)
{
    allocations++;
    return __libc_memalign(alignment, byte_count);
}

void *aligned_alloc(size_t alignment, size_t byte_count)
{
    allocations++;
    return __libc_memalign(alignment, byte_count);
}

int posix_memalign(void **memory, size_t alignment, size_t byte_count)
{
    allocations++;
    void *found = __libc_memalign(alignment, byte_count);
    if (!found)
        return ENOMEM;
    *memory = found;
    return 0;
}

void free(void *memory) { __libc_free(memory); }

#endif
