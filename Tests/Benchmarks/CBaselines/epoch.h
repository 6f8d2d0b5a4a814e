// How a writer waits for readers that take no lock.
//
// Each thread has a slot. A reader notes in it the epoch in which it entered, and clears it when it leaves. A writer
// begins a new epoch and waits until no slot shows an older one: whoever is inside then entered after the new epoch
// began, and sees everything that the writer stored before. All accesses that pair a reader with a writer are
// sequentially consistent, so no fence is needed.

#ifndef OUTBOARD_BASELINES_EPOCH_H
#define OUTBOARD_BASELINES_EPOCH_H

#include <stdatomic.h>
#include <stdint.h>

struct epoch_slot {
    // Zero for a thread that is outside.
    _Alignas(64) _Atomic uint64_t entered;
    _Atomic(_Bool) is_taken;
};

extern _Atomic uint64_t epoch_now;
extern _Thread_local struct epoch_slot *epoch_own_slot;

// Gives the calling thread a slot, until it ends.
struct epoch_slot *epoch_take_slot(void);

// Waits until every thread that is inside has left or entered anew. Not from the inside.
void epoch_wait(void);

static inline struct epoch_slot *epoch_enter(void)
{
    struct epoch_slot *slot = epoch_own_slot;
    if (!slot)
        slot = epoch_take_slot();
    uint64_t now = atomic_load_explicit(&epoch_now, memory_order_relaxed);
    atomic_store_explicit(&slot->entered, now, memory_order_seq_cst);
    return slot;
}

static inline void epoch_leave(struct epoch_slot *slot)
{
    atomic_store_explicit(&slot->entered, 0, memory_order_release);
}

#endif
