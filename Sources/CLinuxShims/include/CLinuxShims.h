// What Swift cannot import from the C library: function-like macros, variadic functions and headers that the Glibc
// module leaves out. Nothing here decides anything; every function is one call or one documented idiom.
//
// Functions of GNU and Linux that hide behind _GNU_SOURCE are in shims.c: the macro changes the definition of types that
// the Glibc module shows too, and Swift refuses two definitions of one type.

#ifndef OUTBOARD_C_LINUX_SHIMS_H
#define OUTBOARD_C_LINUX_SHIMS_H

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/memfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

// The kernel's limit of descriptors in one message (SCM_MAX_FD); a control buffer of this size never truncates.
enum { SHIM_MAXIMUM_DESCRIPTORS = 253 };

// One recvmsg(2). Descriptors arrive close-on-exec in `descriptors`, which has room for SHIM_MAXIMUM_DESCRIPTORS;
// `*truncated` is set when the kernel had to drop some (MSG_CTRUNC).
static inline ssize_t shim_receive_message(int socket, void *bytes, size_t count, int flags,
                                           int *descriptors, int *descriptor_count, int *truncated)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * SHIM_MAXIMUM_DESCRIPTORS)];
    } control;
    struct iovec segment = { .iov_base = bytes, .iov_len = count };
    struct msghdr message = {
        .msg_iov = &segment, .msg_iovlen = 1,
        .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes),
    };
    *descriptor_count = 0;
    *truncated = 0;
    ssize_t received = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    if (received < 0)
        return received;
    *truncated = (message.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t found = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < found; i++) {
            int descriptor;
            memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
            if (*descriptor_count < SHIM_MAXIMUM_DESCRIPTORS)
                descriptors[(*descriptor_count)++] = descriptor;
            else
                close(descriptor);
        }
    }
    return received;
}

// One sendmsg(2), with descriptors attached to its first byte.
static inline ssize_t shim_send_message(int socket, const void *bytes, size_t count, int flags,
                                        const int *descriptors, int descriptor_count)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int) * SHIM_MAXIMUM_DESCRIPTORS)];
    } control;
    struct iovec segment = { .iov_base = (void *)bytes, .iov_len = count };
    struct msghdr message = { .msg_iov = &segment, .msg_iovlen = 1 };
    if (descriptor_count > 0) {
        if (descriptor_count > SHIM_MAXIMUM_DESCRIPTORS) {
            errno = EINVAL;
            return -1;
        }
        memset(&control, 0, sizeof(control));
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)descriptor_count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)descriptor_count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * (size_t)descriptor_count);
    }
    return sendmsg(socket, &message, flags | MSG_NOSIGNAL);
}

static inline int shim_open(const char *path, int flags, mode_t mode) { return open(path, flags, mode); }
static inline int shim_fcntl(int descriptor, int command, int argument) { return fcntl(descriptor, command, argument); }
// The text for an error number: static, untranslated, safe on any thread; NULL for an unknown number.
const char *shim_error_text(int number);

static inline ssize_t shim_read_link(const char *path, uint8_t *target, size_t count)
{
    return readlink(path, (char *)target, count);
}
// The caller has checked that the path fits with its NUL.
enum { SHIM_SOCKET_PATH_SIZE = sizeof(((struct sockaddr_un *)0)->sun_path) };
static inline struct sockaddr_un shim_socket_address(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, path, sizeof(address.sun_path) - 1);
    return address;
}
static inline int shim_bind_path(int socket, const char *path)
{
    struct sockaddr_un address = shim_socket_address(path);
    return bind(socket, (struct sockaddr *)&address, sizeof(address));
}
static inline int shim_connect_path(int socket, const char *path)
{
    struct sockaddr_un address = shim_socket_address(path);
    return connect(socket, (struct sockaddr *)&address, sizeof(address));
}
int shim_accept(int socket);
// preadv(2) and pwritev(2). A segment is an iovec under another name: the importer finds that one in two modules.
struct shim_segment { void *address; size_t count; };
_Static_assert(sizeof(struct shim_segment) == sizeof(struct iovec) &&
               offsetof(struct shim_segment, address) == offsetof(struct iovec, iov_base) &&
               offsetof(struct shim_segment, count) == offsetof(struct iovec, iov_len), "laid out as an iovec");
static inline ssize_t shim_read_segments(int descriptor, const struct shim_segment *segments, int count, off_t offset)
{
    return preadv(descriptor, (const struct iovec *)segments, count, offset);
}
static inline ssize_t shim_write_segments(int descriptor, const struct shim_segment *segments, int count, off_t offset)
{
    return pwritev(descriptor, (const struct iovec *)segments, count, offset);
}

// preadv2(2) with RWF_NOWAIT from where the file stands, whatever its own flags say about waiting.
ssize_t shim_read_without_waiting(int descriptor, void *bytes, size_t count);
int shim_memfd_create(const char *name, unsigned int flags);
int shim_get_seals(int descriptor);
int shim_add_seals(int descriptor, int seals);
int shim_fallocate(int descriptor, int mode, off_t offset, off_t byte_count);
int shim_set_thread_name(const char *name);
// The calling thread's name, at most 15 bytes and a NUL.
enum { SHIM_THREAD_NAME_SIZE = 16 };
int shim_get_thread_name(char *name);

// ioctl(2) is variadic. BLKDISCARD and BLKZEROOUT take a range of two 64-bit numbers: offset and length in bytes.
static inline int shim_block_device_size(int descriptor, uint64_t *bytes) { return ioctl(descriptor, BLKGETSIZE64, bytes); }
static inline int shim_block_device_range(int descriptor, unsigned long request, uint64_t offset, uint64_t count)
{
    uint64_t range[2] = { offset, count };
    return ioctl(descriptor, request, range);
}
static const unsigned long shim_block_discard = BLKDISCARD;
static const unsigned long shim_block_zero_out = BLKZEROOUT;

// epoll_event is a packed struct with a union in it; these two show it as plain numbers.
struct shim_epoll_ready { uint64_t token; uint32_t events; };
static inline int shim_epoll_control(int poller, int operation, int descriptor, uint32_t events, uint64_t token)
{
    struct epoll_event event = { .events = events, .data.u64 = token };
    return epoll_ctl(poller, operation, descriptor, &event);
}
enum { SHIM_EPOLL_BATCH = 16 };
static inline int shim_epoll_wait(int poller, struct shim_epoll_ready *ready, int milliseconds)
{
    struct epoll_event events[SHIM_EPOLL_BATCH];
    int count = epoll_wait(poller, events, SHIM_EPOLL_BATCH, milliseconds);
    for (int i = 0; i < count; i++)
        ready[i] = (struct shim_epoll_ready) { .token = events[i].data.u64, .events = events[i].events };
    return count;
}

// A condition variable that waits on the monotonic clock.
static inline int shim_condition_initialize(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    int status = pthread_condattr_init(&attributes);
    if (status)
        return status;
    status = pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    if (!status)
        status = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return status;
}

// The number that ThreadNumber has given to the calling thread, plus one; zero when it has none. A variable of the thread
// at a fixed place, so that reading it is one load in whatever it is inlined into.
static inline uint32_t *shim_thread_number_place(void)
{
    extern _Thread_local uint32_t shim_thread_number __attribute__((tls_model("initial-exec")));
    return &shim_thread_number;
}
static inline uint32_t shim_thread_number_plus_one(void) { return *shim_thread_number_place(); }
static inline void shim_set_thread_number_plus_one(uint32_t number) { *shim_thread_number_place() = number; }

// The lock checker's switch: 0 is not decided yet, 1 off, 2 on. A byte of C needs no initialisation at run time.
static inline uint8_t *shim_lock_checker_switch_place(void)
{
    extern uint8_t shim_lock_checker_switch_value;
    return &shim_lock_checker_switch_value;
}
static inline uint8_t shim_lock_checker_switch(void)
{
    return __atomic_load_n(shim_lock_checker_switch_place(), __ATOMIC_RELAXED);
}
static inline void shim_set_lock_checker_switch(uint8_t value)
{
    __atomic_store_n(shim_lock_checker_switch_place(), value, __ATOMIC_RELAXED);
}

#endif
