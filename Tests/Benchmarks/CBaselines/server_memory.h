// Client memory as the baseline server knows it.

#ifndef OUTBOARD_BASELINES_SERVER_MEMORY_H
#define OUTBOARD_BASELINES_SERVER_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "vfio_user.h"

struct client_mapping;

// Ascending by address, not overlapping.
struct client_memory {
    struct client_mapping *mappings;
    size_t count, capacity;
};

// Map and unmap answer with a Linux error number. The descriptor, -1 for none, stays the caller's.
int client_memory_map(struct client_memory *memory, const struct dma_map *request, int descriptor);
int client_memory_unmap(struct client_memory *memory, const struct dma_unmap *request);
void client_memory_unmap_all(struct client_memory *memory);

// The bytes of an address if `count` of them are mapped through one descriptor with the right to read; NULL otherwise.
const unsigned char *client_memory_find(const struct client_memory *memory, uint64_t address, size_t count);

#endif
