#include "edu.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* A transfer is over after a few reads of a register, or takes a tenth of a second as in QEMU's own device. */
#define QUICK_ROUNDS 20

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

uint32_t edu_read(const struct edu *edu, enum edu_register where)
{
    return *(volatile uint32_t *)(edu->bar + where);
}

void edu_write(const struct edu *edu, enum edu_register where, uint32_t value)
{
    *(volatile uint32_t *)(edu->bar + where) = value;
}

static void edu_write64(const struct edu *edu, enum edu_register where, uint64_t value)
{
    *(volatile uint64_t *)(edu->bar + where) = value;
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

static void enable_memory_and_bus_mastering(int device)
{
    struct vfio_region_info configuration = { .argsz = sizeof(configuration), .index = VFIO_PCI_CONFIG_REGION_INDEX };
    if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, &configuration))
        fail("configuration space: %s", strerror(errno));
    uint16_t command;
    if (pread(device, &command, 2, configuration.offset + 4) != 2)
        fail("reading the command register: %s", strerror(errno));
    command |= 0x2 | 0x4;
    if (pwrite(device, &command, 2, configuration.offset + 4) != 2)
        fail("writing the command register: %s", strerror(errno));
}

void edu_open(struct edu *edu, const char *address)
{
    edu->container = open("/dev/vfio/vfio", O_RDWR);
    int group = open_group(address);
    if (edu->container < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &edu->container))
        fail("VFIO container: %s", strerror(errno));
    if (ioctl(edu->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
        fail("VFIO IOMMU: %s", strerror(errno));
    edu->device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, address);
    if (edu->device < 0)
        fail("VFIO device: %s", strerror(errno));

    struct vfio_region_info bar = { .argsz = sizeof(bar), .index = VFIO_PCI_BAR0_REGION_INDEX };
    if (ioctl(edu->device, VFIO_DEVICE_GET_REGION_INFO, &bar))
        fail("BAR 0: %s", strerror(errno));
    check(bar.size == 1 << 20, "BAR 0 has 1 MiB");
    enable_memory_and_bus_mastering(edu->device);
    edu->bar = mmap(NULL, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED, edu->device, bar.offset);
    if (edu->bar == MAP_FAILED)
        fail("mapping BAR 0: %s", strerror(errno));
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

void map(const struct edu *edu, const uint8_t *bytes, uint64_t iova, uint64_t size, uint32_t rights)
{
    struct vfio_iommu_type1_dma_map request = {
        .argsz = sizeof(request), .flags = rights, .vaddr = (uintptr_t)bytes, .iova = iova, .size = size,
    };
    if (ioctl(edu->container, VFIO_IOMMU_MAP_DMA, &request))
        fail("mapping 0x%llx: %s", (unsigned long long)iova, strerror(errno));
}

void unmap(const struct edu *edu, uint64_t iova, uint64_t size, uint64_t mapped)
{
    struct vfio_iommu_type1_dma_unmap request = { .argsz = sizeof(request), .iova = iova, .size = size };
    if (ioctl(edu->container, VFIO_IOMMU_UNMAP_DMA, &request) || request.size != mapped)
        fail("unmapping 0x%llx: %s", (unsigned long long)iova, strerror(errno));
}

bool is_all(const uint8_t *bytes, size_t count, uint8_t value)
{
    for (size_t i = 0; i < count; i++)
        if (bytes[i] != value)
            return false;
    return true;
}
