// What a thread asked of the heap and of Swift's reference counting, and what the process holds of the kernel: numbers
// that Swift cannot ask for.
//
// The target replaces malloc and its relatives for the whole program by functions that count and then call glibc's, at
// about a nanosecond a call. Under a sanitizer, which has a heap of its own, nothing is counted.

#ifndef OUTBOARD_C_PROCESS_COUNTERS_H
#define OUTBOARD_C_PROCESS_COUNTERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Calls of the calling thread to malloc, calloc, realloc and the like, since it began.
uint64_t count_of_allocations(void);

// Begins to count, from zero, the calls to swift_retain and swift_release on all threads; while it lasts each of them
// costs more. False when the runtime does not let itself be watched.
bool begin_counting_references(void);
// Ends it, after a begin that returned true.
uint64_t end_counting_references(void);

// The process's pages that are in memory, in bytes; 0 when the kernel does not say. `/proc/self/statm`
size_t resident_bytes(void);
// Returns what it can of the free heap to the kernel, so that later growth shows in `resident_bytes`.
void release_free_heap(void);

// How many descriptors are open, and how many areas of memory are mapped; -1 when the kernel does not say.
long count_of_descriptors(void);
long count_of_memory_areas(void);

#endif
