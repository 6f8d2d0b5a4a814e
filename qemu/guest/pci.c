#include "pci.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PCI_COMMAND 4
#define PCI_COMMAND_MEMORY_AND_MASTER (0x2 | 0x4)
#define MOST_VECTORS 8
/* Above what 32 bits reach, and so beyond the window of the interrupts. */
#define FIRST_IOVA 0x100000000ull
#define HUGE_PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/"

void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    exit(1);
}

void check(bool is_true, const char *what)
{
    if (!is_true)
        fail("%s", what);
    printf("ok: %s\n", what);
}

uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

bool is_all(const uint8_t *bytes, size_t count, uint8_t value)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != value)
            return false;
    return true;
}

static int open_in_sysfs(const char *address, const char *name, int flags)
{
    char path[128];
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", address, name);
    int file = open(path, flags);
    if (file < 0)
        fail("%s: %s", path, strerror(errno));
    return file;
}

bool pci_is_confined(const char *address)
{
    char path[128];
    snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/iommu_group", address);
    return access(path, F_OK) == 0;
}

static int open_group(const char *address)
{
    char link[128], target[256], path[64];
    snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", address);
    ssize_t length = readlink(link, target, sizeof(target) - 1);
    if (length < 0)
        fail("%s is behind no IOMMU: %s", address, strerror(errno));
    target[length] = '\0';
    const char *number = strrchr(target, '/');
    snprintf(path, sizeof(path), "/dev/vfio/%.16s", number ? number + 1 : target);
    int group = open(path, O_RDWR);
    if (group < 0)
        fail("%s (is the device bound to vfio-pci?): %s", path, strerror(errno));
    return group;
}

/* Configuration space is in a file, from an offset on. */
static void enable_memory_and_bus_mastering(int file, uint64_t offset)
{
    uint16_t command;
    if (pread(file, &command, 2, (off_t)offset + PCI_COMMAND) != 2)
        fail("reading the command register: %s", strerror(errno));
    command |= PCI_COMMAND_MEMORY_AND_MASTER;
    if (pwrite(file, &command, 2, (off_t)offset + PCI_COMMAND) != 2)
        fail("writing the command register: %s", strerror(errno));
}

static void map_bar(struct pci_function *pci, int file, uint64_t offset, size_t size)
{
    pci->bar = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, (off_t)offset);
    if (pci->bar == MAP_FAILED)
        fail("mapping BAR 0: %s", strerror(errno));
}

static struct vfio_region_info region(int device, uint32_t index, const char *what)
{
    struct vfio_region_info region = { .argsz = sizeof(region), .index = index };
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &region))
        fail("%s: %s", what, strerror(errno));
    return region;
}

void pci_open_through_vfio(struct pci_function *pci, const char *address, size_t bar_size)
{
    *pci = (struct pci_function) { .address = address, .next_iova = FIRST_IOVA };
    pci->container = open("/dev/vfio/vfio", O_RDWR);
    int group = open_group(address);
    if (pci->container < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &pci->container))
        fail("VFIO container: %s", strerror(errno));
    if (ioctl(pci->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
        fail("VFIO IOMMU: %s", strerror(errno));
    pci->device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
    if (pci->device < 0)
        fail("VFIO device: %s", strerror(errno));

    struct vfio_region_info bar = region(pci->device, VFIO_PCI_BAR0_REGION_INDEX, "BAR 0");
    if (bar.size != bar_size)
        fail("BAR 0 has 0x%llx bytes, not 0x%zx", (unsigned long long)bar.size, bar_size);
    struct vfio_region_info configuration = region(pci->device, VFIO_PCI_CONFIG_REGION_INDEX, "configuration space");
    enable_memory_and_bus_mastering(pci->device, configuration.offset);
    map_bar(pci, pci->device, bar.offset, bar_size);
}

void pci_open_through_sysfs(struct pci_function *pci, const char *address, size_t bar_size)
{
    *pci = (struct pci_function) { .address = address, .container = -1, .device = -1 };
    int configuration = open_in_sysfs(address, "config", O_RDWR | O_SYNC);
    enable_memory_and_bus_mastering(configuration, 0);
    close(configuration);
    int bar = open_in_sysfs(address, "resource0", O_RDWR | O_SYNC);
    map_bar(pci, bar, 0, bar_size);
    close(bar);
}

void pci_reset(const struct pci_function *pci)
{
    if (pci->container >= 0) {
        if (ioctl(pci->device, VFIO_DEVICE_RESET))
            fail("VFIO reset: %s", strerror(errno));
        return;
    }
    int reset = open_in_sysfs(pci->address, "reset", O_WRONLY);
    if (write(reset, "1", 1) != 1)
        fail("reset: %s", strerror(errno));
    close(reset);
}

void set_interrupts(
    const struct pci_function *pci, uint32_t index, uint32_t flags, const int *events, uint32_t count)
{
    union {
        struct vfio_irq_set set;
        uint8_t bytes[sizeof(struct vfio_irq_set) + MOST_VECTORS * sizeof(int)];
    } request = { 0 };
    size_t size = flags & VFIO_IRQ_SET_DATA_EVENTFD ? count * sizeof(int) : 0;
    if (size > MOST_VECTORS * sizeof(int))
        fail("more interrupts than there is room for");
    request.set.argsz = (uint32_t)(sizeof(struct vfio_irq_set) + size);
    request.set.flags = flags;
    request.set.index = index;
    request.set.count = count;
    if (size)
        memcpy(request.set.data, events, size);
    if (ioctl(pci->device, VFIO_DEVICE_SET_IRQS, &request.set))
        fail("VFIO interrupts: %s", strerror(errno));
}

bool arrives(int event, int milliseconds)
{
    struct pollfd wanted = { .fd = event, .events = POLLIN };
    uint64_t count;
    return poll(&wanted, 1, milliseconds) == 1 && read(event, &count, sizeof(count)) == sizeof(count);
}

void map(const struct pci_function *pci, const uint8_t *bytes, uint64_t iova, uint64_t size, uint32_t rights)
{
    struct vfio_iommu_type1_dma_map request = {
        .argsz = sizeof(request), .flags = rights, .vaddr = (uintptr_t)bytes, .iova = iova, .size = size,
    };
    if (ioctl(pci->container, VFIO_IOMMU_MAP_DMA, &request))
        fail("mapping 0x%llx: %s", (unsigned long long)iova, strerror(errno));
}

void unmap(const struct pci_function *pci, uint64_t iova, uint64_t size, uint64_t mapped)
{
    struct vfio_iommu_type1_dma_unmap request = { .argsz = sizeof(request), .iova = iova, .size = size };
    if (ioctl(pci->container, VFIO_IOMMU_UNMAP_DMA, &request) || request.size != mapped)
        fail("unmapping 0x%llx: %s", (unsigned long long)iova, strerror(errno));
}

/* From /proc/self/pagemap: the frame's number in bits 0 to 54, whether there is one in bit 63. */
uint64_t physical_address(const uint8_t *byte)
{
    uint64_t entry = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    if (pagemap < 0 || pread(pagemap, &entry, 8, (off_t)((uintptr_t)byte / PAGE_SIZE * 8)) != 8 || !(entry >> 63))
        fail("no physical address: %s", strerror(errno));
    close(pagemap);
    return (entry & ((1ull << 55) - 1)) * PAGE_SIZE + (uintptr_t)byte % PAGE_SIZE;
}

static unsigned long huge_pages(const char *which)
{
    char path[128];
    unsigned long count;
    snprintf(path, sizeof(path), HUGE_PAGES "%s", which);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%lu", &count) != 1)
        fail("%s: %s", path, strerror(errno));
    fclose(file);
    return count;
}

static void reserve_huge_pages(unsigned long count)
{
    unsigned long unused = huge_pages("free_hugepages");
    if (unused >= count)
        return;
    FILE *file = fopen(HUGE_PAGES "nr_hugepages", "w");
    if (!file || fprintf(file, "%lu", huge_pages("nr_hugepages") + count - unused) < 0 || fclose(file))
        fail("huge pages: %s", strerror(errno));
}

void memory_make(struct memory *memory, struct pci_function *pci, size_t size)
{
    unsigned long count = (size + HUGE_PAGE_SIZE - 1) / HUGE_PAGE_SIZE;
    memory->size = count * HUGE_PAGE_SIZE;
    memory->addresses = calloc(count, sizeof(*memory->addresses));
    reserve_huge_pages(count);
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE;
    memory->bytes = mmap(NULL, memory->size, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory->bytes == MAP_FAILED || !memory->addresses)
        fail("%lu huge pages: %s", count, strerror(errno));
    bool is_confined = pci->container >= 0;
    for (unsigned long i = 0; i < count; i++) {
        uint64_t offset = (uint64_t)i * HUGE_PAGE_SIZE;
        memory->addresses[i] = is_confined ? pci->next_iova + offset : physical_address(memory->bytes + offset);
    }
    if (is_confined) {
        map(pci, memory->bytes, pci->next_iova, memory->size, VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE);
        pci->next_iova += memory->size;
    }
}

uint64_t memory_address(const struct memory *memory, const volatile void *byte)
{
    size_t offset = (size_t)((const volatile uint8_t *)byte - memory->bytes);
    if (offset >= memory->size)
        fail("an address in no memory of the device's");
    return memory->addresses[offset / HUGE_PAGE_SIZE] + offset % HUGE_PAGE_SIZE;
}
