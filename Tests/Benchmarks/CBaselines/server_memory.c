#include "server_memory.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "memory.h"

struct client_mapping {
    uint64_t first, last;
    // NULL for memory that is reached by messages.
    unsigned char *bytes;
    uint64_t offset;
    dev_t device;
    ino_t inode;
    uint32_t rights;
};

enum { PAGE_MASK = 4095 };

// The index of the lowest mapping that ends at `address` or above.
static size_t position(const struct client_memory *memory, uint64_t address)
{
    size_t low = 0, high = memory->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memory->mappings[middle].last < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_range(uint64_t address, uint64_t size)
{
    return size > 0 && size - 1 <= UINT64_MAX - address;
}

static void forget(struct client_mapping *mapping)
{
    if (mapping->bytes)
        munmap(mapping->bytes, mapping->last - mapping->first + 1);
}

// Whether the mapping that is in the way of a request is the very one that it asks for.
static bool is_same(const struct client_mapping *mapping, const struct dma_map *request, int descriptor)
{
    struct stat status;
    if (mapping->first != request->address || mapping->last - mapping->first != request->size - 1
        || mapping->rights != (request->flags & (MAP_READ | MAP_WRITE)))
        return false;
    if (descriptor < 0 || !mapping->bytes)
        return descriptor < 0 && !mapping->bytes;
    return fstat(descriptor, &status) == 0 && mapping->offset == request->offset
        && mapping->device == status.st_dev && mapping->inode == status.st_ino;
}

// Maps what the request asks for into this process.
static int back(struct client_mapping *mapping, const struct dma_map *request, int descriptor)
{
    struct stat status;
    if (fstat(descriptor, &status) != 0)
        return errno;
    if (status.st_size < 0 || (uint64_t)status.st_size < request->offset
        || (uint64_t)status.st_size - request->offset < request->size)
        return EINVAL;
    int protection = (request->flags & MAP_READ ? PROT_READ : 0) | (request->flags & MAP_WRITE ? PROT_WRITE : 0);
    void *bytes = mmap(NULL, request->size, protection, MAP_SHARED, descriptor, (off_t)request->offset);
    if (bytes == MAP_FAILED)
        return errno;
    mapping->bytes = bytes;
    mapping->offset = request->offset;
    mapping->device = status.st_dev;
    mapping->inode = status.st_ino;
    return 0;
}

static void insert(struct client_memory *memory, size_t index, struct client_mapping mapping)
{
    if (memory->count == memory->capacity) {
        memory->capacity = memory->capacity ? 2 * memory->capacity : 64;
        memory->mappings = reallocate(memory->mappings, memory->capacity * sizeof(*memory->mappings));
    }
    memmove(&memory->mappings[index + 1], &memory->mappings[index],
        (memory->count - index) * sizeof(*memory->mappings));
    memory->mappings[index] = mapping;
    memory->count++;
}

int client_memory_map(struct client_memory *memory, const struct dma_map *request, int descriptor)
{
    uint32_t rights = request->flags & (MAP_READ | MAP_WRITE);
    if (request->flags & ~(uint32_t)(MAP_READ | MAP_WRITE | MAP_BY_MAPPING))
        return EINVAL;
    if (!is_range(request->address, request->size) || !is_range(request->offset, request->size))
        return EINVAL;
    if ((request->flags & MAP_BY_MAPPING) && descriptor < 0)
        return EINVAL;
    if (rights == 0)
        return 0;
    if ((request->address | request->size) & PAGE_MASK || (descriptor >= 0 && request->offset & PAGE_MASK))
        return EINVAL;
    struct client_mapping mapping = {
        .first = request->address, .last = request->address + (request->size - 1), .rights = rights,
    };
    size_t index = position(memory, mapping.first);
    if (index < memory->count && memory->mappings[index].first <= mapping.last)
        return is_same(&memory->mappings[index], request, descriptor) ? 0 : EEXIST;
    if (descriptor >= 0) {
        int error = back(&mapping, request, descriptor);
        if (error)
            return error;
    }
    insert(memory, index, mapping);
    return 0;
}

static void remove_between(struct client_memory *memory, size_t begin, size_t end)
{
    if (begin == end)
        return;
    for (size_t index = begin; index < end; index++)
        forget(&memory->mappings[index]);
    memmove(&memory->mappings[begin], &memory->mappings[end], (memory->count - end) * sizeof(*memory->mappings));
    memory->count -= end - begin;
}

int client_memory_unmap(struct client_memory *memory, const struct dma_unmap *request)
{
    if (request->flags & ~(uint32_t)UNMAP_ALL)
        return EINVAL;
    if (request->flags && (request->address || request->size))
        return EINVAL;
    // Zeroes are how QEMU writes a range of 2^64 bytes.
    if (request->flags || (request->address == 0 && request->size == 0)) {
        client_memory_unmap_all(memory);
        return 0;
    }
    if (!is_range(request->address, request->size))
        return EINVAL;
    uint64_t last = request->address + (request->size - 1);
    size_t begin = position(memory, request->address), end = begin;
    for (; end < memory->count && memory->mappings[end].first <= last; end++) {
        const struct client_mapping *mapping = &memory->mappings[end];
        if (mapping->first < request->address || mapping->last > last)
            return EINVAL;
    }
    remove_between(memory, begin, end);
    return 0;
}

void client_memory_unmap_all(struct client_memory *memory)
{
    remove_between(memory, 0, memory->count);
}

const unsigned char *client_memory_find(const struct client_memory *memory, uint64_t address, size_t count)
{
    size_t index = position(memory, address);
    if (index == memory->count)
        return NULL;
    const struct client_mapping *mapping = &memory->mappings[index];
    if (mapping->first > address || mapping->last - address < count - 1)
        return NULL;
    if (!mapping->bytes || !(mapping->rights & MAP_READ))
        return NULL;
    return mapping->bytes + (address - mapping->first);
}
