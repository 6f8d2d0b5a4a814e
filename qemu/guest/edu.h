/*
 * A user-space driver for the educational PCI device (id 1234:11e8), for the programs beside this file.
 *
 * The register map is that of QEMU's docs/specs/edu.rst.
 */
#ifndef EDU_H
#define EDU_H

#include "pci.h"

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

#define EDU_BAR_SIZE (1u << 20)

struct edu {
    struct pci_function pci;
    uint32_t interrupt_index; /* VFIO_PCI_INTX_IRQ_INDEX or VFIO_PCI_MSI_IRQ_INDEX, of a program that takes them */
    int interrupt;            /* eventfd */
};

uint32_t edu_read(const struct edu *edu, enum edu_register where);
void edu_write(const struct edu *edu, enum edu_register where, uint32_t value);
/* Waits until a bit of a register is clear. */
void wait_while(const struct edu *edu, enum edu_register where, uint32_t bit, const char *what);

void start_dma(const struct edu *edu, uint64_t source, uint64_t destination, uint64_t count, uint64_t command);
/* Has the device read from memory into its buffer, at an offset in that, and waits for the end; and the other way. */
void to_device(const struct edu *edu, uint64_t iova, uint32_t offset, uint32_t count);
void to_memory(const struct edu *edu, uint64_t iova, uint32_t offset, uint32_t count);

#endif
