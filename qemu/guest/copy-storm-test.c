/*
 * copy-storm-test: the copy engine while the ground moves under it.
 *
 *     copy-storm-test 0000:00:03.0 unmap|reset [ROUNDS]
 *
 *     unmap  pages are unmapped while copies use them, and mapped elsewhere when they are asked for again: nothing
 *            reaches the memory where they were, and in the end every byte is right. A round is one pass over 4 MiB.
 *     reset  the function is reset while page requests wait for answers: nothing of before is written afterwards, and
 *            the engine works again. A round is one reset.
 */
#include "copy-transfer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1u << 20)
#define AREA_PAGES (4u * MIB / PAGE_SIZE)
#define SOURCE_PASID 5u
#define DESTINATION_PASID 700u
#define SOURCE_BASE 0x7f5400000000ull
#define DESTINATION_BASE 0x100000000000ull
#define PIECE (128u * 1024)
#define MOST_PAGES_AT_A_TIME 24u
#define QUIET_MICROSECONDS 50000
#define POISON 0xa5

static void make_spaces(struct pager *pager, struct space *source, struct space *destination)
{
    space_make(pager, source, SOURCE_PASID, RIGHT_READ, SOURCE_BASE, AREA_PAGES, true);
    space_make(pager, destination, DESTINATION_PASID, RIGHT_WRITE, DESTINATION_BASE, AREA_PAGES, true);
}

/* Numbers that are the same in each run. */
static uint32_t below(uint32_t limit)
{
    static uint64_t state = 0x9e3779b97f4a7c15ull;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)((state >> 32) * limit >> 32);
}

/* Takes some pages from the device and puts what is in them elsewhere. Where they were there are canaries then, and
   nobody else uses those frames for a while. Returns how many pages the device had. */
static uint32_t move_pages(struct pager *pager, struct space *space)
{
    uint32_t count = 1 + below(MOST_PAGES_AT_A_TIME), first = below(space->pages - count + 1);
    bool was_mapped[MOST_PAGES_AT_A_TIME];
    memcpy(was_mapped, space->is_mapped + first, count * sizeof(*was_mapped));
    uint32_t mapped = space_unmap(pager, space, first, count);
    for (uint32_t i = 0; i < count; i++)
        if (was_mapped[i])
            space_move(pager, space, first + i);
    return mapped;
}

static void unmap_under_way(struct pager *pager, uint32_t rounds)
{
    struct space source, destination;
    make_spaces(pager, &source, &destination);
    uint64_t unmaps = 0, moved = 0;
    for (uint32_t round = 1; round <= rounds; round++) {
        /* A seed that no address makes up for: of a round before nothing is right. */
        space_refill(pager, &source, (uint64_t)round << 48);
        space_refill(pager, &destination, 0);
        struct transfer transfer = transfer_of(pager, &source, &destination, PIECE);
        uint64_t since = now();
        while (!transfer_is_done(&transfer)) {
            if (!transfer_step(&transfer)) {
                engine_wait(pager->engine, since, "copies under which pages are unmapped");
                continue;
            }
            since = now();
            if (transfer.begun == transfer.completed)
                continue;
            moved += move_pages(pager, &source);
            moved += move_pages(pager, &destination);
            unmaps += 2;
        }
        pager_finish(pager);
        expect_all_success(&transfer);
        check_frames(&pager->frames, "after a round");
    }
    if (moved == 0 || pager->requests_again == 0)
        fail("no page was unmapped and asked for again");
    printf("ok: %u times 4 MiB are right though %llu pages were taken away by %llu unmaps meanwhile,"
           " and %llu asked for again\n",
        rounds, (unsigned long long)moved, (unsigned long long)unmaps, (unsigned long long)pager->requests_again);
    space_destroy(pager, &source);
    space_destroy(pager, &destination);
}

/* Where the device would write if something of before the reset went on. */
static void poison(struct shared *shared)
{
    memset(shared->page_requests, POISON, sizeof(shared->page_requests));
    memset(shared->command_records, POISON, sizeof(shared->command_records));
    memset(shared->work_records, POISON, sizeof(shared->work_records));
}

static void check_poison(const struct shared *shared, const char *when)
{
    const uint8_t *bytes = (const uint8_t *)shared->page_requests;
    size_t size = sizeof(*shared) - offsetof(struct shared, page_requests);
    if (!is_all(bytes, size, POISON))
        fail("the device has written a page request or a record %s", when);
}

/* Copies until so many groups have been asked for, of which the last ones are not answered. */
static void begin_storm(struct pager *pager, struct transfer *transfer, uint64_t groups)
{
    uint64_t before = pager->groups, since = now();
    while (pager->groups - before < groups + 2) {
        pager->is_deaf = pager->groups - before >= groups;
        if (!transfer_step(transfer))
            engine_wait(pager->engine, since, "the page requests of a storm");
    }
    pager->is_deaf = false;
}

static void reset_in_a_storm(struct pager *pager, uint64_t groups)
{
    struct engine *engine = pager->engine;
    struct space source, destination;
    make_spaces(pager, &source, &destination);
    struct transfer transfer = transfer_of(pager, &source, &destination, PIECE);
    begin_storm(pager, &transfer, groups);
    uint32_t under_way = transfer.begun - transfer.completed;
    if (under_way == 0)
        fail("copies have completed whose page requests were not answered");
    pci_reset(&engine->pci);

    uint32_t status = engine_read(engine, ENGINE_STATUS);
    if (status != 0)
        fail("the status after a reset is 0x%x", status);
    poison(engine->shared);
    pager_forget(pager);
    space_forget(pager, &source);
    space_forget(pager, &destination);
    /* An interrupt of just before the reset may still be on its way through the machine. */
    usleep(QUIET_MICROSECONDS);
    take_interrupts(engine);
    uint64_t interrupts[VECTORS];
    memcpy(interrupts, engine->interrupts, sizeof(interrupts));
    usleep(QUIET_MICROSECONDS);
    take_interrupts(engine);
    if (memcmp(interrupts, engine->interrupts, sizeof(interrupts)) != 0)
        fail("an interrupt after the reset");
    check_poison(engine->shared, "after the reset");
    uint64_t start = now();
    engine_enable(engine);
    double milliseconds = (double)(now() - start) / 1e6;
    check_poison(engine->shared, "since the reset");
    check_frames(&pager->frames, "after a reset");
    printf("ok: reset with %u copies under way after %llu groups; ready again in %.1f ms, and nothing of before was"
           " written\n",
        under_way, (unsigned long long)groups + 2, milliseconds);
}

static void reset(struct pager *pager, uint32_t rounds)
{
    for (uint32_t round = 0; round < rounds; round++)
        reset_in_a_storm(pager, (uint64_t)(round % 8) * 7);
    struct space source, destination;
    make_spaces(pager, &source, &destination);
    struct transfer transfer = transfer_of(pager, &source, &destination, PIECE);
    transfer_run(&transfer);
    expect_all_success(&transfer);
    printf("ok: 4 MiB are copied with page requests after it all\n");
    space_destroy(pager, &source);
    space_destroy(pager, &destination);
    check_frames(&pager->frames, "in the end");
}

int main(int argc, char **argv)
{
    bool unmaps = argc >= 3 && strcmp(argv[2], "unmap") == 0;
    unsigned long rounds = argc == 4 ? strtoul(argv[3], NULL, 10) : unmaps ? 20 : 5;
    if (argc < 3 || argc > 4 || (!unmaps && strcmp(argv[2], "reset") != 0) || rounds < 1 || rounds > 1000000000) {
        fprintf(stderr, "usage: copy-storm-test ADDRESS unmap|reset [ROUNDS]\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct engine engine;
    struct pager pager;
    engine_open(&engine, argv[1]);
    pager_open(&pager, &engine, 4 * AREA_PAGES);
    engine_enable(&engine);
    (unmaps ? unmap_under_way : reset)(&pager, (uint32_t)rounds);
    engine_check_errors(&engine);
    engine_disable(&engine);
    printf("all right\n");
    return 0;
}
