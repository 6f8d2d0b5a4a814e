/*
 * A PCI function that a program drives, and memory that the function reaches; for the programs beside this file.
 *
 * Through VFIO, the function must be bound to vfio-pci and stand behind an IOMMU. DMA then goes to addresses (IOVA)
 * that the program maps and unmaps, and interrupts arrive as eventfds. Through sysfs, no driver may have the function,
 * and nothing may stand between it and memory; DMA then goes to physical addresses, and there are no interrupts.
 * Whatever goes wrong ends the program with status 1 and a line.
 */
#ifndef PCI_H
#define PCI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE_SIZE 4096u
#define HUGE_PAGE_SIZE (2u << 20)
#define WAIT_MILLISECONDS 10000

struct pci_function {
    const char *address;
    int container; /* VFIO's; -1 through sysfs */
    int device;    /* VFIO's */
    volatile uint8_t *bar;
    uint64_t next_iova; /* of memory_make */
};

/* Pages of 2 MiB which the function reaches, and which stay where they are. */
struct memory {
    uint8_t *bytes;
    size_t size;
    uint64_t *addresses; /* for the function, of each huge page */
};

/* Prints what is wrong and ends the program. */
void fail(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
/* Prints a fact that holds, or fails with it. */
void check(bool is_true, const char *what);
/* Nanoseconds since some time before. */
uint64_t now(void);
bool is_all(const uint8_t *bytes, size_t count, uint8_t value);

/* Opens the function at an address such as 0000:00:03.0, with a BAR 0 of this size, as a bus master. */
void pci_open_through_vfio(struct pci_function *pci, const char *address, size_t bar_size);
void pci_open_through_sysfs(struct pci_function *pci, const char *address, size_t bar_size);
/* Whether there is an IOMMU in front of the function at an address. */
bool pci_is_confined(const char *address);
/* A Function Level Reset, or whatever the kernel resets the function with; it then is a bus master as before. */
void pci_reset(const struct pci_function *pci);

/* Tells VFIO of interrupts of a kind, `index`, from the first on; `flags` are those of VFIO_DEVICE_SET_IRQS. */
void set_interrupts(
    const struct pci_function *pci, uint32_t index, uint32_t flags, const int *events, uint32_t count);
bool arrives(int event, int milliseconds);

/* Maps memory at an IOVA; rights are VFIO_DMA_MAP_FLAG_READ, the function may read it, and _WRITE. */
void map(const struct pci_function *pci, const uint8_t *bytes, uint64_t iova, uint64_t size, uint32_t rights);
/* Unmaps a range of IOVAs in which this many bytes are mapped. */
void unmap(const struct pci_function *pci, uint64_t iova, uint64_t size, uint64_t mapped);
/* Where a byte lies in physical memory, its page being there. */
uint64_t physical_address(const uint8_t *byte);

/* Makes zeroed memory, mapped for the function if there is an IOMMU. `size` is rounded up to whole huge pages. */
void memory_make(struct memory *memory, struct pci_function *pci, size_t size);
/* What the function calls a byte of the memory. */
uint64_t memory_address(const struct memory *memory, const volatile void *byte);

#endif
