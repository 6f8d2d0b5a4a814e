#include "edu.h"

#include <unistd.h>

/* A transfer is over after a few reads of a register, or takes a tenth of a second as in QEMU's own device. */
#define QUICK_ROUNDS 20

uint32_t edu_read(const struct edu *edu, enum edu_register where)
{
    return *(volatile uint32_t *)(edu->pci.bar + where);
}

void edu_write(const struct edu *edu, enum edu_register where, uint32_t value)
{
    *(volatile uint32_t *)(edu->pci.bar + where) = value;
}

static void edu_write64(const struct edu *edu, enum edu_register where, uint64_t value)
{
    *(volatile uint64_t *)(edu->pci.bar + where) = value;
}

void wait_while(const struct edu *edu, enum edu_register where, uint32_t bit, const char *what)
{
    for (int round = 0; edu_read(edu, where) & bit; round++) {
        if (round == QUICK_ROUNDS + WAIT_MILLISECONDS)
            fail("takes forever: %s", what);
        if (round >= QUICK_ROUNDS)
            usleep(1000);
    }
}

void start_dma(const struct edu *edu, uint64_t source, uint64_t destination, uint64_t count, uint64_t command)
{
    edu_write64(edu, EDU_DMA_SOURCE, source);
    edu_write64(edu, EDU_DMA_DESTINATION, destination);
    edu_write64(edu, EDU_DMA_COUNT, count);
    edu_write64(edu, EDU_DMA_COMMAND, command | EDU_DMA_START);
}

void to_device(const struct edu *edu, uint64_t iova, uint32_t offset, uint32_t count)
{
    start_dma(edu, iova, EDU_BUFFER + offset, count, 0);
    wait_while(edu, EDU_DMA_COMMAND, EDU_DMA_START, "a transfer to the device");
}

void to_memory(const struct edu *edu, uint64_t iova, uint32_t offset, uint32_t count)
{
    start_dma(edu, EDU_BUFFER + offset, iova, count, EDU_DMA_TO_MEMORY);
    wait_while(edu, EDU_DMA_COMMAND, EDU_DMA_START, "a transfer to memory");
}
