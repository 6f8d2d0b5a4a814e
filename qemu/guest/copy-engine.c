#include "copy-engine.h"

#include <errno.h>
#include <linux/vfio.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WAIT_NANOSECONDS (WAIT_MILLISECONDS * 1000000ull)

uint32_t engine_read(const struct engine *engine, uint32_t where)
{
    return *(volatile uint32_t *)(engine->pci.bar + where);
}

uint64_t engine_read64(const struct engine *engine, uint32_t where)
{
    return *(volatile uint64_t *)(engine->pci.bar + where);
}

void engine_write(const struct engine *engine, uint32_t where, uint32_t value)
{
    /* What was written to memory is there before the device is told of it. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    *(volatile uint32_t *)(engine->pci.bar + where) = value;
}

void engine_write64(const struct engine *engine, uint32_t where, uint64_t value)
{
    *(volatile uint64_t *)(engine->pci.bar + where) = value;
}

static bool has_interrupts(const struct engine *engine)
{
    return engine->pci.container >= 0;
}

void engine_open(struct engine *engine, const char *address)
{
    *engine = (struct engine) { 0 };
    if (pci_is_confined(address)) {
        pci_open_through_vfio(&engine->pci, address, ENGINE_BAR_SIZE);
        for (int i = 0; i < VECTORS; i++)
            engine->events[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        uint32_t flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
        set_interrupts(&engine->pci, VFIO_PCI_MSIX_IRQ_INDEX, flags, engine->events, VECTORS);
    } else {
        pci_open_through_sysfs(&engine->pci, address, ENGINE_BAR_SIZE);
    }
    if (engine_read(engine, ENGINE_IDENTIFICATION) != ENGINE_ID || engine_read(engine, ENGINE_VERSION) != 1)
        fail("no copy engine of version 1");
    engine->pasid_limit = engine_read(engine, ENGINE_PASID_LIMIT);
    uint32_t capabilities = engine_read(engine, ENGINE_PAGE_REQUEST_CAPABILITIES);
    engine->requests_per_group = capabilities & 0xffff;
    if (engine->requests_per_group == 0 || capabilities >> 16 == 0)
        fail("page request capabilities 0x%x", capabilities);
    printf("copy engine: PASIDs below %u, %u requests per group, %u outstanding; %s\n", engine->pasid_limit,
        engine->requests_per_group, capabilities >> 16,
        has_interrupts(engine) ? "MSI-X, behind an IOMMU" : "polled, physical addresses");

    memory_make(&engine->memory, &engine->pci, sizeof(struct shared));
    engine->shared = (struct shared *)engine->memory.bytes;
    engine->commands = (struct ring) {
        .registers = ENGINE_COMMAND_RING, .entries = engine->shared->commands, .count = COMMAND_ENTRIES,
    };
    engine->work = (struct ring) {
        .registers = ENGINE_WORK_RING, .entries = engine->shared->work, .count = WORK_ENTRIES,
    };
}

static void tell_ring(struct engine *engine, uint32_t registers, const void *entries, uint32_t count)
{
    engine_write64(engine, registers + RING_BASE, memory_address(&engine->memory, entries));
    engine_write(engine, registers + RING_SIZE, count);
}

static void wait_for_ready(const struct engine *engine, bool is_ready)
{
    uint64_t start = now();
    uint32_t status;
    while (((status = engine_read(engine, ENGINE_STATUS)) & ENGINE_READY) != is_ready) {
        if (now() - start > WAIT_NANOSECONDS)
            fail("the device does not become %sready; its status is 0x%x", is_ready ? "" : "un", status);
        if (is_ready && status & ENGINE_ERRORS)
            fail("the device cannot be enabled; its status is 0x%x", status);
        usleep(100);
    }
}

void engine_enable(struct engine *engine)
{
    tell_ring(engine, ENGINE_COMMAND_RING, engine->shared->commands, COMMAND_ENTRIES);
    tell_ring(engine, ENGINE_WORK_RING, engine->shared->work, WORK_ENTRIES);
    tell_ring(engine, ENGINE_PAGE_REQUEST_RING, engine->shared->page_requests, PAGE_REQUEST_ENTRIES);
    engine->commands.head = engine->commands.tail = engine->commands.told_tail = 0;
    engine->work.head = engine->work.tail = engine->work.told_tail = 0;
    engine->page_request_head = engine->page_request_tail = 0;
    engine_write(engine, ENGINE_CONTROL, ENGINE_ENABLE);
    wait_for_ready(engine, true);
}

void engine_disable(struct engine *engine)
{
    engine_write(engine, ENGINE_CONTROL, 0);
    wait_for_ready(engine, false);
}

void engine_check_errors(const struct engine *engine)
{
    uint32_t status = engine_read(engine, ENGINE_STATUS);
    if ((status & (ENGINE_ERRORS | ENGINE_READY)) != ENGINE_READY)
        fail("the device's status is 0x%x", status);
}

void take_interrupts(struct engine *engine)
{
    uint64_t count;
    for (int i = 0; has_interrupts(engine) && i < VECTORS; i++)
        if (read(engine->events[i], &count, sizeof(count)) == sizeof(count))
            engine->interrupts[i] += count;
}

void engine_wait(struct engine *engine, uint64_t since, const char *what)
{
    if (!has_interrupts(engine)) {
        if (now() - since > WAIT_NANOSECONDS)
            fail("takes forever: %s; the device's status is 0x%x", what, engine_read(engine, ENGINE_STATUS));
        sched_yield();
        return;
    }
    struct pollfd wanted[VECTORS];
    for (int i = 0; i < VECTORS; i++)
        wanted[i] = (struct pollfd) { .fd = engine->events[i], .events = POLLIN };
    if (poll(wanted, VECTORS, WAIT_MILLISECONDS) <= 0 || now() - since > WAIT_NANOSECONDS)
        fail("no interrupt: %s; the device's status is 0x%x", what, engine_read(engine, ENGINE_STATUS));
    uint64_t errors = engine->interrupts[VECTOR_ERROR];
    take_interrupts(engine);
    if (engine->interrupts[VECTOR_ERROR] != errors)
        engine_check_errors(engine);
}

static void read_head(struct engine *engine, struct ring *ring)
{
    ring->head = engine_read(engine, ring->registers + RING_HEAD);
    if (ring->head >= ring->count)
        fail("the head of a ring of %u entries is %u", ring->count, ring->head);
}

void ring_put(struct engine *engine, struct ring *ring, struct descriptor descriptor)
{
    uint32_t next = (ring->tail + 1) % ring->count;
    if (next == ring->head) {
        ring_tell(engine, ring);
        uint64_t start = now();
        while (read_head(engine, ring), next == ring->head)
            if (now() - start > WAIT_NANOSECONDS)
                fail("a full ring stays full; the device's status is 0x%x", engine_read(engine, ENGINE_STATUS));
    }
    ring->entries[ring->tail] = descriptor;
    ring->tail = next;
}

void ring_tell(struct engine *engine, struct ring *ring)
{
    if (ring->told_tail == ring->tail)
        return;
    engine_write(engine, ring->registers + RING_TAIL, ring->tail);
    ring->told_tail = ring->tail;
}

void ask_for_record(
    const struct engine *engine, struct descriptor *descriptor, struct completion *record, uint64_t tag)
{
    memset(record, 0, sizeof(*record));
    descriptor->flags |= FLAG_COMPLETION | FLAG_INTERRUPT;
    descriptor->completion = memory_address(&engine->memory, record);
    descriptor->tag = tag;
}

uint8_t status_of(const struct completion *record)
{
    return __atomic_load_n(&record->status, __ATOMIC_ACQUIRE);
}

const struct completion *command(struct engine *engine, struct descriptor descriptor)
{
    uint64_t tag = engine->records_used++;
    struct completion *record = &engine->shared->command_records[tag % COMMAND_RECORDS];
    ask_for_record(engine, &descriptor, record, tag);
    ring_put(engine, &engine->commands, descriptor);
    ring_tell(engine, &engine->commands);
    return record;
}

const struct completion *command_and_wait(struct engine *engine, struct descriptor descriptor, const char *what)
{
    const struct completion *record = command(engine, descriptor);
    uint64_t start = now();
    while (status_of(record) == STATUS_NONE)
        engine_wait(engine, start, what);
    return record;
}

uint32_t next_group(struct engine *engine, struct page_request *requests, uint32_t most)
{
    uint32_t head = engine->page_request_head;
    if (head == engine->page_request_tail) {
        engine->page_request_tail = engine_read(engine, ENGINE_PAGE_REQUEST_RING + RING_TAIL);
        if (engine->page_request_tail >= PAGE_REQUEST_ENTRIES)
            fail("the tail of the page request ring is %u", engine->page_request_tail);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    }
    uint32_t count = 0;
    while (head != engine->page_request_tail) {
        if (count == most || count == engine->requests_per_group)
            fail("a group of more than %u page requests", count);
        requests[count] = engine->shared->page_requests[head];
        head = (head + 1) % PAGE_REQUEST_ENTRIES;
        if (requests[count++].flags & REQUEST_IS_LAST) {
            engine->page_request_head = head;
            engine_write(engine, ENGINE_PAGE_REQUEST_RING + RING_HEAD, head);
            return count;
        }
    }
    if (count > 0)
        fail("%u page requests and no last one of their group", count);
    return 0;
}
