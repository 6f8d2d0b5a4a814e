/*
 * copy-test: copies between two address spaces of the copy engine, no page of which is mapped before the engine asks
 * for it, and looks at every byte.
 *
 *     copy-test 0000:00:03.0 copy|refuse|partly-refuse|never-answer [MIB]
 *
 *     copy           MIB MiB (64), every page of both sides faulted in; tells how fast, and how long page requests took
 *     refuse         the same with all pages of one side refused: that fails and nothing else does
 *     partly-refuse  the same with every sixteenth page of the source refused
 *     never-answer   page requests that nobody answers; the device had better be told to wait for one second only
 *
 * The device is reached through VFIO if there is an IOMMU in front of it, otherwise by physical addresses.
 */
#include "copy-transfer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1u << 20)
#define SOURCE_PASID 5u
#define DESTINATION_PASID 700u
#define MAPPED_SOURCE_PASID 1u
#define SOURCE_BASE 0x7f5400000000ull
/* The destination ends where all addresses end. */
#define DESTINATION_END 0ull
#define NOT_MAPPED_BYTES 5000u

/* Two address spaces, between which is copied. */
struct pair {
    struct space source, destination;
};

static void make_pair(
    struct pager *pager, struct pair *pair, uint32_t source, uint32_t destination, size_t size, bool has_demand_paging)
{
    uint32_t pages = (uint32_t)(size / PAGE_SIZE);
    space_make(pager, &pair->source, source, RIGHT_READ, SOURCE_BASE, pages, has_demand_paging);
    space_make(
        pager, &pair->destination, destination, RIGHT_WRITE, DESTINATION_END - size, pages, has_demand_paging);
}

static void destroy_pair(struct pager *pager, struct pair *pair)
{
    space_destroy(pager, &pair->source);
    space_destroy(pager, &pair->destination);
}

static int compare(const void *one, const void *two)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)two;
    return (a > b) - (a < b);
}

/* What the device and the program count of page requests. */
struct counts {
    uint64_t answered, refused, waited;
    uint64_t groups, groups_refused, requests, again;
};

static struct counts count(const struct pager *pager)
{
    return (struct counts) {
        .answered = engine_read64(pager->engine, ENGINE_GROUPS_ANSWERED),
        .refused = engine_read64(pager->engine, ENGINE_GROUPS_REFUSED),
        .waited = engine_read64(pager->engine, ENGINE_NANOSECONDS_WAITED),
        .groups = pager->groups,
        .groups_refused = pager->groups_refused,
        .requests = pager->requests,
        .again = pager->requests_again,
    };
}

/* Device and program are to have counted the same. Returns how many groups were refused. */
static uint64_t compare_counts(struct counts before, struct counts after)
{
    uint64_t refused = after.groups_refused - before.groups_refused;
    uint64_t answered = after.groups - before.groups - refused;
    if (after.answered - before.answered != answered || after.refused - before.refused != refused)
        fail("the device has counted %llu groups answered and %llu refused, not %llu and %llu",
            (unsigned long long)(after.answered - before.answered),
            (unsigned long long)(after.refused - before.refused), (unsigned long long)answered,
            (unsigned long long)refused);
    return refused;
}

static void print_requests(struct pager *pager, struct counts before, struct counts after)
{
    uint64_t groups = after.groups - before.groups;
    if (pager->latency_count != groups || groups == 0)
        fail("%llu groups and %zu answers", (unsigned long long)groups, pager->latency_count);
    qsort(pager->latencies, pager->latency_count, sizeof(*pager->latencies), compare);
    printf("page requests served: %llu, in %llu groups; group seen to answer read: median %.1f us, 99 %% within"
           " %.1f us, longest %.1f us; the device waited: mean %.1f us, longest since its reset %.1f us\n",
        (unsigned long long)(after.requests - before.requests), (unsigned long long)groups,
        (double)pager->latencies[groups / 2] / 1e3, (double)pager->latencies[groups * 99 / 100] / 1e3,
        (double)pager->latencies[groups - 1] / 1e3, (double)(after.waited - before.waited) / (double)groups / 1e3,
        (double)engine_read64(pager->engine, ENGINE_LONGEST_WAIT) / 1e3);
}

/* Each page was asked for, and what the device has mapped now is what was asked for. */
static void check_pages(struct pager *pager, struct space *space)
{
    for (uint32_t page = 0; page < space->pages; page++)
        if (space->asked[page] == 0)
            fail("page %u of PASID %u was never asked for", page, space->pasid);
    if (space_unmap(pager, space, 0, space->pages) != space->pages)
        fail("not all pages of PASID %u were mapped", space->pasid);
}

static void copy(struct pager *pager, size_t size)
{
    struct pair pair;
    make_pair(pager, &pair, SOURCE_PASID, DESTINATION_PASID, size, true);
    struct counts before = count(pager);
    pager->latency_count = 0;
    struct transfer transfer = transfer_of(pager, &pair.source, &pair.destination, MIB);
    uint64_t start = now();
    transfer_run(&transfer);
    double seconds = (double)(now() - start) / 1e9;
    expect_all_success(&transfer);
    space_check(pager, &pair.source);
    struct counts after = count(pager);
    printf("ok: %zu MiB from PASID %u to PASID %u, every page faulted in and every byte right: %.2f s, %.1f MiB/s\n",
        size / MIB, SOURCE_PASID, DESTINATION_PASID, seconds, (double)size / MIB / seconds);
    print_requests(pager, before, after);
    if (compare_counts(before, after) != 0)
        fail("groups were refused");
    if (after.again != before.again)
        fail("%llu pages were asked for again", (unsigned long long)(after.again - before.again));
    check_pages(pager, &pair.source);
    check_pages(pager, &pair.destination);
    printf("ok: each of the %u pages of both sides was asked for once, and those were mapped and no others\n",
        pair.source.pages);
    destroy_pair(pager, &pair);
    check_frames(&pager->frames, "after copying");
}

static bool each(uint32_t page)
{
    (void)page;
    return true;
}

static bool every_sixteenth(uint32_t page)
{
    return page % 16 == 11;
}

static bool last_of_a_mebibyte(uint32_t page)
{
    return (page + 1) % (MIB / PAGE_SIZE) == 0;
}

static void refuse_a_side(struct pager *pager, size_t size, uint8_t operand)
{
    struct pair pair;
    make_pair(pager, &pair, SOURCE_PASID, DESTINATION_PASID, size, true);
    *(operand == OPERAND_SOURCE ? &pair.source.refuses : &pair.destination.refuses) = each;
    struct counts before = count(pager);
    struct transfer transfer = transfer_of(pager, &pair.source, &pair.destination, MIB);
    transfer_run(&transfer);
    for (uint32_t piece = 0; piece < transfer_pieces(&transfer); piece++)
        expect_failure(&transfer, piece, STATUS_PAGE_REFUSED, operand, 0);
    uint64_t refused = compare_counts(before, count(pager));
    printf("ok: the %s refused: %u copies have failed at their first byte, as %llu groups were; nothing is written\n",
        operand == OPERAND_SOURCE ? "source" : "destination", transfer_pieces(&transfer),
        (unsigned long long)refused);
    destroy_pair(pager, &pair);
}

/* Work in address spaces without demand paging, which never asks. */
static void copy_mapped(struct pager *pager, size_t size)
{
    struct pair pair;
    make_pair(pager, &pair, MAPPED_SOURCE_PASID, pager->engine->pasid_limit - 1, size, false);
    space_map(pager, &pair.source);
    space_map(pager, &pair.destination);
    struct counts before = count(pager);
    struct transfer transfer = transfer_of(pager, &pair.source, &pair.destination, size / 2);
    transfer_run(&transfer);
    expect_all_success(&transfer);
    printf("ok: %zu KiB that were mapped before are copied\n", size / 1024);

    space_refill(pager, &pair.destination, 0);
    uint32_t page = pair.source.pages / 2 + 1;
    space_unmap(pager, &pair.source, page, 1);
    transfer = transfer_of(pager, &pair.source, &pair.destination, NOT_MAPPED_BYTES);
    transfer.from_offset = (uint64_t)page * PAGE_SIZE - NOT_MAPPED_BYTES + 1;
    transfer.length = NOT_MAPPED_BYTES;
    transfer_run(&transfer);
    expect_failure(&transfer, 0, STATUS_NOT_MAPPED, OPERAND_SOURCE, NOT_MAPPED_BYTES - 1);
    if (count(pager).groups != before.groups)
        fail("page requests in an address space without demand paging");
    printf("ok: a copy has failed at its last byte, the first that was not mapped, and asked for nothing\n");
    destroy_pair(pager, &pair);
}

/* Work without a PASID has memory addresses, and begins with a fence when what is before it has completed. */
static void fill_memory(struct pager *pager)
{
    struct engine *engine = pager->engine;
    struct pair pair;
    make_pair(pager, &pair, SOURCE_PASID, DESTINATION_PASID, MIB, true);
    struct space *destination = &pair.destination;
    struct completion *records = engine->shared->work_records;
    struct descriptor copy = {
        .opcode = OPCODE_COPY,
        .source_pasid = SOURCE_PASID,
        .pasid = DESTINATION_PASID,
        .source = pair.source.base,
        .address = destination->base,
        .length = MIB,
    };
    uint8_t *page = frame_bytes(&pager->frames, destination->frames[1]);
    struct descriptor fill = {
        .opcode = OPCODE_FILL,
        .flags = FLAG_FENCE,
        .source = 0x4242424242424242ull,
        .address = memory_address(&pager->frames.memory, page) + 8,
        .length = PAGE_SIZE - 16,
    };
    ask_for_record(engine, &copy, &records[0], 0);
    ask_for_record(engine, &fill, &records[1], 1);
    ring_put(engine, &engine->work, copy);
    ring_put(engine, &engine->work, fill);
    ring_tell(engine, &engine->work);
    uint64_t start = now();
    while (status_of(&records[1]) == STATUS_NONE)
        if (!pager_serve(pager))
            engine_wait(engine, start, "a fill behind a fence");
    pager_finish(pager);
    if (records[0].status != STATUS_SUCCESS || records[1].status != STATUS_SUCCESS
        || records[1].bytes != PAGE_SIZE - 16)
        fail("a copy and a fill: status %u and %u", records[0].status, records[1].status);
    static uint8_t expected[PAGE_SIZE] __attribute__((aligned(8)));
    write_pattern(expected, pair.source.base + PAGE_SIZE, 0);
    memset(expected + 8, 0x42, PAGE_SIZE - 16);
    if (memcmp(page, expected, PAGE_SIZE) != 0)
        fail("a fill behind a copy is not what is in memory");
    printf("ok: a fill by memory address, behind a fence, came after the copy before it\n");
    destroy_pair(pager, &pair);
}

static void refuse(struct pager *pager, size_t size)
{
    refuse_a_side(pager, size, OPERAND_SOURCE);
    refuse_a_side(pager, size, OPERAND_ADDRESS);
    copy_mapped(pager, MIB);
    fill_memory(pager);
    copy(pager, size);
    check_frames(&pager->frames, "after work that was refused");
}

/* Each piece that meets a refused page of the source is to have failed there, and the others not. */
static void expect_failures_at_refused_pages(const struct transfer *transfer, uint64_t sure_bytes)
{
    uint32_t failed = 0;
    for (uint32_t piece = 0; piece < transfer_pieces(transfer); piece++) {
        uint64_t length = transfer_piece_length(transfer, piece), reached = 0;
        uint64_t offset = transfer_source(transfer, piece) - transfer->from->base;
        while (reached < length && !transfer->from->refuses((uint32_t)((offset + reached) / PAGE_SIZE)))
            reached += PAGE_SIZE - (offset + reached) % PAGE_SIZE;
        if (reached >= length) {
            expect_success(transfer, piece);
            continue;
        }
        failed++;
        expect_failure(transfer, piece, STATUS_PAGE_REFUSED, OPERAND_SOURCE, reached);
        if (transfer_record(transfer, piece)->bytes < sure_bytes)
            fail("%llu bytes before page %llu was refused", (unsigned long long)transfer_record(transfer, piece)->bytes,
                (unsigned long long)(offset + reached) / PAGE_SIZE);
    }
    printf("ok: of %u copies of up to %llu bytes those %u have failed that met a refused page, and there\n",
        transfer_pieces(transfer), (unsigned long long)transfer->piece, failed);
}

static void partly_refuse(struct pager *pager, size_t size)
{
    /* Copies of three pages that begin within one. */
    struct pair pair;
    make_pair(pager, &pair, SOURCE_PASID, DESTINATION_PASID, size, true);
    pair.source.refuses = every_sixteenth;
    struct transfer transfer = transfer_of(pager, &pair.source, &pair.destination, 3 * PAGE_SIZE);
    transfer.from_offset = 100;
    transfer.to_offset = 333;
    transfer.length -= PAGE_SIZE;
    transfer_run(&transfer);
    expect_failures_at_refused_pages(&transfer, 0);
    destroy_pair(pager, &pair);

    /* Copies that get far before they fail, and say so. */
    make_pair(pager, &pair, SOURCE_PASID, DESTINATION_PASID, size, true);
    pair.source.refuses = last_of_a_mebibyte;
    transfer = transfer_of(pager, &pair.source, &pair.destination, MIB);
    transfer_run(&transfer);
    expect_failures_at_refused_pages(&transfer, MIB / 2);
    destroy_pair(pager, &pair);
    copy(pager, MIB);
}

static void never_answer(struct pager *pager, size_t size)
{
    struct pair pair;
    make_pair(pager, &pair, SOURCE_PASID, DESTINATION_PASID, size, true);
    struct transfer transfer = transfer_of(pager, &pair.source, &pair.destination, MIB);
    pager->is_deaf = true;
    struct counts before = count(pager);
    uint64_t start = now();
    transfer_run(&transfer);
    for (uint32_t piece = 0; piece < transfer_pieces(&transfer); piece++) {
        const struct completion *record = transfer_record(&transfer, piece);
        if (record->status != STATUS_PAGE_REFUSED || record->bytes != 0)
            fail("a copy whose page requests are not answered: status %u, %llu bytes", record->status,
                (unsigned long long)record->bytes);
    }
    printf("ok: %u copies have failed after %.1f s, as %llu groups were not answered\n", transfer_pieces(&transfer),
        (double)(now() - start) / 1e9, (unsigned long long)pager->groups);
    if (count(pager).refused - before.refused != pager->groups)
        fail("the device has not counted them as refused");
    pager->is_deaf = false;

    for (uint16_t options = OPTION_PAGES_ARE_THERE; options <= OPTION_REFUSED; options++) {
        struct descriptor late = { .opcode = OPCODE_ANSWER, .options = options, .source = pager->last_cookie };
        const struct completion *record = command_and_wait(pager->engine, late, "a late answer");
        if (record->status != STATUS_REFUSED || record->error != EINVAL)
            fail("a late answer: status %u, error %u", record->status, record->error);
    }
    printf("ok: a late answer is refused\n");
    destroy_pair(pager, &pair);
    copy(pager, MIB);

    struct descriptor again = { .opcode = OPCODE_ANSWER, .source = pager->last_cookie };
    const struct completion *record = command_and_wait(pager->engine, again, "a second answer");
    if (record->status != STATUS_REFUSED || record->error != EINVAL)
        fail("a second answer: status %u, error %u", record->status, record->error);
    printf("ok: so is a second one\n");
}

static void check_interrupts(struct engine *engine)
{
    const uint64_t *counts = engine->interrupts;
    if (engine->pci.container < 0)
        return;
    /* Where the device was quicker than the program, nobody has waited for them. */
    take_interrupts(engine);
    printf("interrupts: %llu for commands, %llu for work, %llu for page requests\n",
        (unsigned long long)counts[VECTOR_COMMAND], (unsigned long long)counts[VECTOR_WORK],
        (unsigned long long)counts[VECTOR_PAGE_REQUEST]);
    if (!counts[VECTOR_COMMAND] || !counts[VECTOR_WORK] || !counts[VECTOR_PAGE_REQUEST] || counts[VECTOR_ERROR])
        fail("not those three interrupts and no others");
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(struct pager *, size_t);
        unsigned long mebibytes;
    } modes[] = {
        { "copy", copy, 64 },
        { "refuse", refuse, 8 },
        { "partly-refuse", partly_refuse, 4 },
        { "never-answer", never_answer, 4 },
    };
    unsigned long mebibytes = argc == 4 ? strtoul(argv[3], NULL, 10) : 0;
    for (size_t i = 0; argc >= 3 && argc <= 4 && i < sizeof(modes) / sizeof(modes[0]); i++) {
        if (strcmp(argv[2], modes[i].name) != 0 || (argc == 4 && (mebibytes < 1 || mebibytes > 128)))
            continue;
        setvbuf(stdout, NULL, _IOLBF, 0);
        size_t size = (argc == 4 ? mebibytes : modes[i].mebibytes) * MIB;
        struct engine engine;
        struct pager pager;
        engine_open(&engine, argv[1]);
        pager_open(&pager, &engine, (uint32_t)(size / PAGE_SIZE * 2));
        engine_enable(&engine);
        modes[i].run(&pager, size);
        engine_check_errors(&engine);
        engine_disable(&engine);
        check_interrupts(&engine);
        printf("all right\n");
        return 0;
    }
    fprintf(stderr, "usage: copy-test ADDRESS copy|refuse|partly-refuse|never-answer [MIB]\n");
    return 64;
}
