#include "CProcessCounters.h"

#include <dirent.h>
#include <malloc.h>
#include <stdio.h>
#include <unistd.h>

size_t resident_bytes(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return 0;
    size_t all = 0, resident = 0;
    int found = fscanf(file, "%zu %zu", &all, &resident);
    fclose(file);
    return found == 2 ? resident * (size_t)sysconf(_SC_PAGESIZE) : 0;
}

void release_free_heap(void) { malloc_trim(0); }

long count_of_descriptors(void)
{
    DIR *directory = opendir("/proc/self/fd");
    if (!directory)
        return -1;
    long count = 0;
    while (readdir(directory))
        count++;
    closedir(directory);
    // Less the directory itself, which is open while it is read, and the two entries that every directory has.
    return count - 3;
}

long count_of_memory_areas(void)
{
    FILE *file = fopen("/proc/self/maps", "r");
    if (!file)
        return -1;
    long count = 0;
    for (int byte; (byte = getc(file)) != EOF;)
        count += byte == '\n';
    fclose(file);
    return count;
}
