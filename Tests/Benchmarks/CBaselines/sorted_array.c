// Mappings in ascending order. The addresses that a search compares lie by themselves, close together; what is known of
// a mapping lies in a second array in the same order. Pin counts do not move: a pin names its mapping by slot.

#include "CBaselines.h"

#include <errno.h>

#include "guard.h"
#include "memory.h"

struct entry {
    uint64_t first;
    unsigned char *memory;
    uint32_t slot;
    uint8_t rights;
    bool is_blocked;
};

struct sorted_array {
    struct guard guard;
    size_t count, capacity;
    uint64_t *last;
    struct entry *entries;
    uint32_t *pins;
    // A stack of the slots that are free: the last `capacity - count` ones.
    uint32_t *free_slots;
};

struct sorted_array *sorted_array_create(bool locked)
{
    struct sorted_array *array = allocate_zeroed(_Alignof(struct sorted_array), sizeof(struct sorted_array));
    guard_initialize(&array->guard, locked);
    return array;
}

void sorted_array_destroy(struct sorted_array *array)
{
    pthread_mutex_destroy(&array->guard.mutex);
    free(array->last);
    free(array->entries);
    free(array->pins);
    free(array->free_slots);
    free(array);
}

// The index of the lowest mapping that ends at `iova` or above.
//
// The compiler is told that it cannot predict the comparison, or it would make a branch of what is written as a choice.
static inline size_t position(const struct sorted_array *array, uint64_t iova)
{
    const uint64_t *base = array->last;
    size_t count = array->count;
    if (count == 0)
        return 0;
    while (count > 1) {
        size_t half = count / 2;
        base = __builtin_unpredictable(base[half - 1] < iova) ? base + half : base;
        count -= half;
    }
    return (size_t)(base - array->last) + (*base < iova);
}

static inline int find(struct sorted_array *array, uint64_t iova, size_t count, uint8_t rights, struct entry **found)
{
    size_t index = position(array, iova);
    if (index == array->count)
        return ENOENT;
    struct entry *entry = &array->entries[index];
    if (entry->first > iova || array->last[index] - iova < count - 1)
        return ENOENT;
    if (entry->is_blocked)
        return EINVAL;
    if ((entry->rights & rights) != rights)
        return EPERM;
    *found = entry;
    return 0;
}

static void grow(struct sorted_array *array)
{
    size_t capacity = array->capacity ? 2 * array->capacity : 64;
    array->last = reallocate(array->last, capacity * sizeof(*array->last));
    array->entries = reallocate(array->entries, capacity * sizeof(*array->entries));
    array->pins = reallocate(array->pins, capacity * sizeof(*array->pins));
    array->free_slots = reallocate(array->free_slots, capacity * sizeof(*array->free_slots));
    for (size_t slot = array->capacity; slot < capacity; slot++) {
        array->pins[slot] = 0;
        array->free_slots[slot] = (uint32_t)slot;
    }
    array->capacity = capacity;
}

int sorted_array_map(struct sorted_array *array, uint64_t first, uint64_t last, unsigned char *memory, uint8_t rights)
{
    int status = 0;
    guard_lock(&array->guard);
    size_t index = position(array, first);
    if (index < array->count && array->entries[index].first <= last) {
        status = EEXIST;
    } else {
        if (array->count == array->capacity)
            grow(array);
        size_t above = array->count - index;
        memmove(&array->last[index + 1], &array->last[index], above * sizeof(*array->last));
        memmove(&array->entries[index + 1], &array->entries[index], above * sizeof(*array->entries));
        array->last[index] = last;
        array->entries[index] = (struct entry) {
            .first = first, .memory = memory, .slot = array->free_slots[array->count], .rights = rights,
        };
        array->count++;
    }
    guard_unlock(&array->guard);
    return status;
}

int sorted_array_unmap(struct sorted_array *array, uint64_t first, uint64_t last, uint64_t *byte_count)
{
    int status = 0;
    *byte_count = 0;
    guard_lock(&array->guard);
    size_t begin = position(array, first), end = begin;
    size_t count = array->count;
    while (end < array->count && array->entries[end].first <= last) {
        struct entry *entry = &array->entries[end];
        if (entry->first < first || array->last[end] > last) {
            status = ENOENT;
            break;
        }
        if (array->pins[entry->slot] > 0) {
            entry->is_blocked = true;
            status = EDEADLK;
            break;
        }
        *byte_count += array->last[end] - entry->first + 1;
        array->free_slots[--count] = entry->slot;
        end++;
    }
    size_t above = array->count - end;
    memmove(&array->last[begin], &array->last[end], above * sizeof(*array->last));
    memmove(&array->entries[begin], &array->entries[end], above * sizeof(*array->entries));
    array->count = count;
    guard_unlock(&array->guard);
    return status == 0 && begin == end ? ENOENT : status;
}

int sorted_array_load(struct sorted_array *array, uint64_t iova, uint64_t *value)
{
    struct entry *entry;
    guard_lock(&array->guard);
    int status = find(array, iova, sizeof(*value), BASELINE_READ, &entry);
    if (status == 0)
        memcpy(value, entry->memory + (iova - entry->first), sizeof(*value));
    guard_unlock(&array->guard);
    return status;
}

int sorted_array_read(struct sorted_array *array, uint64_t iova, void *bytes, size_t count)
{
    struct entry *entry;
    guard_lock(&array->guard);
    int status = find(array, iova, count, BASELINE_READ, &entry);
    if (status == 0)
        memcpy(bytes, entry->memory + (iova - entry->first), count);
    guard_unlock(&array->guard);
    return status;
}

int sorted_array_pin(struct sorted_array *array, uint64_t iova, size_t count, uint8_t rights, struct baseline_pin *pin)
{
    struct entry *entry;
    guard_lock(&array->guard);
    int status = find(array, iova, count, rights, &entry);
    if (status == 0) {
        array->pins[entry->slot]++;
        *pin = (struct baseline_pin) { .memory = entry->memory + (iova - entry->first), .token = entry->slot };
    }
    guard_unlock(&array->guard);
    return status;
}

void sorted_array_unpin(struct sorted_array *array, struct baseline_pin pin)
{
    guard_lock(&array->guard);
    array->pins[pin.token]--;
    guard_unlock(&array->guard);
}
