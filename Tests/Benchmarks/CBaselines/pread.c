#include "CBaselines.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "memory.h"
#include "random.h"

enum { MAXIMUM_THREADS = 64 };

uint64_t load_block_value(uint64_t number) { return number * UINT64_C(0x9e3779b97f4a7c15) + 1; }

int load_fill_file(int descriptor, uint64_t block_count)
{
    static unsigned char block[LOAD_BLOCK_SIZE];
    for (uint64_t number = 0; number < block_count; number++) {
        uint64_t value = load_block_value(number);
        memcpy(block, &value, sizeof(value));
        ssize_t count = pwrite(descriptor, block, sizeof(block), (off_t)(number * sizeof(block)));
        if (count != sizeof(block))
            return count < 0 ? errno : EIO;
    }
    return 0;
}

struct share {
    int descriptor, error;
    uint64_t block_count, seed;
    size_t count;
};

static void *read_share(void *argument)
{
    struct share *share = argument;
    _Alignas(4096) unsigned char block[LOAD_BLOCK_SIZE];
    for (size_t index = 0; index < share->count && !share->error; index++) {
        uint64_t number = random_below(&share->seed, share->block_count), value;
        ssize_t count = pread(share->descriptor, block, sizeof(block), (off_t)(number * sizeof(block)));
        memcpy(&value, block, sizeof(value));
        if (count != sizeof(block))
            share->error = count < 0 ? errno : EIO;
        else if (value != load_block_value(number))
            share->error = EILSEQ;
    }
    return NULL;
}

int load_pread(int descriptor, uint64_t block_count, size_t count, size_t thread_count, uint64_t seed)
{
    struct share shares[MAXIMUM_THREADS];
    pthread_t threads[MAXIMUM_THREADS];
    if (thread_count == 0 || thread_count > MAXIMUM_THREADS)
        return EINVAL;
    int error = 0;
    size_t started = 0;
    for (size_t index = 0; index < thread_count; index++)
        shares[index] = (struct share) {
            .descriptor = descriptor, .block_count = block_count, .seed = seed + index * 1000003,
            .count = count / thread_count + (index < count % thread_count),
        };
    // The caller is the last of them.
    for (; started + 1 < thread_count && !error; started += !error)
        error = pthread_create(&threads[started], NULL, read_share, &shares[started]);
    if (!error)
        read_share(&shares[thread_count - 1]);
    for (size_t index = 0; index < started; index++)
        pthread_join(threads[index], NULL);
    for (size_t index = 0; index < thread_count && !error; index++)
        error = shares[index].error;
    return error;
}
