/*
 * edu-test: uses everything that the educational PCI device has.
 *
 *     edu-test 0000:00:03.0 intx|msi [IOVA]
 *
 * Identifies the device, computes factorials, takes interrupts and moves data by DMA in both directions, and says what
 * it saw; status 0 if all was right. Interrupts arrive as eventfds. DMA goes to addresses that begin at IOVA, by default
 * within the 28 bits that the device's DMA engine has unless told otherwise.
 */
#include "edu.h"

#include <errno.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define BUFFER_SIZE (4 * PAGE_SIZE)
#define DEFAULT_IOVA 0x1230000ull
#define DEFAULT_DMA_BITS 28

#define QUIET_MILLISECONDS 200

/* Waits for an interrupt with this status, acknowledges it, and makes sure that it was one and not a storm. */
static void take_interrupt(const struct edu *edu, uint32_t status, const char *why)
{
    if (!arrives(edu->interrupt, WAIT_MILLISECONDS))
        fail("no interrupt: %s", why);
    uint32_t seen = edu_read(edu, EDU_INTERRUPT_STATUS);
    if (seen != status)
        fail("interrupt status 0x%x, not 0x%x: %s", seen, status, why);
    edu_write(edu, EDU_INTERRUPT_ACKNOWLEDGE, status);
    if (edu_read(edu, EDU_INTERRUPT_STATUS) != 0)
        fail("the interrupt status stays after its acknowledgement: %s", why);
    /* VFIO masks INTx when it arrives, as the line stays up until the device is told. */
    if (edu->interrupt_index == VFIO_PCI_INTX_IRQ_INDEX)
        set_interrupts(
            &edu->pci, edu->interrupt_index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, NULL, 1);
    if (arrives(edu->interrupt, QUIET_MILLISECONDS))
        fail("an interrupt nobody asked for, after: %s", why);
    printf("ok: interrupt 0x%x: %s\n", status, why);
}

/* Shows the kernel's own line for the interrupt, which says what kind it is and how many arrived. */
static void show_kernel_line(void)
{
    FILE *interrupts = fopen("/proc/interrupts", "r");
    char line[512];
    while (interrupts && fgets(line, sizeof(line), interrupts))
        if (strstr(line, "vfio"))
            printf("/proc/interrupts: %s", line);
    if (interrupts)
        fclose(interrupts);
}

static void test_registers(const struct edu *edu)
{
    check(edu_read(edu, EDU_IDENTIFICATION) == EDU_ID, "identification 0x010000ed");
    edu_write(edu, EDU_LIVENESS, 0x12345678);
    check(edu_read(edu, EDU_LIVENESS) == ~0x12345678u, "liveness inverts what is written");

    static const struct {
        uint32_t argument, result;
    } factorials[] = { { 0, 1 }, { 1, 1 }, { 5, 120 }, { 12, 479001600 }, { 13, 1932053504 } };
    edu_write(edu, EDU_STATUS, 0);
    for (size_t i = 0; i < sizeof(factorials) / sizeof(factorials[0]); i++) {
        edu_write(edu, EDU_FACTORIAL, factorials[i].argument);
        wait_while(edu, EDU_STATUS, EDU_STATUS_COMPUTING, "a factorial");
        uint32_t result = edu_read(edu, EDU_FACTORIAL);
        if (result != factorials[i].result)
            fail("factorial of %u: %u, not %u", factorials[i].argument, result, factorials[i].result);
        printf("ok: %u! = %u%s\n", factorials[i].argument, result, factorials[i].argument > 12 ? " (modulo 2^32)" : "");
    }
}

static void test_interrupts(const struct edu *edu)
{
    check(!arrives(edu->interrupt, QUIET_MILLISECONDS), "no interrupt before one is raised");
    for (uint32_t status = 1; status <= 0x80000000 && status != 0; status <<= 10) {
        edu_write(edu, EDU_INTERRUPT_RAISE, status);
        take_interrupt(edu, status, "raised by the driver");
    }
    edu_write(edu, EDU_STATUS, EDU_STATUS_INTERRUPT);
    edu_write(edu, EDU_FACTORIAL, 10);
    take_interrupt(edu, EDU_INTERRUPT_FACTORIAL, "a factorial is ready");
    check(edu_read(edu, EDU_FACTORIAL) == 3628800, "10! = 3628800");
    edu_write(edu, EDU_STATUS, 0);
}

static void test_dma(const struct edu *edu, uint64_t iova)
{
    uint8_t *buffer = mmap(NULL, BUFFER_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffer == MAP_FAILED)
        fail("memory: %s", strerror(errno));
    map(&edu->pci, buffer, iova, BUFFER_SIZE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);

    for (size_t i = 0; i < EDU_BUFFER_SIZE; i++)
        buffer[i] = (uint8_t)(i * 7 + i / 251);
    uint8_t *back = buffer + PAGE_SIZE;
    memset(back, 0xee, BUFFER_SIZE - PAGE_SIZE);
    to_device(edu, iova, 0, EDU_BUFFER_SIZE);
    to_memory(edu, iova + PAGE_SIZE, 0, EDU_BUFFER_SIZE);
    check(memcmp(buffer, back, EDU_BUFFER_SIZE) == 0, "4096 bytes to the device and back");
    check(is_all(back + EDU_BUFFER_SIZE, 2 * PAGE_SIZE, 0xee), "and not one byte more");

    /* Ends in the next page, at odd addresses on both sides. */
    to_memory(edu, iova + 3 * PAGE_SIZE - 77, 101, 333);
    check(memcmp(buffer + 3 * PAGE_SIZE - 77, buffer + 101, 333) == 0, "333 bytes across a page boundary");
    check(is_all(buffer + 2 * PAGE_SIZE, PAGE_SIZE - 77, 0xee)
              && is_all(buffer + 3 * PAGE_SIZE - 77 + 333, PAGE_SIZE + 77 - 333, 0xee),
          "and nothing beside them");

    if (iova >> DEFAULT_DMA_BITS == 0) {
        memset(back, 0, PAGE_SIZE);
        to_memory(edu, iova + PAGE_SIZE + (1ull << DEFAULT_DMA_BITS), 0, PAGE_SIZE);
        check(memcmp(buffer, back, PAGE_SIZE) == 0, "address bits beyond the DMA mask are ignored");
    }

    memset(buffer, 0x5a, 64);
    start_dma(edu, iova, EDU_BUFFER, 64, EDU_DMA_INTERRUPT);
    take_interrupt(edu, EDU_INTERRUPT_DMA, "a transfer to the device has ended");
    memset(back, 0, PAGE_SIZE);
    start_dma(edu, EDU_BUFFER, iova + PAGE_SIZE, 64, EDU_DMA_TO_MEMORY | EDU_DMA_INTERRUPT);
    take_interrupt(edu, EDU_INTERRUPT_DMA, "a transfer to memory has ended");
    check(is_all(back, 64, 0x5a) && is_all(back + 64, PAGE_SIZE - 64, 0), "the 64 bytes are there");

    unmap(&edu->pci, iova, BUFFER_SIZE, BUFFER_SIZE);
    memset(back, 0x11, PAGE_SIZE);
    to_memory(edu, iova + PAGE_SIZE, 0, 64);
    check(is_all(back, PAGE_SIZE, 0x11), "after the unmap the device writes nothing there");

    map(&edu->pci, buffer, iova, BUFFER_SIZE, VFIO_DMA_MAP_FLAG_READ);
    to_memory(edu, iova + PAGE_SIZE, 0, 64);
    check(is_all(back, PAGE_SIZE, 0x11), "nor through a mapping that is for reading");
    to_device(edu, iova + PAGE_SIZE, 64, 64);
    unmap(&edu->pci, iova, BUFFER_SIZE, BUFFER_SIZE);
    map(&edu->pci, buffer, iova, BUFFER_SIZE, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
    memset(back, 0, PAGE_SIZE);
    to_memory(edu, iova + PAGE_SIZE, 0, 128);
    check(is_all(back, 64, 0x5a) && is_all(back + 64, 64, 0x11), "which it reads all the same");
    unmap(&edu->pci, iova, BUFFER_SIZE, BUFFER_SIZE);
}

int main(int argc, char **argv)
{
    bool is_intx = argc >= 3 && strcmp(argv[2], "intx") == 0;
    if (argc < 3 || argc > 4 || (!is_intx && strcmp(argv[2], "msi") != 0)) {
        fprintf(stderr, "usage: edu-test 0000:00:03.0 intx|msi [IOVA]\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct edu edu = { .interrupt_index = is_intx ? VFIO_PCI_INTX_IRQ_INDEX : VFIO_PCI_MSI_IRQ_INDEX };
    pci_open_through_vfio(&edu.pci, argv[1], EDU_BAR_SIZE);
    edu.interrupt = eventfd(0, EFD_CLOEXEC);
    set_interrupts(
        &edu.pci, edu.interrupt_index, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, &edu.interrupt, 1);

    test_registers(&edu);
    test_interrupts(&edu);
    test_dma(&edu, argc == 4 ? strtoull(argv[3], NULL, 0) : DEFAULT_IOVA);
    show_kernel_line();
    set_interrupts(&edu.pci, edu.interrupt_index, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, NULL, 0);
    printf("all right with %s\n", is_intx ? "INTx" : "MSI");
    return 0;
}
