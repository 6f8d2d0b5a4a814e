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
#include <sys/types.h>

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

// What the started program finds the descriptor at.
enum { INHERITED_DESCRIPTOR = 3 };
// Starts this program once more, with an option. Returns the child, or a negative Linux error number.
pid_t start_program_again(const char *option, const char *value, int descriptor);
// Waits until it ends. Returns its status, or -1 when it did not exit.
int wait_for_program(pid_t child);

// Lets the calling thread run on this processor alone, or on all when it is negative.
void run_on_processor(int number);

// Begins to count, from zero, the system calls of all threads that a child process has at this moment; they become much
// slower. False when the kernel does not let itself be asked. One process at a time. `ptrace(2)`
//
// A call counts when it begins. One in which a thread already waits counts once more if it is interrupted by this.
bool begin_counting_system_calls(pid_t process);
uint64_t system_calls_so_far(void);
// Ends it, after a begin that returned true.
void end_counting_system_calls(void);

#endif
