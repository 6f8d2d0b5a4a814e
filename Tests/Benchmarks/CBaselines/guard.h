// A mutex that may be left out.

#ifndef OUTBOARD_BASELINES_GUARD_H
#define OUTBOARD_BASELINES_GUARD_H

#include <pthread.h>
#include <stdbool.h>

struct guard {
    pthread_mutex_t mutex;
    bool is_on;
};

static inline void guard_initialize(struct guard *guard, bool is_on)
{
    pthread_mutex_init(&guard->mutex, NULL);
    guard->is_on = is_on;
}

static inline void guard_lock(struct guard *guard)
{
    if (guard->is_on)
        pthread_mutex_lock(&guard->mutex);
}

static inline void guard_unlock(struct guard *guard)
{
    if (guard->is_on)
        pthread_mutex_unlock(&guard->mutex);
}

#endif
