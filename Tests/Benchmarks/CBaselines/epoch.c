#include "epoch.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

enum { SLOT_COUNT = 256, SPINS_BEFORE_YIELDING = 100 };

_Atomic uint64_t epoch_now = 1;
_Thread_local struct epoch_slot *epoch_own_slot;

static struct epoch_slot slots[SLOT_COUNT];
// Slots from here on were never taken.
static _Atomic unsigned slot_limit;
static pthread_key_t end_of_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void give_back(void *slot)
{
    epoch_own_slot = NULL;
    atomic_store(&((struct epoch_slot *)slot)->is_taken, 0);
}

static void create_key(void)
{
    if (pthread_key_create(&end_of_thread, give_back) != 0)
        abort();
}

struct epoch_slot *epoch_take_slot(void)
{
    pthread_once(&once, create_key);
    for (unsigned index = 0; index < SLOT_COUNT; index++) {
        if (atomic_exchange(&slots[index].is_taken, 1))
            continue;
        unsigned limit = atomic_load(&slot_limit);
        while (limit <= index && !atomic_compare_exchange_weak(&slot_limit, &limit, index + 1))
            ;
        epoch_own_slot = &slots[index];
        pthread_setspecific(end_of_thread, epoch_own_slot);
        return epoch_own_slot;
    }
    abort();
}

void epoch_wait(void)
{
    uint64_t begun = atomic_fetch_add(&epoch_now, 1) + 1;
    unsigned limit = atomic_load(&slot_limit);
    for (unsigned index = 0; index < limit; index++) {
        for (unsigned spins = 0;; spins++) {
            uint64_t entered = atomic_load(&slots[index].entered);
            if (entered == 0 || entered >= begun)
                break;
            // A reader is inside only for a moment, unless it does not run: then it needs the processor.
            if (spins < SPINS_BEFORE_YIELDING)
                relax();
            else
                sched_yield();
        }
    }
}
