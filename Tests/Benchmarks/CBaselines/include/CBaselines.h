// What the DMA module is measured against: three ways to keep an I/O address space, in C, each written to be fast.
//
//   sorted array      binary search without branches; inserting and removing moves what lies above
//   red-black tree    a node for each mapping, from a pool
//   radix             a page table with nine bits a level; readers take no lock, unmap waits for them (epochs)
//
// The array and the tree keep readers and writers apart with a POSIX mutex, or with nothing at all when they are made
// without one: what the structure itself costs, for a single thread. A mutex and no read-write lock, because the latter
// costs a reader three times as much when nobody contends for it, and because its readers would keep the writer out.
//
// All three do the same and answer with the same Linux error numbers (0 for success). Ranges are inclusive. Mappings
// never overlap and are never split:
//
//   map      EEXIST where something is mapped
//   unmap    removes, ascending, every mapping in the range, until one that reaches beyond it (ENOENT) or that is
//            pinned (EDEADLK; it stays, blocked, until a later unmap succeeds); ENOENT also when there is none. Nothing
//            touches the memory of the removed ones when it returns.
//   load     eight bytes at an aligned address, like read
//   read     bytes of one mapping: ENOENT for what is not mapped, EINVAL for a blocked mapping, EPERM without the right
//   pin      counts on one mapping, which then stays; errors as read
//
// A process that runs out of memory is aborted.

#ifndef OUTBOARD_C_BASELINES_H
#define OUTBOARD_C_BASELINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "BaselineServer.h"
#include "LoadClient.h"
#include "NVMeLoad.h"

enum { BASELINE_READ = 1, BASELINE_WRITE = 2 };

// Pinned memory, and what the structure wants to see again when it is released.
struct baseline_pin {
    unsigned char *memory;
    uintptr_t token;
};

struct sorted_array;
struct sorted_array *sorted_array_create(bool locked);
void sorted_array_destroy(struct sorted_array *array);
int sorted_array_map(struct sorted_array *array, uint64_t first, uint64_t last, unsigned char *memory, uint8_t rights);
int sorted_array_unmap(struct sorted_array *array, uint64_t first, uint64_t last, uint64_t *byte_count);
int sorted_array_load(struct sorted_array *array, uint64_t iova, uint64_t *value);
int sorted_array_read(struct sorted_array *array, uint64_t iova, void *bytes, size_t count);
int sorted_array_pin(struct sorted_array *array, uint64_t iova, size_t count, uint8_t rights, struct baseline_pin *pin);
void sorted_array_unpin(struct sorted_array *array, struct baseline_pin pin);

struct tree;
struct tree *tree_create(bool locked);
void tree_destroy(struct tree *tree);
int tree_map(struct tree *tree, uint64_t first, uint64_t last, unsigned char *memory, uint8_t rights);
int tree_unmap(struct tree *tree, uint64_t first, uint64_t last, uint64_t *byte_count);
int tree_load(struct tree *tree, uint64_t iova, uint64_t *value);
int tree_read(struct tree *tree, uint64_t iova, void *bytes, size_t count);
int tree_pin(struct tree *tree, uint64_t iova, size_t count, uint8_t rights, struct baseline_pin *pin);
void tree_unpin(struct tree *tree, struct baseline_pin pin);
// Whether the tree is ordered and balanced as a red-black tree has to be.
bool tree_is_sound(struct tree *tree);

// Addresses of 48 bits and whole pages of 4 KiB; entries of the upper levels stand for whole aligned blocks.
struct radix;
struct radix *radix_create(void);
void radix_destroy(struct radix *radix);
int radix_map(struct radix *radix, uint64_t first, uint64_t last, unsigned char *memory, uint8_t rights);
int radix_unmap(struct radix *radix, uint64_t first, uint64_t last, uint64_t *byte_count);
int radix_load(struct radix *radix, uint64_t iova, uint64_t *value);
int radix_read(struct radix *radix, uint64_t iova, void *bytes, size_t count);
int radix_pin(struct radix *radix, uint64_t iova, size_t count, uint8_t rights, struct baseline_pin *pin);
void radix_unpin(struct radix *radix, struct baseline_pin pin);

#endif
