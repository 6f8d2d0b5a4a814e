/*
 * Copies from one address space of the copy engine to another, which are what makes it ask for pages.
 */
#ifndef COPY_TRANSFER_H
#define COPY_TRANSFER_H

#include "copy-pager.h"

#define MOST_UNDER_WAY 32u

/* A copy of an area in pieces, some of them under way at a time. A piece has its number as tag, and a work record to
   itself. */
struct transfer {
    struct pager *pager;
    const struct space *from, *to;
    uint64_t from_offset, to_offset;
    uint64_t length, piece;
    uint32_t depth; /* how many pieces are under way at most */
    uint32_t begun, completed;
    uint32_t under_way[MOST_UNDER_WAY];
};

/* Of all that is in an address space, to the beginning of another. */
struct transfer transfer_of(struct pager *pager, const struct space *from, const struct space *to, uint64_t piece);
/* Begins what may be begun and looks at what is under way; returns whether something went on. */
bool transfer_step(struct transfer *transfer);
bool transfer_is_done(const struct transfer *transfer);
/* Waits for all of it, and for the answers to what it asked for. */
void transfer_run(struct transfer *transfer);
const struct completion *transfer_record(const struct transfer *transfer, uint32_t piece);
uint64_t transfer_source(const struct transfer *transfer, uint32_t piece);
uint64_t transfer_destination(const struct transfer *transfer, uint32_t piece);
uint32_t transfer_pieces(const struct transfer *transfer);
uint64_t transfer_piece_length(const struct transfer *transfer, uint32_t piece);
/* A piece is to have succeeded, and the destination to be what the source is; or all of them. */
void expect_success(const struct transfer *transfer, uint32_t piece);
void expect_all_success(const struct transfer *transfer);
/* A piece is to have failed at a byte of its source or destination, with nothing copied that lies behind. */
void expect_failure(
    const struct transfer *transfer, uint32_t piece, uint8_t status, uint8_t operand, uint64_t offset);

#endif
