// Swift's runtime calls retain and release through pointers once it is told to, which is there for measuring tools.

#include "CProcessCounters.h"

#include <stdatomic.h>

typedef void *retain_function(void *object);
typedef void release_function(void *object);

extern retain_function *_swift_retain __attribute__((weak));
extern release_function *_swift_release __attribute__((weak));
extern atomic_bool _swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly __attribute__((weak));

static retain_function *runtime_retain;
static release_function *runtime_release;
static _Atomic uint64_t references;

static void *counting_retain(void *object)
{
    atomic_fetch_add_explicit(&references, 1, memory_order_relaxed);
    return runtime_retain(object);
}

static void counting_release(void *object)
{
    atomic_fetch_add_explicit(&references, 1, memory_order_relaxed);
    runtime_release(object);
}

bool begin_counting_references(void)
{
    atomic_bool *is_on = &_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly;
    if (!is_on || !&_swift_retain || !&_swift_release)
        return false;
    runtime_retain = _swift_retain;
    runtime_release = _swift_release;
    _swift_retain = counting_retain;
    _swift_release = counting_release;
    atomic_store(&references, 0);
    atomic_store(is_on, true);
    return true;
}

uint64_t end_counting_references(void)
{
    atomic_store(&_swift_enableSwizzlingOfAllocationAndRefCountingFunctions_forInstrumentsOnly, false);
    _swift_retain = runtime_retain;
    _swift_release = runtime_release;
    return atomic_load(&references);
}
