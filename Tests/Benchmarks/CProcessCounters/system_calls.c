// Counts by tracing: the kernel stops the traced threads at every system call and tells.

#define _GNU_SOURCE
#include "CProcessCounters.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

enum { MAXIMUM_THREADS = 128 };

static struct {
    pid_t process;
    pid_t threads[MAXIMUM_THREADS];
    size_t thread_count;
    pthread_t tracer;
    // What the tracer says: 0 not yet, 1 it traces, -1 it cannot.
    atomic_int state;
    atomic_bool is_over;
    _Atomic uint64_t count;
} tracing;

static bool seize_all(void)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", (int)tracing.process);
    DIR *directory = opendir(path);
    if (!directory)
        return false;
    tracing.thread_count = 0;
    for (struct dirent *entry; (entry = readdir(directory)) && tracing.thread_count < MAXIMUM_THREADS;) {
        pid_t thread = atoi(entry->d_name);
        if (thread > 0 && ptrace(PTRACE_SEIZE, thread, NULL, PTRACE_O_TRACESYSGOOD) == 0)
            tracing.threads[tracing.thread_count++] = thread;
    }
    closedir(directory);
    return tracing.thread_count > 0;
}

// The next of the traced threads that has stopped: 0 if none has for now, -1 if there is none any more.
static pid_t next_stop(int *status)
{
    pid_t thread = waitpid(-1, status, __WALL | __WNOTHREAD | WNOHANG);
    if (thread == 0)
        sched_yield();
    return thread <= 0 || WIFSTOPPED(*status) ? thread : 0;
}

static bool is_at_entry(pid_t thread)
{
    struct __ptrace_syscall_info information;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, thread, sizeof(information), &information) <= 0)
        return false;
    return information.op == PTRACE_SYSCALL_INFO_ENTRY;
}

// Lets a stopped thread go on, with the signal that stopped it if that was one for it.
static void resume(pid_t thread, int status)
{
    bool is_own = WSTOPSIG(status) == (SIGTRAP | 0x80) || status >> 16 == PTRACE_EVENT_STOP;
    ptrace(PTRACE_SYSCALL, thread, NULL, (void *)(intptr_t)(is_own ? 0 : WSTOPSIG(status)));
}

// Stops every thread wherever it is, and lets it go on: traced, or on its own again.
static void stop_each(bool then_detach)
{
    int status;
    pid_t thread = 0;
    for (size_t index = 0; index < tracing.thread_count; index++)
        ptrace(PTRACE_INTERRUPT, tracing.threads[index], NULL, NULL);
    for (size_t left = tracing.thread_count; left > 0 && thread >= 0;) {
        thread = next_stop(&status);
        if (thread <= 0)
            continue;
        if (then_detach)
            ptrace(PTRACE_DETACH, thread, NULL, NULL);
        else
            resume(thread, status);
        left--;
    }
}

static void *trace(void *unused)
{
    (void)unused;
    int status;
    if (!seize_all()) {
        atomic_store(&tracing.state, -1);
        return NULL;
    }
    // A thread stops at system calls only after it has been let go on from a stop.
    stop_each(false);
    atomic_store(&tracing.state, 1);
    pid_t thread = 0;
    while (!atomic_load(&tracing.is_over) && thread >= 0) {
        thread = next_stop(&status);
        if (thread <= 0)
            continue;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80) && is_at_entry(thread))
            atomic_fetch_add(&tracing.count, 1);
        resume(thread, status);
    }
    stop_each(true);
    return NULL;
}

bool begin_counting_system_calls(pid_t process)
{
    tracing.process = process;
    atomic_store(&tracing.state, 0);
    atomic_store(&tracing.is_over, false);
    atomic_store(&tracing.count, 0);
    if (pthread_create(&tracing.tracer, NULL, trace, NULL) != 0)
        return false;
    while (atomic_load(&tracing.state) == 0)
        sched_yield();
    if (atomic_load(&tracing.state) > 0)
        return true;
    pthread_join(tracing.tracer, NULL);
    return false;
}

uint64_t system_calls_so_far(void) { return atomic_load(&tracing.count); }

void end_counting_system_calls(void)
{
    atomic_store(&tracing.is_over, true);
    pthread_join(tracing.tracer, NULL);
}
