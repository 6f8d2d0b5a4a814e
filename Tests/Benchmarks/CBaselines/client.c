#include "CBaselines.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "memory.h"
#include "vfio_user.h"

enum { PAGE_SIZE = 4096, MAXIMUM_DEPTH = 256, COMPOSED_SIZE = 64, MAXIMUM_DESCRIPTORS = 16 };

struct load_client {
    int socket;
    bool spins;
    uint16_t last_id;
    // What has arrived and not been taken lies between `start` and `end`.
    unsigned char *in;
    size_t start, end;
    unsigned char *out;
    unsigned char *memory;
};

static const size_t in_capacity = 2 * MAXIMUM_MESSAGE;
static const size_t memory_size = MEASURED_DMA_BUFFER_SIZE + PAGE_SIZE;
_Static_assert(MAXIMUM_DEPTH * COMPOSED_SIZE < MAXIMUM_MESSAGE, "a window of messages fits the buffer");

struct load_client *load_client_create(int socket, bool spins)
{
    struct load_client *client = allocate_zeroed(_Alignof(struct load_client), sizeof(*client));
    client->socket = socket;
    client->spins = spins;
    client->in = reallocate(NULL, in_capacity);
    client->out = reallocate(NULL, MAXIMUM_MESSAGE);
    client->memory = allocate_zeroed(PAGE_SIZE, memory_size);
    return client;
}

void load_client_destroy(struct load_client *client)
{
    free(client->in);
    free(client->out);
    free(client->memory);
    free(client);
}

void load_client_set_spinning(struct load_client *client, bool spins) { client->spins = spins; }

static int send_bytes(struct load_client *client, const void *bytes, size_t byte_count, const int *descriptors,
    size_t descriptor_count)
{
    union {
        char bytes[CMSG_SPACE(MAXIMUM_DESCRIPTORS * sizeof(int))];
        struct cmsghdr header;
    } control;
    size_t sent = 0;
    while (sent < byte_count) {
        struct iovec vector = { .iov_base = (char *)bytes + sent, .iov_len = byte_count - sent };
        struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
        if (descriptor_count > 0 && sent == 0) {
            message.msg_control = &control;
            message.msg_controllen = CMSG_SPACE(descriptor_count * sizeof(int));
            memset(&control, 0, message.msg_controllen);
            struct cmsghdr *part = CMSG_FIRSTHDR(&message);
            part->cmsg_level = SOL_SOCKET;
            part->cmsg_type = SCM_RIGHTS;
            part->cmsg_len = CMSG_LEN(descriptor_count * sizeof(int));
            memcpy(CMSG_DATA(part), descriptors, descriptor_count * sizeof(int));
        }
        ssize_t count = sendmsg(client->socket, &message, MSG_NOSIGNAL);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return errno;
        sent += (size_t)count;
    }
    return 0;
}

// Waits for more from the server.
static int receive(struct load_client *client)
{
    if (client->start == client->end)
        client->start = client->end = 0;
    else if (in_capacity - client->end < MAXIMUM_MESSAGE) {
        memmove(client->in, client->in + client->start, client->end - client->start);
        client->end -= client->start;
        client->start = 0;
    }
    ssize_t count;
    do
        count = recv(client->socket, client->in + client->end, in_capacity - client->end,
            client->spins ? MSG_DONTWAIT : 0);
    while (count < 0 && (errno == EINTR || (client->spins && errno == EAGAIN)));
    if (count < 0)
        return errno;
    client->end += (size_t)count;
    return count == 0 ? EPIPE : 0;
}

// A message as it came; its payload stays where it is until the client receives again.
struct message {
    struct header header;
    const unsigned char *payload;
    size_t byte_count;
};

// Takes the next message if it is there as a whole.
static int take(struct load_client *client, struct message *message, bool *is_there)
{
    size_t count = client->end - client->start;
    const unsigned char *place = client->in + client->start;
    *is_there = false;
    if (count < sizeof(message->header))
        return 0;
    memcpy(&message->header, place, sizeof(message->header));
    if (message->header.size < sizeof(message->header) || message->header.size > MAXIMUM_MESSAGE)
        return EPROTO;
    if (count < message->header.size)
        return 0;
    message->payload = place + sizeof(message->header);
    message->byte_count = message->header.size - sizeof(message->header);
    client->start += message->header.size;
    *is_there = true;
    return 0;
}

static int wait_for_message(struct load_client *client, struct message *message)
{
    bool is_there;
    int error = take(client, message, &is_there);
    while (!error && !is_there) {
        error = receive(client);
        if (!error)
            error = take(client, message, &is_there);
    }
    return error;
}

// Whether the message is the reply to one of ours, and means success.
static int check(const struct message *reply, uint16_t id)
{
    const struct header *header = &reply->header;
    if (header->id != id || (header->flags & TYPE_MASK) != TYPE_REPLY)
        return EPROTO;
    if (header->flags & FLAG_ERROR)
        return header->error ? (int)header->error : EPROTO;
    return 0;
}

// Writes a command to `place`, its payload in two parts, and returns its size.
static size_t compose(struct load_client *client, unsigned char *place, uint16_t command, uint32_t flags,
    const void *head, size_t head_size, const void *tail, size_t tail_size)
{
    struct header header = {
        .id = ++client->last_id, .command = command, .flags = flags,
        .size = (uint32_t)(sizeof(header) + head_size + tail_size),
    };
    memcpy(place, &header, sizeof(header));
    memcpy(place + sizeof(header), head, head_size);
    if (tail_size)
        memcpy(place + sizeof(header) + head_size, tail, tail_size);
    return header.size;
}

// One of the messages that a measurement consists of. Returns its size, at most COMPOSED_SIZE.
typedef size_t composer(struct load_client *client, const void *what, size_t index, unsigned char *place);

// Sends `count` messages, of which at most `depth` are without reply at a time, and takes the replies. A message that
// maps memory goes out by itself when there is a descriptor to go with it, all others together.
static int converse(struct load_client *client, size_t count, size_t depth, composer *make, const void *what,
    int descriptor)
{
    size_t sent = 0, answered = 0;
    uint16_t next_id = (uint16_t)(client->last_id + 1);
    if (depth > MAXIMUM_DEPTH)
        depth = MAXIMUM_DEPTH;
    while (answered < count) {
        size_t byte_count = 0;
        int error = 0;
        while (!error && sent < count && sent - answered < depth) {
            unsigned char *place = client->out + byte_count;
            size_t size = make(client, what, sent++, place);
            struct header header;
            memcpy(&header, place, sizeof(header));
            if (descriptor < 0 || header.command != DMA_MAP) {
                byte_count += size;
                continue;
            }
            error = send_bytes(client, client->out, byte_count, NULL, 0);
            if (!error)
                error = send_bytes(client, place, size, &descriptor, 1);
            byte_count = 0;
        }
        if (!error)
            error = send_bytes(client, client->out, byte_count, NULL, 0);
        struct message reply;
        bool is_there = true;
        if (!error)
            error = wait_for_message(client, &reply);
        while (!error && is_there) {
            error = check(&reply, next_id++);
            answered++;
            if (!error)
                error = take(client, &reply, &is_there);
        }
        if (error)
            return error;
    }
    return 0;
}

// Sends what was composed at the start of `out`, and waits for the reply.
static int exchange(struct load_client *client, size_t byte_count, const int *descriptors, size_t descriptor_count,
    struct message *reply)
{
    int error = send_bytes(client, client->out, byte_count, descriptors, descriptor_count);
    return error ? error : wait_for_message(client, reply);
}

int load_client_exchange(struct load_client *client, uint16_t command, const void *payload, size_t byte_count,
    int descriptor, struct load_reply *reply)
{
    struct message message;
    if (byte_count > MAXIMUM_MESSAGE - sizeof(message.header))
        return EMSGSIZE;
    size_t size = compose(client, client->out, command, 0, payload, byte_count, NULL, 0);
    int error = exchange(client, size, &descriptor, descriptor < 0 ? 0 : 1, &message);
    if (error)
        return error;
    if (message.header.id != client->last_id)
        return EPROTO;
    *reply = (struct load_reply) {
        .command = message.header.command, .flags = message.header.flags, .error = message.header.error,
        .byte_count = (uint32_t)message.byte_count,
    };
    if (message.byte_count > sizeof(reply->payload))
        return EMSGSIZE;
    memcpy(reply->payload, message.payload, message.byte_count);
    return 0;
}

int load_client_negotiate(struct load_client *client)
{
    static const char capabilities[] = "{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":1048576}}";
    struct version version = { .major = 0, .minor = 2 };
    struct message reply;
    size_t size = compose(client, client->out, VERSION, 0, &version, sizeof(version), capabilities,
        sizeof(capabilities));
    int error = exchange(client, size, NULL, 0, &reply);
    return error ? error : check(&reply, client->last_id);
}

int load_client_read(struct load_client *client, uint32_t region, uint64_t offset, void *bytes, uint32_t byte_count)
{
    struct region_access access = { .offset = offset, .region = region, .count = byte_count };
    struct message reply;
    size_t size = compose(client, client->out, REGION_READ, 0, &access, sizeof(access), NULL, 0);
    int error = exchange(client, size, NULL, 0, &reply);
    if (!error)
        error = check(&reply, client->last_id);
    if (!error && reply.byte_count != sizeof(access) + byte_count)
        error = EPROTO;
    if (!error)
        memcpy(bytes, reply.payload + sizeof(access), byte_count);
    return error;
}

static int write_with(struct load_client *client, uint32_t flags, uint32_t region, uint64_t offset, const void *bytes,
    uint32_t byte_count)
{
    struct region_access access = { .offset = offset, .region = region, .count = byte_count };
    struct message reply;
    if (byte_count > MAXIMUM_TRANSFER)
        return EMSGSIZE;
    size_t size = compose(client, client->out, REGION_WRITE, flags, &access, sizeof(access), bytes, byte_count);
    if (flags & FLAG_NO_REPLY)
        return send_bytes(client, client->out, size, NULL, 0);
    int error = exchange(client, size, NULL, 0, &reply);
    return error ? error : check(&reply, client->last_id);
}

int load_client_write(struct load_client *client, uint32_t region, uint64_t offset, const void *bytes,
    uint32_t byte_count)
{
    return write_with(client, 0, region, offset, bytes, byte_count);
}

int load_client_post(struct load_client *client, uint32_t region, uint64_t offset, const void *bytes,
    uint32_t byte_count)
{
    return write_with(client, FLAG_NO_REPLY, region, offset, bytes, byte_count);
}

int load_client_set_interrupts(struct load_client *client, uint32_t index, uint32_t count, const int *counters)
{
    // Event counters are given, and an interrupt is a signal to one.
    struct set_interrupts request = { .argsz = sizeof(request), .flags = 1 << 2 | 1 << 5, .index = index,
        .count = count };
    struct message reply;
    if (count > MAXIMUM_DESCRIPTORS)
        return EMSGSIZE;
    size_t size = compose(client, client->out, DEVICE_SET_IRQS, 0, &request, sizeof(request), NULL, 0);
    int error = exchange(client, size, counters, count, &reply);
    return error ? error : check(&reply, client->last_id);
}

static size_t compose_read(struct load_client *client, const void *what, size_t index, unsigned char *place)
{
    (void)what, (void)index;
    struct region_access access = { .offset = 16, .region = 0, .count = 4 };
    return compose(client, place, REGION_READ, 0, &access, sizeof(access), NULL, 0);
}

int load_client_read_many(struct load_client *client, size_t count, size_t depth)
{
    return converse(client, count, depth, compose_read, NULL, -1);
}

int load_client_post_many(struct load_client *client, size_t count)
{
    int error = 0;
    uint32_t value = 0;
    for (size_t index = 0; index < count && !error; index++) {
        value = (uint32_t)index;
        error = load_client_post(client, 0, 16, &value, sizeof(value));
    }
    uint32_t found = 0;
    if (!error)
        error = load_client_read(client, 0, 16, &found, sizeof(found));
    return !error && found != value ? EPROTO : error;
}

static size_t compose_map(struct load_client *client, const void *what, size_t index, unsigned char *place)
{
    const struct load_pages *pages = what;
    struct dma_map request = {
        .argsz = sizeof(request), .flags = MAP_READ | MAP_WRITE, .address = pages->addresses[index],
        .size = PAGE_SIZE,
    };
    if (pages->descriptor >= 0)
        request.offset = request.address / PAGE_SIZE % pages->page_count * PAGE_SIZE;
    return compose(client, place, DMA_MAP, 0, &request, sizeof(request), NULL, 0);
}

static size_t compose_unmap(struct load_client *client, const void *what, size_t index, unsigned char *place)
{
    const struct load_pages *pages = what;
    struct dma_unmap request = { .argsz = sizeof(request), .address = pages->addresses[index], .size = PAGE_SIZE };
    return compose(client, place, DMA_UNMAP, 0, &request, sizeof(request), NULL, 0);
}

static size_t compose_either(struct load_client *client, const void *what, size_t index, unsigned char *place)
{
    return (index % 2 ? compose_unmap : compose_map)(client, what, index / 2, place);
}

int load_client_map(struct load_client *client, struct load_pages pages, size_t depth)
{
    return converse(client, pages.count, depth, compose_map, &pages, pages.descriptor);
}

int load_client_unmap(struct load_client *client, struct load_pages pages, size_t depth)
{
    return converse(client, pages.count, depth, compose_unmap, &pages, -1);
}

int load_client_map_and_unmap(struct load_client *client, struct load_pages pages, size_t depth)
{
    return converse(client, 2 * pages.count, depth, compose_either, &pages, pages.descriptor);
}

int load_client_map_memory(struct load_client *client)
{
    struct dma_map request = {
        .argsz = sizeof(request), .flags = MAP_READ | MAP_WRITE, .address = LOAD_MEMORY_ADDRESS, .size = memory_size,
    };
    struct message reply;
    size_t size = compose(client, client->out, DMA_MAP, 0, &request, sizeof(request), NULL, 0);
    int error = exchange(client, size, NULL, 0, &reply);
    return error ? error : check(&reply, client->last_id);
}

unsigned char *load_client_memory(struct load_client *client) { return client->memory; }

// Answers a request of the server for the memory.
static int answer(struct load_client *client, const struct message *request)
{
    struct client_memory_access access;
    struct header header = request->header;
    bool is_read = header.command == DMA_READ;
    if ((header.flags & TYPE_MASK) != TYPE_COMMAND || (!is_read && header.command != DMA_WRITE)
        || request->byte_count < sizeof(access))
        return EPROTO;
    memcpy(&access, request->payload, sizeof(access));
    uint64_t offset = access.address - LOAD_MEMORY_ADDRESS;
    if (offset > memory_size || access.count > memory_size - offset || access.count > MAXIMUM_TRANSFER
        || request->byte_count != sizeof(access) + (is_read ? 0 : access.count))
        return EPROTO;
    if (!is_read)
        memcpy(client->memory + offset, request->payload + sizeof(access), access.count);
    header.flags = TYPE_REPLY;
    header.size = (uint32_t)(sizeof(header) + sizeof(access) + (is_read ? access.count : 0));
    memcpy(client->out, &header, sizeof(header));
    memcpy(client->out + sizeof(header), &access, sizeof(access));
    if (is_read)
        memcpy(client->out + sizeof(header) + sizeof(access), client->memory + offset, access.count);
    return send_bytes(client, client->out, header.size, NULL, 0);
}

int load_client_transfer(struct load_client *client, uint64_t command, uint64_t byte_count)
{
    const uint64_t registers[][2] = {
        { MEASURED_DMA_ADDRESS, LOAD_MEMORY_ADDRESS },
        { MEASURED_DMA_COUNT, byte_count },
        { MEASURED_DMA_COMPLETION, LOAD_MEMORY_ADDRESS + MEASURED_DMA_BUFFER_SIZE },
        { MEASURED_DMA_COMMAND, command },
    };
    uint64_t completion = 0;
    size_t size = 0;
    unsigned char *place = client->memory + MEASURED_DMA_BUFFER_SIZE;
    memcpy(place, &completion, sizeof(completion));
    for (size_t index = 0; index < sizeof(registers) / sizeof(registers[0]); index++) {
        struct region_access access = { .offset = registers[index][0], .region = 0, .count = sizeof(uint64_t) };
        size += compose(client, client->out + size, REGION_WRITE, FLAG_NO_REPLY, &access, sizeof(access),
            &registers[index][1], sizeof(uint64_t));
    }
    int error = send_bytes(client, client->out, size, NULL, 0);
    while (!error && completion == 0) {
        struct message request;
        error = wait_for_message(client, &request);
        if (!error)
            error = answer(client, &request);
        memcpy(&completion, place, sizeof(completion));
    }
    return !error && completion != MEASURED_DMA_SUCCEEDED ? EIO : error;
}
