/*
 * A user-space driver for the educational PCI device (id 1234:11e8), for the programs beside this file.
 *
 * It reaches the device through VFIO, so the device must be bound to vfio-pci and stand behind an IOMMU; DMA goes to
 * addresses (IOVA) that the program maps and unmaps. Whatever goes wrong ends the program with status 1 and a line.
 * The register map is that of QEMU's docs/specs/edu.rst.
 */
#ifndef EDU_H
#define EDU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum edu_register {
    EDU_IDENTIFICATION = 0x00,
    EDU_LIVENESS = 0x04,
    EDU_FACTORIAL = 0x08,
    EDU_STATUS = 0x20,
    EDU_INTERRUPT_STATUS = 0x24,
    EDU_INTERRUPT_RAISE = 0x60,
    EDU_INTERRUPT_ACKNOWLEDGE = 0x64,
    EDU_DMA_SOURCE = 0x80,
    EDU_DMA_DESTINATION = 0x88,
    EDU_DMA_COUNT = 0x90,
    EDU_DMA_COMMAND = 0x98,
};

#define EDU_ID 0x010000edu
#define EDU_STATUS_COMPUTING 0x01u
#define EDU_STATUS_INTERRUPT 0x80u
#define EDU_INTERRUPT_FACTORIAL 0x001u
#define EDU_INTERRUPT_DMA 0x100u
#define EDU_DMA_START 0x1u
#define EDU_DMA_TO_MEMORY 0x2u
#define EDU_DMA_INTERRUPT 0x4u
#define EDU_BUFFER 0x40000u
#define EDU_BUFFER_SIZE 4096u

#define PAGE_SIZE 4096u
#define WAIT_MILLISECONDS 10000

struct edu {
    int container;
    int device;
    volatile uint8_t *bar;
    uint32_t interrupt_index; /* VFIO_PCI_INTX_IRQ_INDEX or VFIO_PCI_MSI_IRQ_INDEX, of a program that takes them */
    int interrupt;            /* eventfd */
};

/* Prints what is wrong and ends the program. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* Prints a fact that holds, or fails with it. */
void check(bool is_true, const char *what);

/* Opens the device at an address such as 0000:00:03.0, as a bus master. */
void edu_open(struct edu *edu, const char *address);
uint32_t edu_read(const struct edu *edu, enum edu_register where);
void edu_write(const struct edu *edu, enum edu_register where, uint32_t value);
/* Waits until a bit of a register is clear. */
void wait_while(const struct edu *edu, enum edu_register where, uint32_t bit, const char *what);

/* Maps memory for the device at an IOVA; rights are VFIO_DMA_MAP_FLAG_READ, the device may read it, and _WRITE. */
void map(const struct edu *edu, const uint8_t *bytes, uint64_t iova, uint64_t size, uint32_t rights);
/* Unmaps a range of IOVAs in which this many bytes are mapped. */
void unmap(const struct edu *edu, uint64_t iova, uint64_t size, uint64_t mapped);

void start_dma(const struct edu *edu, uint64_t source, uint64_t destination, uint64_t count, uint64_t command);
/* Has the device read from memory into its buffer, at an offset in that, and waits for the end; and the other way. */
void to_device(const struct edu *edu, uint64_t iova, uint32_t offset, uint32_t count);
void to_memory(const struct edu *edu, uint64_t iova, uint32_t offset, uint32_t count);

bool is_all(const uint8_t *bytes, size_t count, uint8_t value);

#endif
