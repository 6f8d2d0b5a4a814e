#include "copy-pager.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Odd, so that multiplying by it reorders any power of two of frames; prime, so that the order looks like none. */
#define STRIDE 7919u

static void *zeroed(size_t count, size_t size)
{
    void *bytes = calloc(count, size);
    if (!bytes)
        fail("no memory");
    return bytes;
}

uint8_t *frame_bytes(const struct frames *frames, uint32_t frame)
{
    return frames->memory.bytes + (size_t)frame * PAGE_SIZE;
}

static void give_frame(struct frames *frames, uint32_t frame)
{
    memset(frame_bytes(frames, frame), CANARY, PAGE_SIZE);
    frames->unused[(frames->first + frames->unused_count++) % frames->count] = frame;
}

static void check_canary(const struct frames *frames, uint32_t frame, const char *what)
{
    const uint8_t *bytes = frame_bytes(frames, frame);
    if (!is_all(bytes, PAGE_SIZE, CANARY))
        fail("the device has written to memory at 0x%llx that is not mapped any more: %s",
            (unsigned long long)memory_address(&frames->memory, bytes), what);
}

static uint32_t take_frame(struct frames *frames)
{
    if (frames->unused_count == 0)
        fail("all %u frames are in use", frames->count);
    uint32_t frame = frames->unused[frames->first];
    frames->first = (frames->first + 1) % frames->count;
    frames->unused_count--;
    check_canary(frames, frame, "found when it is used again");
    return frame;
}

void check_frames(const struct frames *frames, const char *what)
{
    for (uint32_t i = 0; i < frames->unused_count; i++)
        check_canary(frames, frames->unused[(frames->first + i) % frames->count], what);
}

void frames_make(struct frames *frames, struct pci_function *pci, uint32_t count)
{
    memory_make(&frames->memory, pci, (size_t)count * PAGE_SIZE);
    frames->count = 1;
    while (frames->count * 2 <= frames->memory.size / PAGE_SIZE)
        frames->count *= 2;
    frames->unused = zeroed(frames->count, sizeof(*frames->unused));
    for (uint32_t i = 0; i < frames->count; i++)
        give_frame(frames, i * STRIDE % frames->count);
}

uint64_t space_bytes(const struct space *space)
{
    return (uint64_t)space->pages * PAGE_SIZE;
}

void write_pattern(uint8_t *bytes, uint64_t address, uint64_t seed)
{
    uint64_t *words = (uint64_t *)bytes;
    for (uint32_t i = 0; i < PAGE_SIZE / sizeof(*words); i++) {
        uint64_t word = (address + i * sizeof(*words) + seed) * 0x9e3779b97f4a7c15ull;
        words[i] = word ^ word >> 29;
    }
}

void space_refill(const struct pager *pager, struct space *space, uint64_t seed)
{
    space->seed = seed;
    for (uint32_t page = 0; page < space->pages; page++) {
        uint8_t *bytes = frame_bytes(&pager->frames, space->frames[page]);
        if (space->right == RIGHT_READ)
            write_pattern(bytes, space->base + (uint64_t)page * PAGE_SIZE, seed);
        else
            memset(bytes, CANARY, PAGE_SIZE);
    }
}

void space_check(const struct pager *pager, const struct space *space)
{
    static uint8_t expected[PAGE_SIZE] __attribute__((aligned(8)));
    for (uint32_t page = 0; page < space->pages; page++) {
        write_pattern(expected, space->base + (uint64_t)page * PAGE_SIZE, space->seed);
        if (memcmp(frame_bytes(&pager->frames, space->frames[page]), expected, PAGE_SIZE) != 0)
            fail("page %u of PASID %u was written to, which is for reading", page, space->pasid);
    }
}

static void expect_command(struct engine *engine, struct descriptor descriptor, const char *what)
{
    const struct completion *record = command_and_wait(engine, descriptor, what);
    if (record->status != STATUS_SUCCESS || record->error != 0)
        fail("%s PASID %u: status %u, error %u", what, descriptor.pasid, record->status, record->error);
}

void space_make(struct pager *pager, struct space *space, uint32_t pasid, uint32_t right, uint64_t base,
    uint32_t pages, bool has_demand_paging)
{
    *space = (struct space) { .pasid = pasid, .right = right, .base = base, .pages = pages };
    space->frames = zeroed(pages, sizeof(*space->frames));
    space->is_mapped = zeroed(pages, sizeof(*space->is_mapped));
    space->asked = zeroed(pages, sizeof(*space->asked));
    for (uint32_t page = 0; page < pages; page++)
        space->frames[page] = take_frame(&pager->frames);
    space_refill(pager, space, 0);
    struct descriptor create = {
        .opcode = OPCODE_CREATE, .options = has_demand_paging ? OPTION_DEMAND_PAGING : 0, .pasid = pasid,
    };
    expect_command(pager->engine, create, "creating");
    for (int i = 0; i < MOST_SPACES; i++)
        if (!pager->spaces[i]) {
            pager->spaces[i] = space;
            return;
        }
    fail("more than %d address spaces", MOST_SPACES);
}

void space_forget(struct pager *pager, struct space *space)
{
    for (uint32_t page = 0; page < space->pages; page++)
        give_frame(&pager->frames, space->frames[page]);
    for (int i = 0; i < MOST_SPACES; i++)
        if (pager->spaces[i] == space)
            pager->spaces[i] = NULL;
    free(space->frames);
    free(space->is_mapped);
    free(space->asked);
}

void space_destroy(struct pager *pager, struct space *space)
{
    expect_command(
        pager->engine, (struct descriptor) { .opcode = OPCODE_DESTROY, .pasid = space->pasid }, "destroying");
    space_forget(pager, space);
}

struct descriptor space_map_command(const struct pager *pager, const struct space *space, uint32_t page)
{
    return (struct descriptor) {
        .opcode = OPCODE_MAP,
        .options = space->right == RIGHT_READ ? OPTION_READABLE : OPTION_WRITABLE,
        .pasid = space->pasid,
        .source = memory_address(&pager->frames.memory, frame_bytes(&pager->frames, space->frames[page])),
        .address = space->base + (uint64_t)page * PAGE_SIZE,
        .length = PAGE_SIZE,
    };
}

void space_map(struct pager *pager, struct space *space)
{
    for (uint32_t page = 0; page < space->pages; page++) {
        expect_command(pager->engine, space_map_command(pager, space, page), "mapping for");
        space->is_mapped[page] = true;
    }
}

uint32_t space_unmap(struct pager *pager, struct space *space, uint32_t first, uint32_t count)
{
    uint32_t mapped = 0;
    for (uint32_t page = first; page < first + count; page++)
        mapped += space->is_mapped[page];
    struct descriptor unmap = {
        .opcode = OPCODE_UNMAP,
        .pasid = space->pasid,
        .address = space->base + (uint64_t)first * PAGE_SIZE,
        .length = (uint64_t)count * PAGE_SIZE,
    };
    const struct completion *record = command_and_wait(pager->engine, unmap, "unmapping");
    uint8_t status = mapped ? STATUS_SUCCESS : STATUS_REFUSED;
    uint32_t error = mapped ? 0 : ENOENT;
    uint64_t bytes = (uint64_t)mapped * PAGE_SIZE;
    if (record->status != status || record->error != error || record->bytes != bytes)
        fail("unmapping %u pages, of which %u are mapped: status %u, error %u, %llu bytes", count, mapped,
            record->status, record->error, (unsigned long long)record->bytes);
    memset(space->is_mapped + first, 0, count * sizeof(*space->is_mapped));
    return mapped;
}

void space_move(struct pager *pager, struct space *space, uint32_t page)
{
    uint32_t before = space->frames[page];
    space->frames[page] = take_frame(&pager->frames);
    memcpy(frame_bytes(&pager->frames, space->frames[page]), frame_bytes(&pager->frames, before), PAGE_SIZE);
    give_frame(&pager->frames, before);
}
