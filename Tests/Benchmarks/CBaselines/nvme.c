#define _GNU_SOURCE
#include "CBaselines.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "memory.h"
#include "random.h"
#include "vfio_user.h"

// Registers of BAR 0, and bits in them.
enum {
    CONFIGURATION = 0x14,
    STATUS = 0x1c,
    ADMIN_QUEUE_ATTRIBUTES = 0x24,
    ADMIN_SUBMISSION_QUEUE = 0x28,
    ADMIN_COMPLETION_QUEUE = 0x30,
    DOORBELLS = 0x1000,

    ENABLE = 1,
    ENTRY_SIZES = 6 << 16 | 4 << 20,
    READY = 1,
    FAILED = 2,
};

enum { CREATE_SUBMISSION_QUEUE = 0x01, CREATE_COMPLETION_QUEUE = 0x05, READ = 0x02 };

// The PCI configuration space.
enum { PCI_COMMAND = 0x04, PCI_CAPABILITIES = 0x34, PCI_MSIX = 0x11, BUS_MASTER_AND_MEMORY = 0x06 };
enum { CONFIGURATION_REGION = 7, MSIX_INDEX = 2, QUEUE_VECTOR = 1 };

enum { ADMIN_ENTRIES = 16, QUEUE_ENTRIES = 256, PAGE = 4096 };

// Where things are in the memory that the controller sees.
enum {
    ADMIN_SUBMISSION = 0,
    ADMIN_COMPLETION = PAGE,
    SUBMISSION = 2 * PAGE,
    COMPLETION = 6 * PAGE,
    DATA = 8 * PAGE,
    MEMORY_SIZE = DATA + LOAD_MAXIMUM_DEPTH * PAGE,
};
static const uint64_t memory_address = 0x200000000;

struct submission {
    uint32_t opcode_and_id;
    uint32_t namespace_id;
    uint64_t reserved, metadata;
    uint64_t data[2];
    uint32_t words[6];
};

struct completion {
    uint32_t result;
    uint32_t reserved;
    uint16_t head, queue;
    uint16_t id;
    // The lowest bit is the phase, the others the status.
    _Atomic uint16_t status;
};

struct queue {
    struct submission *submissions;
    struct completion *completions;
    uint32_t entries, tail, head;
    uint16_t number, phase;
};

struct nvme_load {
    struct load_client *client;
    unsigned char *memory;
    int descriptor, interrupt;
    struct queue admin, queue;
    // The block that each command, by its number, reads.
    uint64_t blocks[LOAD_MAXIMUM_DEPTH];
};

static int ring(struct nvme_load *load, uint32_t doorbell, uint32_t value)
{
    return load_client_post(load->client, 0, DOORBELLS + doorbell * sizeof(value), &value, sizeof(value));
}

// Puts a command into the queue; the controller is not told yet.
static void submit(struct queue *queue, struct submission command)
{
    queue->submissions[queue->tail] = command;
    queue->tail = (queue->tail + 1) % queue->entries;
}

// Whether there is a completion; if so, it is taken.
static bool take(struct queue *queue, uint16_t *id, uint16_t *status)
{
    struct completion *completion = &queue->completions[queue->head];
    uint16_t found = atomic_load_explicit(&completion->status, memory_order_acquire);
    if ((found & 1) != queue->phase)
        return false;
    *id = completion->id;
    *status = found >> 1;
    queue->head = (queue->head + 1) % queue->entries;
    if (queue->head == 0)
        queue->phase ^= 1;
    return true;
}

static int administer(struct nvme_load *load, struct submission command)
{
    uint16_t id, status;
    submit(&load->admin, command);
    int error = ring(load, 0, load->admin.tail);
    while (!error && !take(&load->admin, &id, &status))
        sched_yield();
    if (!error)
        error = ring(load, 1, load->admin.head);
    return !error && status ? EIO : error;
}

static int create_queues(struct nvme_load *load)
{
    struct submission completions = {
        .opcode_and_id = CREATE_COMPLETION_QUEUE, .data = { memory_address + COMPLETION },
        // Queue number and size; contiguous, with interrupts, and the vector.
        .words = { load->queue.number | (QUEUE_ENTRIES - 1) << 16, 3 | QUEUE_VECTOR << 16 },
    };
    struct submission submissions = {
        .opcode_and_id = CREATE_SUBMISSION_QUEUE, .data = { memory_address + SUBMISSION },
        .words = { load->queue.number | (QUEUE_ENTRIES - 1) << 16, 1 | (uint32_t)load->queue.number << 16 },
    };
    int error = administer(load, completions);
    return error ? error : administer(load, submissions);
}

static int enable(struct nvme_load *load)
{
    struct load_client *client = load->client;
    uint32_t attributes = (ADMIN_ENTRIES - 1) | (ADMIN_ENTRIES - 1) << 16, configuration = ENABLE | ENTRY_SIZES;
    uint64_t submission = memory_address + ADMIN_SUBMISSION, completion = memory_address + ADMIN_COMPLETION;
    int error = load_client_write(client, 0, ADMIN_QUEUE_ATTRIBUTES, &attributes, sizeof(attributes));
    if (!error)
        error = load_client_write(client, 0, ADMIN_SUBMISSION_QUEUE, &submission, sizeof(submission));
    if (!error)
        error = load_client_write(client, 0, ADMIN_COMPLETION_QUEUE, &completion, sizeof(completion));
    if (!error)
        error = load_client_write(client, 0, CONFIGURATION, &configuration, sizeof(configuration));
    uint32_t status = 0;
    while (!error && !(status & (READY | FAILED))) {
        error = load_client_read(client, 0, STATUS, &status, sizeof(status));
        sched_yield();
    }
    return !error && (status & FAILED) ? EIO : error;
}

static int connect_interrupts(struct nvme_load *load)
{
    struct load_client *client = load->client;
    uint16_t command = BUS_MASTER_AND_MEMORY, control = 0;
    uint8_t capability[2] = { 0, 0 };
    uint32_t table = 0, unmasked = 0;
    int counters[] = { load->interrupt, load->interrupt };
    int error = load_client_write(client, CONFIGURATION_REGION, PCI_COMMAND, &command, sizeof(command));
    if (!error)
        error = load_client_read(client, CONFIGURATION_REGION, PCI_CAPABILITIES, &capability[1], 1);
    uint8_t place = 0;
    // A chain of two bytes each has no more links than this.
    for (int link = 0; !error && capability[0] != PCI_MSIX; link++) {
        place = capability[1];
        if (place == 0 || link == 64)
            return ENXIO;
        error = load_client_read(client, CONFIGURATION_REGION, place, capability, sizeof(capability));
    }
    if (!error)
        error = load_client_set_interrupts(client, MSIX_INDEX, 2, counters);
    if (!error)
        error = load_client_read(client, CONFIGURATION_REGION, place + 2u, &control, sizeof(control));
    control |= 1 << 15;
    if (!error)
        error = load_client_write(client, CONFIGURATION_REGION, place + 2u, &control, sizeof(control));
    if (!error)
        error = load_client_read(client, CONFIGURATION_REGION, place + 4u, &table, sizeof(table));
    // The table is in BAR 0; a vector has 16 bytes, of which the last four mask it.
    for (uint32_t vector = 0; !error && vector <= QUEUE_VECTOR; vector++)
        error = load_client_write(client, 0, (table & ~7u) + vector * 16 + 12, &unmasked, sizeof(unmasked));
    return error;
}

static int map_memory(struct nvme_load *load)
{
    struct dma_map request = {
        .argsz = sizeof(request), .flags = MAP_READ | MAP_WRITE, .address = memory_address, .size = MEMORY_SIZE,
    };
    struct load_reply reply;
    int error = load_client_exchange(load->client, DMA_MAP, &request, sizeof(request), load->descriptor, &reply);
    return !error && (reply.flags & FLAG_ERROR) ? (int)reply.error : error;
}

static struct queue queue_at(struct nvme_load *load, uint16_t number, size_t submission, size_t completion,
    uint32_t entries)
{
    return (struct queue) {
        .submissions = (void *)(load->memory + submission), .completions = (void *)(load->memory + completion),
        .entries = entries, .number = number, .phase = 1,
    };
}

int nvme_load_create(struct load_client *client, struct nvme_load **result)
{
    struct nvme_load *load = allocate_zeroed(64, sizeof(*load) + 64 - sizeof(*load) % 64);
    load->client = client;
    load->interrupt = eventfd(0, EFD_CLOEXEC);
    load->descriptor = memfd_create("nvme load", MFD_CLOEXEC);
    load->memory = MAP_FAILED;
    *result = load;
    if (load->interrupt < 0 || load->descriptor < 0 || ftruncate(load->descriptor, MEMORY_SIZE) != 0)
        return errno;
    load->memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, load->descriptor, 0);
    if (load->memory == MAP_FAILED)
        return errno;
    load->admin = queue_at(load, 0, ADMIN_SUBMISSION, ADMIN_COMPLETION, ADMIN_ENTRIES);
    load->queue = queue_at(load, 1, SUBMISSION, COMPLETION, QUEUE_ENTRIES);
    int error = load_client_negotiate(client);
    if (!error)
        error = map_memory(load);
    if (!error)
        error = connect_interrupts(load);
    if (!error)
        error = enable(load);
    return error ? error : create_queues(load);
}

void nvme_load_destroy(struct nvme_load *load)
{
    if (load->memory != MAP_FAILED)
        munmap(load->memory, MEMORY_SIZE);
    close(load->descriptor);
    close(load->interrupt);
    free(load);
}

static void submit_read(struct nvme_load *load, uint16_t id, uint64_t block)
{
    load->blocks[id] = block;
    submit(&load->queue, (struct submission) {
        .opcode_and_id = READ | (uint32_t)id << 16, .namespace_id = 1,
        .data = { memory_address + DATA + (uint64_t)id * PAGE },
        // The block, and one of them.
        .words = { (uint32_t)block, (uint32_t)(block >> 32), 0 },
    });
}

// Waits until there may be another completion.
static int wait_for_interrupt(struct nvme_load *load, bool spins)
{
    uint64_t count;
    if (spins)
        return 0;
    while (read(load->interrupt, &count, sizeof(count)) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int nvme_load_read(struct nvme_load *load, uint64_t block_count, size_t count, size_t depth, bool spins, uint64_t seed)
{
    struct queue *queue = &load->queue;
    size_t started = 0, done = 0;
    if (depth > LOAD_MAXIMUM_DEPTH)
        return EINVAL;
    for (; started < depth && started < count; started++)
        submit_read(load, (uint16_t)started, random_below(&seed, block_count));
    int error = ring(load, 2u * queue->number, queue->tail);
    while (!error && done < count) {
        uint16_t id, status;
        size_t before = done, started_before = started;
        while (take(queue, &id, &status)) {
            uint64_t value;
            if (status || id >= depth)
                return EIO;
            memcpy(&value, load->memory + DATA + (size_t)id * PAGE, sizeof(value));
            if (value != load_block_value(load->blocks[id]))
                return EILSEQ;
            done++;
            if (started < count) {
                submit_read(load, id, random_below(&seed, block_count));
                started++;
            }
        }
        if (done == before) {
            error = wait_for_interrupt(load, spins);
            continue;
        }
        error = ring(load, 2u * queue->number + 1, queue->head);
        if (!error && started != started_before)
            error = ring(load, 2u * queue->number, queue->tail);
    }
    return error;
}
