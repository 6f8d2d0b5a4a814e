// Random reads of 4 KiB: by a small driver of an NVMe controller behind vfio-user, and by pread from the same file.
//
// The file consists of blocks of 4 KiB that each begin with a value of their own, which every read checks. Functions return 0
// or a Linux error number: EILSEQ for data that are not those of the block.

#ifndef OUTBOARD_NVME_LOAD_H
#define OUTBOARD_NVME_LOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "LoadClient.h"

enum { LOAD_BLOCK_SIZE = 4096, LOAD_MAXIMUM_DEPTH = 128 };

// What block `number` of the file begins with.
uint64_t load_block_value(uint64_t number);
// Writes all blocks.
int load_fill_file(int descriptor, uint64_t block_count);

// Reads `count` random blocks with as many threads, each of which reads its share.
int load_pread(int descriptor, uint64_t block_count, size_t count, size_t thread_count, uint64_t seed);

struct nvme_load;
// Maps memory, enables the controller, whose blocks are to have LOAD_BLOCK_SIZE bytes, and makes a queue pair that
// interrupts by MSI-X.
int nvme_load_create(struct load_client *client, struct nvme_load **load);
void nvme_load_destroy(struct nvme_load *load);
// Reads `count` random blocks, at most `depth` of them at a time.
//
// `spins`: whether it looks for completions all the time instead of waiting for the interrupt.
int nvme_load_read(struct nvme_load *load, uint64_t block_count, size_t count, size_t depth, bool spins, uint64_t seed);

#endif
