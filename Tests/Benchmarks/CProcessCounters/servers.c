#define _GNU_SOURCE
#include "CProcessCounters.h"

#include <errno.h>
#include <sched.h>
#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

pid_t start_program_again(const char *option, const char *value, int descriptor)
{
    pid_t child;
    char *arguments[] = { (char *)"Benchmarks", (char *)option, (char *)value, NULL };
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error)
        return -error;
    error = posix_spawn_file_actions_adddup2(&actions, descriptor, INHERITED_DESCRIPTOR);
    if (!error)
        error = posix_spawn(&child, "/proc/self/exe", &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    return error ? -error : child;
}

int wait_for_program(pid_t child)
{
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void run_on_processor(int number)
{
    cpu_set_t processors;
    CPU_ZERO(&processors);
    if (number >= 0) {
        CPU_SET((unsigned)number, &processors);
    } else {
        for (unsigned each = 0; each < CPU_SETSIZE; each++)
            CPU_SET(each, &processors);
    }
    // Where it is not allowed the figures are less steady, and no less true.
    (void)sched_setaffinity(0, sizeof(processors), &processors);
}
