// A vfio-user client that costs as little as it can, so that what is measured is the server.
//
// It knows what it is going to ask, and keeps its requests in arrays; a function returns 0, or a Linux error number: that of
// an error reply, EPROTO for anything else that should not have come, EPIPE when the server has gone. One thread uses a
// client, and the socket stays the caller's.

#ifndef OUTBOARD_LOAD_CLIENT_H
#define OUTBOARD_LOAD_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct load_client;

// `spins`: whether it looks for replies all the time instead of letting the kernel wake it.
struct load_client *load_client_create(int socket, bool spins);
void load_client_destroy(struct load_client *client);
void load_client_set_spinning(struct load_client *client, bool spins);

// The first message: version 0.2, and 16 descriptors and 1 MiB in a message.
int load_client_negotiate(struct load_client *client);

// A reply as it came, but for the version's JSON, which is not looked at.
struct load_reply {
    uint16_t command;
    uint32_t flags;
    uint32_t error;
    uint32_t byte_count;
    unsigned char payload[512];
};

// Sends any command and waits for its reply; `descriptor` is -1 for none.
int load_client_exchange(struct load_client *client, uint16_t command, const void *payload, size_t byte_count,
    int descriptor, struct load_reply *reply);

int load_client_read(struct load_client *client, uint32_t region, uint64_t offset, void *bytes, uint32_t byte_count);
int load_client_write(struct load_client *client, uint32_t region, uint64_t offset, const void *bytes,
    uint32_t byte_count);
// Without a reply. It is sent at once.
int load_client_post(struct load_client *client, uint32_t region, uint64_t offset, const void *bytes,
    uint32_t byte_count);
// Connects one event counter to each vector of an index from 0 on.
int load_client_set_interrupts(struct load_client *client, uint32_t index, uint32_t count, const int *counters);

// Reads four bytes of region 0, `count` times with at most `depth` without reply.
int load_client_read_many(struct load_client *client, size_t count, size_t depth);
// Posts `count` writes of four bytes to region 0, each with its own system call, and reads once.
int load_client_post_many(struct load_client *client, size_t count);

// Pages of 4 KiB, mapped with a descriptor, all with the same file, at the page that `page_count` leaves of the address's
// page number; or without one when it is -1.
struct load_pages {
    const uint64_t *addresses;
    size_t count;
    int descriptor;
    uint64_t page_count;
};
int load_client_map(struct load_client *client, struct load_pages pages, size_t depth);
int load_client_unmap(struct load_client *client, struct load_pages pages, size_t depth);
// Maps and unmaps each page in turn.
int load_client_map_and_unmap(struct load_client *client, struct load_pages pages, size_t depth);

// Client memory that a server reaches by messages: MEASURED_DMA_BUFFER_SIZE bytes at this address, and behind them a page
// for what tells that a transfer has ended.
#define LOAD_MEMORY_ADDRESS UINT64_C(0x10000000000)
int load_client_map_memory(struct load_client *client);
unsigned char *load_client_memory(struct load_client *client);
// Lets the measured device do a transfer of MEASURED_DMA_READ or MEASURED_DMA_WRITE from the start of the memory, and
// answers its requests until it says that it has ended.
int load_client_transfer(struct load_client *client, uint64_t command, uint64_t byte_count);

#endif
