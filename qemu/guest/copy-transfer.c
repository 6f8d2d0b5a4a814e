#include "copy-transfer.h"

#include <string.h>

struct transfer transfer_of(struct pager *pager, const struct space *from, const struct space *to, uint64_t piece)
{
    return (struct transfer) {
        .pager = pager, .from = from, .to = to, .length = space_bytes(from), .piece = piece, .depth = 8,
    };
}

uint32_t transfer_pieces(const struct transfer *transfer)
{
    return (uint32_t)((transfer->length + transfer->piece - 1) / transfer->piece);
}

uint64_t transfer_source(const struct transfer *transfer, uint32_t piece)
{
    return transfer->from->base + transfer->from_offset + piece * transfer->piece;
}

uint64_t transfer_destination(const struct transfer *transfer, uint32_t piece)
{
    return transfer->to->base + transfer->to_offset + piece * transfer->piece;
}

uint64_t transfer_piece_length(const struct transfer *transfer, uint32_t piece)
{
    uint64_t left = transfer->length - piece * transfer->piece;
    return left < transfer->piece ? left : transfer->piece;
}

static struct completion *record_of(const struct transfer *transfer, uint32_t piece)
{
    if (piece >= WORK_RECORDS)
        fail("more than %u pieces", WORK_RECORDS);
    return &transfer->pager->engine->shared->work_records[piece];
}

const struct completion *transfer_record(const struct transfer *transfer, uint32_t piece)
{
    return record_of(transfer, piece);
}

bool transfer_is_done(const struct transfer *transfer)
{
    return transfer->completed == transfer_pieces(transfer);
}

static void begin_piece(struct transfer *transfer)
{
    struct engine *engine = transfer->pager->engine;
    uint32_t piece = transfer->begun++;
    struct descriptor copy = {
        .opcode = OPCODE_COPY,
        .source_pasid = transfer->from->pasid,
        .pasid = transfer->to->pasid,
        .source = transfer_source(transfer, piece),
        .address = transfer_destination(transfer, piece),
        .length = transfer_piece_length(transfer, piece),
    };
    ask_for_record(engine, &copy, record_of(transfer, piece), piece);
    ring_put(engine, &engine->work, copy);
    transfer->under_way[transfer->begun - transfer->completed - 1] = piece;
}

bool transfer_step(struct transfer *transfer)
{
    bool went_on = pager_serve(transfer->pager);
    uint32_t under_way = transfer->begun - transfer->completed, left = 0;
    for (uint32_t i = 0; i < under_way; i++)
        if (status_of(record_of(transfer, transfer->under_way[i])) == STATUS_NONE)
            transfer->under_way[left++] = transfer->under_way[i];
    transfer->completed += under_way - left;
    went_on |= left < under_way;
    uint32_t begun = transfer->begun;
    while (transfer->begun < transfer_pieces(transfer) && transfer->begun - transfer->completed < transfer->depth)
        begin_piece(transfer);
    ring_tell(transfer->pager->engine, &transfer->pager->engine->work);
    return went_on || transfer->begun > begun;
}

void transfer_run(struct transfer *transfer)
{
    uint64_t since = now();
    while (!transfer_is_done(transfer))
        if (transfer_step(transfer))
            since = now();
        else
            engine_wait(transfer->pager->engine, since, "a page request, an answer that is read, or completed work");
    pager_finish(transfer->pager);
}

/* How much of what begins at an address lies in its page, and where. */
static uint64_t in_page(
    const struct transfer *transfer, const struct space *space, uint64_t address, uint8_t **bytes)
{
    uint64_t offset = address - space->base;
    *bytes = frame_bytes(&transfer->pager->frames, space->frames[offset / PAGE_SIZE]) + offset % PAGE_SIZE;
    return PAGE_SIZE - offset % PAGE_SIZE;
}

static uint64_t least(uint64_t one, uint64_t two)
{
    return one < two ? one : two;
}

/* So many bytes of a piece are to be those of the source. */
static void expect_copied(const struct transfer *transfer, uint32_t piece, uint64_t count)
{
    static uint8_t expected[PAGE_SIZE] __attribute__((aligned(8)));
    uint64_t source = transfer_source(transfer, piece), destination = transfer_destination(transfer, piece);
    for (uint64_t part, done = 0; done < count; done += part) {
        uint64_t in_source = (source + done) % PAGE_SIZE;
        uint8_t *bytes;
        uint64_t in_destination = in_page(transfer, transfer->to, destination + done, &bytes);
        part = least(in_destination, least(PAGE_SIZE - in_source, count - done));
        write_pattern(expected, source + done - in_source, transfer->from->seed);
        if (memcmp(bytes, expected + in_source, part) != 0)
            fail("piece %u is not copied right at 0x%llx of PASID %u", piece,
                (unsigned long long)(destination + done), transfer->to->pasid);
    }
}

/* From an offset on a piece is to be all canaries. */
static void expect_untouched(const struct transfer *transfer, uint32_t piece, uint64_t offset)
{
    uint64_t destination = transfer_destination(transfer, piece) + offset;
    uint64_t count = transfer_piece_length(transfer, piece) - offset;
    for (uint64_t part, done = 0; done < count; done += part) {
        uint8_t *bytes;
        part = least(in_page(transfer, transfer->to, destination + done, &bytes), count - done);
        if (!is_all(bytes, part, CANARY))
            fail("piece %u has written at 0x%llx of PASID %u", piece, (unsigned long long)(destination + done),
                transfer->to->pasid);
    }
}

/* Ends the program unless the record says this. What comes with a status is the device's to choose: how much it is sure
   to have copied before a failure, and the error number. */
static void expect_record(const struct completion *record, struct completion expected)
{
    bool is_success = expected.status == STATUS_SUCCESS;
    bool has_bytes = is_success ? record->bytes == expected.bytes : record->bytes <= expected.bytes;
    if (record->status == expected.status && record->operand == expected.operand && record->zero == 0
        && record->tag == expected.tag && record->fault == expected.fault && has_bytes
        && (!is_success || record->error == 0))
        return;
    fail("piece %llu: status %u, operand %u, error %u, tag %llu, %llu bytes, fault address 0x%llx;"
         " expected status %u, operand %u, %llu bytes%s, fault address 0x%llx",
        (unsigned long long)expected.tag, record->status, record->operand, record->error,
        (unsigned long long)record->tag, (unsigned long long)record->bytes, (unsigned long long)record->fault,
        expected.status, expected.operand, (unsigned long long)expected.bytes, is_success ? "" : " at most",
        (unsigned long long)expected.fault);
}

void expect_success(const struct transfer *transfer, uint32_t piece)
{
    uint64_t length = transfer_piece_length(transfer, piece);
    struct completion expected = { .status = STATUS_SUCCESS, .tag = piece, .bytes = length };
    expect_record(record_of(transfer, piece), expected);
    expect_copied(transfer, piece, length);
}

void expect_all_success(const struct transfer *transfer)
{
    for (uint32_t piece = 0; piece < transfer_pieces(transfer); piece++)
        expect_success(transfer, piece);
}

void expect_failure(
    const struct transfer *transfer, uint32_t piece, uint8_t status, uint8_t operand, uint64_t offset)
{
    bool is_source = operand == OPERAND_SOURCE;
    uint64_t fault = (is_source ? transfer_source : transfer_destination)(transfer, piece) + offset;
    struct completion expected = {
        .status = status, .operand = operand, .tag = piece, .bytes = offset, .fault = fault,
    };
    expect_record(record_of(transfer, piece), expected);
    expect_copied(transfer, piece, record_of(transfer, piece)->bytes);
    expect_untouched(transfer, piece, offset);
}
