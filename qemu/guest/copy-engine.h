/*
 * A user-space driver for the copy engine (id 1234:c0e1), for the programs beside this file: the registers, the rings
 * and the entries in them. What to put there is up to the program.
 *
 * Where there is an IOMMU the driver takes interrupts, otherwise it looks at memory and registers all the time. It is
 * for one thread.
 */
#ifndef COPY_ENGINE_H
#define COPY_ENGINE_H

#include "pci.h"

enum engine_register {
    ENGINE_IDENTIFICATION = 0x00,
    ENGINE_VERSION = 0x04,
    ENGINE_PASID_LIMIT = 0x08,
    ENGINE_PAGE_REQUEST_CAPABILITIES = 0x0c,
    ENGINE_CONTROL = 0x10,
    ENGINE_STATUS = 0x14,
    ENGINE_COMMAND_RING = 0x20,
    ENGINE_WORK_RING = 0x40,
    ENGINE_PAGE_REQUEST_RING = 0x60,
    ENGINE_GROUPS_ANSWERED = 0x80,
    ENGINE_GROUPS_REFUSED = 0x88,
    ENGINE_NANOSECONDS_WAITED = 0x90,
    ENGINE_LONGEST_WAIT = 0x98,
    /* From the beginning of a ring's registers on. */
    RING_BASE = 0x00,
    RING_SIZE = 0x08,
    RING_HEAD = 0x0c,
    RING_TAIL = 0x10,
};

#define ENGINE_BAR_SIZE 0x4000u
#define ENGINE_ID 0x59504f43u
#define ENGINE_ENABLE 0x1u
#define ENGINE_READY 0x1u
#define ENGINE_ERRORS 0x1f00u

enum opcode {
    OPCODE_NOTHING = 0x00,
    OPCODE_COPY = 0x01,
    OPCODE_FILL = 0x02,
    OPCODE_CREATE = 0x11,
    OPCODE_DESTROY = 0x12,
    OPCODE_MAP = 0x13,
    OPCODE_UNMAP = 0x14,
    OPCODE_ANSWER = 0x15,
};

#define FLAG_COMPLETION 0x1
#define FLAG_INTERRUPT 0x2
#define FLAG_FENCE 0x4
#define OPTION_DEMAND_PAGING 0x1
#define OPTION_READABLE 0x1
#define OPTION_WRITABLE 0x2
#define OPTION_PAGES_ARE_THERE 0
#define OPTION_REFUSED 1

enum status {
    STATUS_NONE = 0,
    STATUS_SUCCESS = 1,
    STATUS_NO_ADDRESS_SPACE = 5,
    STATUS_REFUSED = 6,
    STATUS_NOT_MAPPED = 7,
    STATUS_PAGE_REFUSED = 8,
};

#define OPERAND_NOTHING 0
#define OPERAND_SOURCE 1
#define OPERAND_ADDRESS 2

struct descriptor {
    uint8_t opcode, flags;
    uint16_t options;
    uint32_t source_pasid, pasid, zero;
    uint64_t source, address, length, completion, tag, zero_too;
};
_Static_assert(sizeof(struct descriptor) == 64, "an entry of the command and work rings");

struct completion {
    uint8_t status, operand;
    uint16_t zero;
    uint32_t error;
    uint64_t tag, bytes, fault;
};
_Static_assert(sizeof(struct completion) == 32, "a completion record");

struct page_request {
    uint32_t cookie, pasid;
    uint64_t page;
    uint32_t rights, flags;
    uint64_t zero;
};
_Static_assert(sizeof(struct page_request) == 32, "an entry of the page request ring");

#define RIGHT_READ 0x1u
#define RIGHT_WRITE 0x2u
#define REQUEST_IS_LAST 0x1u
#define GROUP_SIZE 0x10000u

enum vector { VECTOR_COMMAND, VECTOR_WORK, VECTOR_PAGE_REQUEST, VECTOR_ERROR, VECTORS };

#define COMMAND_ENTRIES 4096u
#define WORK_ENTRIES 64u
#define PAGE_REQUEST_ENTRIES 1024u
/* Twice as many as there are commands under way, which complete in order: a record is not needed any more when its turn
   comes again. Those of work belong to the program. */
#define COMMAND_RECORDS 8192u
#define WORK_RECORDS 4096u

/* What the device shares with the driver. */
struct shared {
    struct descriptor commands[COMMAND_ENTRIES];
    struct descriptor work[WORK_ENTRIES];
    struct page_request page_requests[PAGE_REQUEST_ENTRIES];
    struct completion command_records[COMMAND_RECORDS];
    struct completion work_records[WORK_RECORDS];
};

/* A ring that the driver fills. */
struct ring {
    enum engine_register registers;
    struct descriptor *entries;
    uint32_t count, head, tail;
    uint32_t told_tail; /* the tail that the device knows */
};

struct engine {
    struct pci_function pci;
    struct memory memory;
    struct shared *shared;
    struct ring commands, work;
    uint32_t page_request_head;
    uint32_t page_request_tail; /* as it was read last: reading it costs much more than reading memory */
    uint32_t pasid_limit, requests_per_group;
    uint64_t records_used; /* of those of commands */
    int events[VECTORS]; /* of a device behind an IOMMU */
    uint64_t interrupts[VECTORS]; /* how many were taken */
};

void engine_open(struct engine *engine, const char *address);
uint32_t engine_read(const struct engine *engine, uint32_t where);
uint64_t engine_read64(const struct engine *engine, uint32_t where);
void engine_write(const struct engine *engine, uint32_t where, uint32_t value);
void engine_write64(const struct engine *engine, uint32_t where, uint64_t value);

void engine_enable(struct engine *engine);
void engine_disable(struct engine *engine);
/* Ends the program if the device has set an error bit. */
void engine_check_errors(const struct engine *engine);

/* Waits until one of the device's interrupts comes; without interrupts it returns at once. A program that waits in vain
   ends. `since` is when what is waited for began. */
void engine_wait(struct engine *engine, uint64_t since, const char *what);

/* Takes the interrupts that have come. */
void take_interrupts(struct engine *engine);

/* Puts an entry into a ring; the device is told of it by ring_tell, or earlier where the ring is full. */
void ring_put(struct engine *engine, struct ring *ring, struct descriptor descriptor);
void ring_tell(struct engine *engine, struct ring *ring);
/* Has a descriptor write a record when it completes, and an interrupt; the record is cleared. */
void ask_for_record(
    const struct engine *engine, struct descriptor *descriptor, struct completion *record, uint64_t tag);
uint8_t status_of(const struct completion *record);

/* Puts a command that writes a record into the ring and tells the device of it. */
const struct completion *command(struct engine *engine, struct descriptor descriptor);
/* The same, and waits for its completion; meanwhile no page request is looked at. */
const struct completion *command_and_wait(struct engine *engine, struct descriptor descriptor, const char *what);

/* Takes a whole group out of the page request ring, if there is one; returns how many requests it has. */
uint32_t next_group(struct engine *engine, struct page_request *requests, uint32_t most);

#endif
