// The messages of vfio-user that are measured, as structures; little-endian machines only.

#ifndef OUTBOARD_BASELINES_VFIO_USER_H
#define OUTBOARD_BASELINES_VFIO_USER_H

#include <stdint.h>

enum command {
    VERSION = 1,
    DMA_MAP = 2,
    DMA_UNMAP = 3,
    DEVICE_GET_INFO = 4,
    DEVICE_GET_REGION_INFO = 5,
    DEVICE_GET_IRQ_INFO = 7,
    DEVICE_SET_IRQS = 8,
    REGION_READ = 9,
    REGION_WRITE = 10,
    DMA_READ = 11,
    DMA_WRITE = 12,
    DEVICE_RESET = 13,
};

enum { TYPE_MASK = 0xf, TYPE_COMMAND = 0, TYPE_REPLY = 1, FLAG_NO_REPLY = 1 << 4, FLAG_ERROR = 1 << 5 };

enum { REGION_COUNT = 9, INTERRUPT_INDEX_COUNT = 5 };

// What both sides take in one message without having agreed on anything else, and so the longest message.
#define MAXIMUM_TRANSFER ((uint32_t)1 << 20)
#define MAXIMUM_MESSAGE (sizeof(struct header) + sizeof(struct region_access) + MAXIMUM_TRANSFER)

struct header {
    uint16_t id;
    uint16_t command;
    uint32_t size;
    uint32_t flags;
    uint32_t error;
};

// Followed by JSON that ends with a zero byte.
struct version {
    uint16_t major;
    uint16_t minor;
};

enum { MAP_READ = 1, MAP_WRITE = 2, MAP_BY_MAPPING = 4, MAP_BY_FILE_IO = 8 };

struct dma_map {
    uint32_t argsz;
    uint32_t flags;
    uint64_t offset;
    uint64_t address;
    uint64_t size;
};

enum { UNMAP_ALL = 2 };

struct dma_unmap {
    uint32_t argsz;
    uint32_t flags;
    uint64_t address;
    uint64_t size;
};

enum { DEVICE_CAN_RESET = 1, DEVICE_IS_PCI = 2 };

struct device_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t region_count;
    uint32_t interrupt_index_count;
};

enum { REGION_IS_READABLE = 1, REGION_IS_WRITABLE = 2 };

struct region_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t capability_offset;
    uint64_t size;
    uint64_t offset;
};

struct interrupt_info {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t count;
};

struct set_interrupts {
    uint32_t argsz;
    uint32_t flags;
    uint32_t index;
    uint32_t start;
    uint32_t count;
};

// Followed by the bytes: in a write and in the reply to a read.
struct region_access {
    uint64_t offset;
    uint32_t region;
    uint32_t count;
};

struct client_memory_access {
    uint64_t address;
    uint64_t count;
};

#endif
