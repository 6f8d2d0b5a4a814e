#include "CBaselines.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "memory.h"
#include "server_memory.h"
#include "vfio_user.h"

enum { MAXIMUM_DESCRIPTORS = 16, BUFFER_SIZE = 64 << 10 };

// A transfer between the device's buffer and client memory that is reached by messages. One request is with the client at a
// time, and the server goes on with other messages meanwhile.
struct transfer {
    bool is_active, is_completing, failed;
    uint16_t command;
    uint64_t done;
    // Of the request that is with the client.
    uint16_t id;
    uint64_t asked;
};

struct device {
    unsigned char storage[MEASURED_STORAGE_SIZE];
    uint64_t probe, dma_address, dma_count, dma_completion;
    unsigned char *buffer;
};

struct server {
    int socket;
    enum baseline_reading reading;
    uint64_t (*allocations)(void);

    // What has arrived and not been handled lies between `start` and `end`.
    unsigned char *in;
    size_t start, end;
    int descriptors[MAXIMUM_DESCRIPTORS];
    size_t descriptor_count;
    // They belong to the message that ends here, or in which this is.
    size_t descriptors_end;
    bool lost_descriptors;

    // The reply: a header, and what was put behind it.
    unsigned char *out;
    size_t out_size;

    bool is_serving;
    struct client_memory memory;
    struct device device;
    struct transfer transfer;
    uint16_t last_id;
};

// Adds to the reply's payload and returns the place.
static void *append(struct server *server, size_t byte_count)
{
    void *place = server->out + server->out_size;
    server->out_size += byte_count;
    return place;
}

static bool send_out(struct server *server)
{
    size_t sent = 0;
    while (sent < server->out_size) {
        ssize_t count = send(server->socket, server->out + sent, server->out_size - sent, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return false;
        sent += (size_t)count;
    }
    return true;
}

static void close_descriptors(struct server *server)
{
    for (size_t index = 0; index < server->descriptor_count; index++)
        close(server->descriptors[index]);
    server->descriptor_count = 0;
    server->lost_descriptors = false;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

// Reads at most `room` bytes behind the others, and the descriptors that come with them.
static bool receive(struct server *server, size_t room, int flags)
{
    union {
        char bytes[CMSG_SPACE(MAXIMUM_DESCRIPTORS * sizeof(int))];
        struct cmsghdr header;
    } control;
    struct iovec vector = { .iov_base = server->in + server->end, .iov_len = room };
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control),
    };
    if (server->reading == BASELINE_POLLING)
        flags |= MSG_DONTWAIT;
    uint64_t deadline = flags & MSG_DONTWAIT ? now() + BASELINE_POLLING_NANOSECONDS : 0;
    ssize_t count;
    while ((count = recvmsg(server->socket, &message, flags | MSG_CMSG_CLOEXEC)) < 0) {
        if (errno == EAGAIN && now() > deadline)
            flags &= ~MSG_DONTWAIT;
        else if (errno != EAGAIN && errno != EINTR)
            return false;
    }
    if (count == 0)
        return false;
    server->end += (size_t)count;
    if (message.msg_flags & MSG_CTRUNC)
        server->lost_descriptors = true;
    for (struct cmsghdr *part = CMSG_FIRSTHDR(&message); part; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        size_t arrived = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t index = 0; index < arrived; index++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(part) + index * sizeof(int), sizeof(descriptor));
            if (server->descriptor_count < MAXIMUM_DESCRIPTORS) {
                server->descriptors[server->descriptor_count++] = descriptor;
            } else {
                close(descriptor);
                server->lost_descriptors = true;
            }
        }
        server->descriptors_end = server->end;
    }
    return true;
}

// Waits until `byte_count` bytes of the next message are there.
static bool wait_for(struct server *server, size_t byte_count)
{
    while (server->end - server->start < byte_count) {
        if (server->start > 0) {
            memmove(server->in, server->in + server->start, server->end - server->start);
            server->descriptors_end -= server->descriptor_count ? server->start : 0;
            server->end -= server->start;
            server->start = 0;
        }
        size_t missing = byte_count - server->end;
        bool is_header_first = server->reading == BASELINE_HEADER_FIRST;
        size_t room = is_header_first || missing > BUFFER_SIZE ? missing : BUFFER_SIZE;
        if (!receive(server, room, is_header_first ? MSG_WAITALL : 0))
            return false;
    }
    return true;
}

// One request that is with the client, or the end: the message by which the client hears of it.
static bool continue_transfer(struct server *server)
{
    struct transfer *transfer = &server->transfer;
    const struct device *device = &server->device;
    struct header header = { .id = ++server->last_id, .command = transfer->command };
    struct client_memory_access access = { .address = device->dma_address + transfer->done };
    uint64_t completion = transfer->failed ? MEASURED_DMA_FAILED : MEASURED_DMA_SUCCEEDED;
    const void *data = device->buffer + transfer->done;
    access.count = device->dma_count - transfer->done;
    transfer->is_completing = transfer->failed || access.count == 0;
    if (transfer->is_completing) {
        header.command = DMA_WRITE;
        access = (struct client_memory_access) { .address = device->dma_completion, .count = sizeof(completion) };
        data = &completion;
    }
    if (access.count > MAXIMUM_TRANSFER)
        access.count = MAXIMUM_TRANSFER;
    transfer->id = header.id;
    transfer->asked = access.count;
    server->out_size = sizeof(header);
    memcpy(append(server, sizeof(access)), &access, sizeof(access));
    if (header.command == DMA_WRITE)
        memcpy(append(server, access.count), data, access.count);
    header.size = (uint32_t)server->out_size;
    memcpy(server->out, &header, sizeof(header));
    return send_out(server);
}

static bool take_reply(struct server *server, const struct header *header, const unsigned char *payload, size_t size)
{
    struct transfer *transfer = &server->transfer;
    if (!transfer->is_active || header->id != transfer->id)
        return true;
    if (transfer->is_completing) {
        transfer->is_active = false;
        return true;
    }
    struct client_memory_access access = { 0 };
    if (size >= sizeof(access))
        memcpy(&access, payload, sizeof(access));
    size_t data = transfer->command == DMA_READ ? (size_t)access.count : 0;
    if ((header->flags & FLAG_ERROR) || header->command != transfer->command || access.count == 0
        || access.count > transfer->asked || size != sizeof(access) + data)
        transfer->failed = true;
    else {
        memcpy(server->device.buffer + transfer->done, payload + sizeof(access), data);
        transfer->done += access.count;
    }
    return continue_transfer(server);
}

static void begin_transfer(struct server *server, uint64_t command)
{
    if (server->transfer.is_active || (command != MEASURED_DMA_READ && command != MEASURED_DMA_WRITE))
        return;
    server->transfer = (struct transfer) {
        .is_active = true,
        .command = command == MEASURED_DMA_READ ? DMA_READ : DMA_WRITE,
        .failed = server->device.dma_count > MEASURED_DMA_BUFFER_SIZE,
    };
}

static uint64_t *writable_register(struct device *device, uint64_t offset)
{
    switch (offset) {
    case MEASURED_PROBE: return &device->probe;
    case MEASURED_DMA_ADDRESS: return &device->dma_address;
    case MEASURED_DMA_COUNT: return &device->dma_count;
    case MEASURED_DMA_COMPLETION: return &device->dma_completion;
    default: return NULL;
    }
}

static bool is_in_storage(const struct region_access *access)
{
    return access->region == 0 && access->offset + access->count <= MEASURED_STORAGE_SIZE;
}

static void read_device(struct server *server, const struct region_access *access, unsigned char *bytes)
{
    if (is_in_storage(access)) {
        memcpy(bytes, server->device.storage + access->offset, access->count);
        return;
    }
    memset(bytes, 0, access->count);
    if (access->region != 0 || access->count != sizeof(uint64_t))
        return;
    uint64_t value = 0;
    const unsigned char *found;
    switch (access->offset) {
    case MEASURED_ALLOCATIONS:
        value = server->allocations();
        break;
    case MEASURED_PROBE:
        value = UINT64_MAX;
        found = client_memory_find(&server->memory, server->device.probe, sizeof(value));
        if (found)
            memcpy(&value, found, sizeof(value));
        break;
    default:
        if (writable_register(&server->device, access->offset))
            value = *writable_register(&server->device, access->offset);
    }
    memcpy(bytes, &value, sizeof(value));
}

static void write_device(struct server *server, const struct region_access *access, const unsigned char *bytes)
{
    if (is_in_storage(access)) {
        memcpy(server->device.storage + access->offset, bytes, access->count);
        return;
    }
    if (access->region != 0 || access->count != sizeof(uint64_t))
        return;
    uint64_t value;
    memcpy(&value, bytes, sizeof(value));
    uint64_t *place = writable_register(&server->device, access->offset);
    if (place)
        *place = value;
    else if (access->offset == MEASURED_DMA_COMMAND)
        begin_transfer(server, value);
}

static void reset_device(struct server *server)
{
    struct device *device = &server->device;
    memset(device->buffer, 0, MEASURED_DMA_BUFFER_SIZE);
    *device = (struct device) { .buffer = device->buffer };
    server->transfer = (struct transfer) { 0 };
}

static uint64_t region_size(uint32_t index)
{
    switch (index) {
    case 0: return MEASURED_REGION_SIZE;
    case 7: return MEASURED_CONFIGURATION_SIZE;
    default: return 0;
    }
}

// Each of the following handles one request: it appends the reply's payload and returns 0, or returns a Linux error number.

static int negotiate(struct server *server, const unsigned char *payload, size_t size)
{
    // What a client of the measurements can rely on with any server; it has to propose these two.
    static const char capabilities[] = "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}";
    struct version version;
    if (server->is_serving || size < sizeof(version))
        return EINVAL;
    memcpy(&version, payload, sizeof(version));
    if (version.major != 0 || (size > sizeof(version) && payload[size - 1] != 0))
        return EINVAL;
    if (version.minor > 2)
        version.minor = 2;
    memcpy(append(server, sizeof(version)), &version, sizeof(version));
    memcpy(append(server, sizeof(capabilities)), capabilities, sizeof(capabilities));
    server->is_serving = true;
    return 0;
}

static int map(struct server *server, const unsigned char *payload, size_t size)
{
    struct dma_map request;
    if (size < sizeof(request) || server->descriptor_count > 1)
        return EINVAL;
    memcpy(&request, payload, sizeof(request));
    if (request.argsz < sizeof(request))
        return EINVAL;
    return client_memory_map(&server->memory, &request, server->descriptor_count ? server->descriptors[0] : -1);
}

static int unmap(struct server *server, const unsigned char *payload, size_t size)
{
    struct dma_unmap request;
    if (size < sizeof(request))
        return EINVAL;
    memcpy(&request, payload, sizeof(request));
    if (request.argsz < sizeof(request) || request.argsz > MAXIMUM_TRANSFER)
        return EINVAL;
    int error = client_memory_unmap(&server->memory, &request);
    if (error == 0)
        memcpy(append(server, sizeof(request)), &request, sizeof(request));
    return error;
}

static int describe_device(struct server *server, const unsigned char *payload, size_t size)
{
    struct device_info info;
    if (size < sizeof(info))
        return EINVAL;
    memcpy(&info, payload, sizeof(info));
    if (info.argsz < sizeof(info))
        return EINVAL;
    info = (struct device_info) {
        .argsz = sizeof(info), .flags = DEVICE_CAN_RESET | DEVICE_IS_PCI,
        .region_count = REGION_COUNT, .interrupt_index_count = INTERRUPT_INDEX_COUNT,
    };
    memcpy(append(server, sizeof(info)), &info, sizeof(info));
    return 0;
}

static int describe_region(struct server *server, const unsigned char *payload, size_t size)
{
    struct region_info info;
    if (size < sizeof(info))
        return EINVAL;
    memcpy(&info, payload, sizeof(info));
    if (info.argsz < sizeof(info) || info.index >= REGION_COUNT)
        return EINVAL;
    info = (struct region_info) { .argsz = sizeof(info), .index = info.index, .size = region_size(info.index) };
    if (info.size > 0)
        info.flags = REGION_IS_READABLE | REGION_IS_WRITABLE;
    memcpy(append(server, sizeof(info)), &info, sizeof(info));
    return 0;
}

static int describe_interrupt(struct server *server, const unsigned char *payload, size_t size)
{
    // INTx can be masked and masks itself, MSI, errors and requests cannot grow, and all come by eventfd.
    static const uint32_t flags[INTERRUPT_INDEX_COUNT] = { 7, 9, 1, 9, 9 };
    struct interrupt_info info;
    if (size < sizeof(info))
        return EINVAL;
    memcpy(&info, payload, sizeof(info));
    if (info.argsz < sizeof(info) || info.index >= INTERRUPT_INDEX_COUNT)
        return EINVAL;
    info = (struct interrupt_info) { .argsz = sizeof(info), .flags = flags[info.index], .index = info.index };
    memcpy(append(server, sizeof(info)), &info, sizeof(info));
    return 0;
}

static int check_access(const struct region_access *access)
{
    if (access->region >= REGION_COUNT || access->count > MAXIMUM_TRANSFER)
        return EINVAL;
    uint64_t size = region_size(access->region);
    return access->offset > size || access->count > size - access->offset ? EINVAL : 0;
}

static int read_region(struct server *server, const unsigned char *payload, size_t size)
{
    struct region_access access;
    if (size != sizeof(access))
        return EINVAL;
    memcpy(&access, payload, sizeof(access));
    int error = check_access(&access);
    if (error)
        return error;
    memcpy(append(server, sizeof(access)), &access, sizeof(access));
    read_device(server, &access, append(server, access.count));
    return 0;
}

static int write_region(struct server *server, const unsigned char *payload, size_t size)
{
    struct region_access access;
    if (size < sizeof(access))
        return EINVAL;
    memcpy(&access, payload, sizeof(access));
    if (size - sizeof(access) != access.count)
        return EINVAL;
    int error = check_access(&access);
    if (error)
        return error;
    write_device(server, &access, payload + sizeof(access));
    memcpy(append(server, sizeof(access)), &access, sizeof(access));
    return 0;
}

static int perform(struct server *server, const struct header *header, const unsigned char *payload, size_t size)
{
    if (server->lost_descriptors || (header->flags & ~(uint32_t)(TYPE_MASK | FLAG_NO_REPLY)))
        return EINVAL;
    if (server->descriptor_count > 0 && header->command != DMA_MAP)
        return EINVAL;
    if (!server->is_serving && header->command != VERSION)
        return EINVAL;
    switch (header->command) {
    case VERSION: return negotiate(server, payload, size);
    case DMA_MAP: return map(server, payload, size);
    case DMA_UNMAP: return unmap(server, payload, size);
    case DEVICE_GET_INFO: return describe_device(server, payload, size);
    case DEVICE_GET_REGION_INFO: return describe_region(server, payload, size);
    case DEVICE_GET_IRQ_INFO: return describe_interrupt(server, payload, size);
    case REGION_READ: return read_region(server, payload, size);
    case REGION_WRITE: return write_region(server, payload, size);
    case DEVICE_RESET: reset_device(server); return 0;
    default: return EINVAL;
    }
}

static bool handle(struct server *server, const struct header *header)
{
    const unsigned char *payload = server->in + server->start + sizeof(*header);
    size_t size = header->size - sizeof(*header);
    bool was_active = server->transfer.is_active;
    if ((header->flags & TYPE_MASK) == TYPE_REPLY)
        return take_reply(server, header, payload, size);
    server->out_size = sizeof(*header);
    int error = perform(server, header, payload, size);
    if (!(header->flags & FLAG_NO_REPLY)) {
        if (error)
            server->out_size = sizeof(*header);
        struct header reply = {
            .id = header->id, .command = header->command, .size = (uint32_t)server->out_size,
            .flags = TYPE_REPLY | (error ? FLAG_ERROR : 0), .error = (uint32_t)error,
        };
        memcpy(server->out, &reply, sizeof(reply));
        if (!send_out(server))
            return false;
    }
    if (!was_active && server->transfer.is_active && !continue_transfer(server))
        return false;
    return server->is_serving;
}

static void serve(struct server *server)
{
    struct header header;
    while (wait_for(server, sizeof(header))) {
        memcpy(&header, server->in + server->start, sizeof(header));
        if (header.size < sizeof(header) || header.size > MAXIMUM_MESSAGE || (header.flags & TYPE_MASK) > TYPE_REPLY)
            return;
        if (!wait_for(server, header.size))
            return;
        // Those that came later are of a message behind this one.
        size_t later = server->descriptors_end > server->start + header.size ? server->descriptor_count : 0;
        bool lost_later = later && server->lost_descriptors;
        server->descriptor_count -= later;
        server->lost_descriptors &= !later;
        bool goes_on = handle(server, &header);
        if (!later)
            close_descriptors(server);
        server->descriptor_count += later;
        server->lost_descriptors |= lost_later;
        if (!goes_on)
            return;
        server->start += header.size;
    }
}

void baseline_server_run(int socket, enum baseline_reading reading, uint64_t (*allocations)(void))
{
    struct server server = { .socket = socket, .reading = reading, .allocations = allocations };
    server.in = reallocate(NULL, MAXIMUM_MESSAGE + BUFFER_SIZE);
    server.out = reallocate(NULL, MAXIMUM_MESSAGE);
    server.device.buffer = allocate_zeroed(64, MEASURED_DMA_BUFFER_SIZE);
    serve(&server);
    close_descriptors(&server);
    client_memory_unmap_all(&server.memory);
    free(server.memory.mappings);
    free(server.device.buffer);
    free(server.in);
    free(server.out);
}
