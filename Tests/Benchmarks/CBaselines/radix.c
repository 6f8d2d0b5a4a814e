// A page table: four levels of 512 entries. An entry is empty, leads to the next level, or (lowest bit set) names the
// mapping that has all of its addresses.
//
// One writer at a time, under a mutex; readers take no lock. An unmap blocks the mappings, waits once for the readers
// that may not have seen that, and only then takes them out of the table. What it took out may still be looked at by
// readers, who find it blocked; it is used again after the wait of a later unmap.

#include "CBaselines.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "epoch.h"
#include "memory.h"

enum { BITS = 9, ENTRIES = 1 << BITS, PAGE_SHIFT = 12, TOP_SHIFT = PAGE_SHIFT + 3 * BITS, ADDRESS_BITS = 48 };
enum { RECORDS_IN_CHUNK = 1023, TABLES_IN_CHUNK = 15 };

static const uint64_t BLOCKED = 1ull << 63;
static const uintptr_t IS_RECORD = 1;

struct record {
    // BLOCKED and the number of pins.
    _Alignas(64) _Atomic uint64_t state;
    uint64_t first, last;
    unsigned char *memory;
    // Of the list that it is in: the mappings of one unmap, the retired or the free.
    struct record *next;
    uint8_t rights;
    // By an earlier unmap, which failed.
    bool was_blocked;
};

struct table {
    _Alignas(64) _Atomic uintptr_t entries[ENTRIES];
    // Entries that are not empty. An unused table is all zeros.
    unsigned used;
    struct table *next;
};

struct record_chunk {
    struct record_chunk *next;
    struct record records[RECORDS_IN_CHUNK];
};

struct table_chunk {
    struct table_chunk *next;
    struct table tables[TABLES_IN_CHUNK];
};

struct radix {
    struct table root;
    pthread_mutex_t mutex;
    struct record *free_records, *retired_records;
    struct table *free_tables, *retired_tables;
    struct record_chunk *record_chunks;
    struct table_chunk *table_chunks;
};

struct radix *radix_create(void)
{
    struct radix *radix = allocate_zeroed(_Alignof(struct radix), sizeof(struct radix));
    pthread_mutex_init(&radix->mutex, NULL);
    return radix;
}

void radix_destroy(struct radix *radix)
{
    while (radix->record_chunks) {
        struct record_chunk *chunk = radix->record_chunks;
        radix->record_chunks = chunk->next;
        free(chunk);
    }
    while (radix->table_chunks) {
        struct table_chunk *chunk = radix->table_chunks;
        radix->table_chunks = chunk->next;
        free(chunk);
    }
    pthread_mutex_destroy(&radix->mutex);
    free(radix);
}

static struct record *take_record(struct radix *radix)
{
    if (!radix->free_records) {
        struct record_chunk *chunk = allocate_zeroed(_Alignof(struct record_chunk), sizeof(struct record_chunk));
        chunk->next = radix->record_chunks;
        radix->record_chunks = chunk;
        for (size_t i = RECORDS_IN_CHUNK; i-- > 0;) {
            chunk->records[i].next = radix->free_records;
            radix->free_records = &chunk->records[i];
        }
    }
    struct record *record = radix->free_records;
    radix->free_records = record->next;
    return record;
}

static struct table *take_table(struct radix *radix)
{
    if (!radix->free_tables) {
        struct table_chunk *chunk = allocate_zeroed(_Alignof(struct table_chunk), sizeof(struct table_chunk));
        chunk->next = radix->table_chunks;
        radix->table_chunks = chunk;
        for (size_t i = TABLES_IN_CHUNK; i-- > 0;) {
            chunk->tables[i].next = radix->free_tables;
            radix->free_tables = &chunk->tables[i];
        }
    }
    struct table *table = radix->free_tables;
    radix->free_tables = table->next;
    return table;
}

// Waits for the readers; what was retired before can then be used again.
static void wait_for_readers(struct radix *radix)
{
    struct record *records = radix->retired_records;
    struct table *tables = radix->retired_tables;
    radix->retired_records = NULL;
    radix->retired_tables = NULL;
    epoch_wait();
    while (records) {
        struct record *record = records;
        records = record->next;
        record->next = radix->free_records;
        radix->free_records = record;
    }
    while (tables) {
        struct table *table = tables;
        tables = table->next;
        table->next = radix->free_tables;
        radix->free_tables = table;
    }
}

static inline _Atomic uintptr_t *entry_of(struct table *table, unsigned shift, uint64_t iova)
{
    return &table->entries[(iova >> shift) & (ENTRIES - 1)];
}

// The mapping of an address; inside an epoch, or with the mutex held.
static inline struct record *record_at(struct radix *radix, uint64_t iova)
{
    if (iova >> ADDRESS_BITS)
        return NULL;
    struct table *table = &radix->root;
    for (unsigned shift = TOP_SHIFT;; shift -= BITS) {
        uintptr_t entry = atomic_load(entry_of(table, shift, iova));
        if (entry & IS_RECORD)
            return (struct record *)(entry - IS_RECORD);
        if (!entry)
            return NULL;
        table = (struct table *)entry;
    }
}

// The part of `at...last` that one entry covers ends here.
static inline uint64_t end_of_part(unsigned shift, uint64_t at, uint64_t last)
{
    uint64_t end = at | ((1ull << shift) - 1);
    return end < last ? end : last;
}

// The lowest mapping with an address in `at...last`.
static struct record *first_record(struct table *table, unsigned shift, uint64_t at, uint64_t last)
{
    for (;;) {
        uint64_t end = end_of_part(shift, at, last);
        uintptr_t entry = atomic_load_explicit(entry_of(table, shift, at), memory_order_relaxed);
        if (entry & IS_RECORD)
            return (struct record *)(entry - IS_RECORD);
        if (entry) {
            struct record *found = first_record((struct table *)entry, shift - BITS, at, end);
            if (found)
                return found;
        }
        if (end == last)
            return NULL;
        at = end + 1;
    }
}

// Makes a mapping the one of the addresses `at...last`, which have none.
static void enter_record(struct radix *radix, struct table *table, unsigned shift, uint64_t at, uint64_t last,
                         struct record *record)
{
    for (;;) {
        uint64_t end = end_of_part(shift, at, last);
        _Atomic uintptr_t *place = entry_of(table, shift, at);
        uintptr_t entry = atomic_load_explicit(place, memory_order_relaxed);
        if (end - at == (1ull << shift) - 1 && !entry) {
            atomic_store_explicit(place, (uintptr_t)record | IS_RECORD, memory_order_release);
            table->used++;
        } else {
            if (!entry) {
                entry = (uintptr_t)take_table(radix);
                atomic_store_explicit(place, entry, memory_order_release);
                table->used++;
            }
            enter_record(radix, (struct table *)entry, shift - BITS, at, end, record);
        }
        if (end == last)
            return;
        at = end + 1;
    }
}

// Takes the mapping of `at...last` out. The stores are ordered before the next wait for the readers.
static void clear_record(struct radix *radix, struct table *table, unsigned shift, uint64_t at, uint64_t last)
{
    for (;;) {
        uint64_t end = end_of_part(shift, at, last);
        _Atomic uintptr_t *place = entry_of(table, shift, at);
        uintptr_t entry = atomic_load_explicit(place, memory_order_relaxed);
        bool is_empty = entry & IS_RECORD;
        if (!is_empty) {
            struct table *below = (struct table *)entry;
            clear_record(radix, below, shift - BITS, at, end);
            is_empty = below->used == 0;
            if (is_empty) {
                below->next = radix->retired_tables;
                radix->retired_tables = below;
            }
        }
        if (is_empty) {
            atomic_store(place, 0);
            table->used--;
        }
        if (end == last)
            return;
        at = end + 1;
    }
}

int radix_map(struct radix *radix, uint64_t first, uint64_t last, unsigned char *memory, uint8_t rights)
{
    int status = 0;
    if (last >> ADDRESS_BITS || ((first | (last + 1)) & ((1 << PAGE_SHIFT) - 1)))
        return EINVAL;
    pthread_mutex_lock(&radix->mutex);
    if (first_record(&radix->root, TOP_SHIFT, first, last)) {
        status = EEXIST;
    } else {
        struct record *record = take_record(radix);
        record->first = first;
        record->last = last;
        record->memory = memory;
        record->rights = rights;
        record->was_blocked = false;
        // Readers that still hold this record from its last life are gone.
        atomic_store_explicit(&record->state, 0, memory_order_relaxed);
        enter_record(radix, &radix->root, TOP_SHIFT, first, last, record);
    }
    pthread_mutex_unlock(&radix->mutex);
    return status;
}

// Blocks every mapping in the range, up to the first that reaches beyond it. Returns them, ascending.
static struct record *block(struct radix *radix, uint64_t first, uint64_t last, int *status)
{
    struct record *list = NULL, **tail = &list;
    uint64_t at = first;
    for (;;) {
        struct record *record = first_record(&radix->root, TOP_SHIFT, at, last);
        if (!record)
            break;
        if (record->first < first || record->last > last) {
            *status = ENOENT;
            break;
        }
        record->was_blocked = atomic_fetch_or(&record->state, BLOCKED) & BLOCKED;
        *tail = record;
        tail = &record->next;
        if (record->last == last)
            break;
        at = record->last + 1;
    }
    *tail = NULL;
    return list;
}

int radix_unmap(struct radix *radix, uint64_t first, uint64_t last, uint64_t *byte_count)
{
    const uint64_t top = (1ull << ADDRESS_BITS) - 1;
    int status = 0;
    *byte_count = 0;
    if (first > top)
        return ENOENT;
    if (last > top)
        last = top;
    pthread_mutex_lock(&radix->mutex);
    struct record *list = block(radix, first, last, &status);
    if (list)
        wait_for_readers(radix);
    else
        status = ENOENT;
    while (list && !(atomic_load(&list->state) & ~BLOCKED)) {
        struct record *record = list;
        list = record->next;
        *byte_count += record->last - record->first + 1;
        clear_record(radix, &radix->root, TOP_SHIFT, record->first, record->last);
        record->next = radix->retired_records;
        radix->retired_records = record;
    }
    if (list) {
        // The first that is left is pinned and stays blocked; those above it are as they were.
        status = EDEADLK;
        for (struct record *record = list->next; record; record = record->next) {
            if (!record->was_blocked)
                atomic_fetch_and(&record->state, ~BLOCKED);
        }
    }
    pthread_mutex_unlock(&radix->mutex);
    return status;
}

// What every use of a mapping asks first; inside an epoch.
static inline int check(const struct record *record, uint64_t iova, size_t count, uint8_t rights)
{
    if (!record || record->last - iova < count - 1)
        return ENOENT;
    if (atomic_load(&record->state) & BLOCKED)
        return EINVAL;
    return (record->rights & rights) == rights ? 0 : EPERM;
}

int radix_load(struct radix *radix, uint64_t iova, uint64_t *value)
{
    struct epoch_slot *slot = epoch_enter();
    struct record *record = record_at(radix, iova);
    int status = check(record, iova, sizeof(*value), BASELINE_READ);
    if (status == 0)
        memcpy(value, record->memory + (iova - record->first), sizeof(*value));
    epoch_leave(slot);
    return status;
}

int radix_read(struct radix *radix, uint64_t iova, void *bytes, size_t count)
{
    struct epoch_slot *slot = epoch_enter();
    struct record *record = record_at(radix, iova);
    int status = check(record, iova, count, BASELINE_READ);
    if (status == 0)
        memcpy(bytes, record->memory + (iova - record->first), count);
    epoch_leave(slot);
    return status;
}

int radix_pin(struct radix *radix, uint64_t iova, size_t count, uint8_t rights, struct baseline_pin *pin)
{
    struct epoch_slot *slot = epoch_enter();
    struct record *record = record_at(radix, iova);
    // Who comes after an unmap has waited counts nothing, not even for a moment: the count is final then.
    int status = check(record, iova, count, rights);
    if (status == 0 && atomic_fetch_add(&record->state, 1) & BLOCKED) {
        atomic_fetch_sub(&record->state, 1);
        status = EINVAL;
    }
    if (status == 0)
        *pin = (struct baseline_pin) { .memory = record->memory + (iova - record->first), .token = (uintptr_t)record };
    epoch_leave(slot);
    return status;
}

void radix_unpin(struct radix *radix, struct baseline_pin pin)
{
    (void)radix;
    atomic_fetch_sub(&((struct record *)pin.token)->state, 1);
}
