#define _GNU_SOURCE
#include "CLinuxShims.h"

_Thread_local uint32_t shim_thread_number __attribute__((tls_model("initial-exec")));
uint8_t shim_lock_checker_switch_value;

int shim_accept(int socket) { return accept4(socket, NULL, NULL, SOCK_CLOEXEC); }
ssize_t shim_read_without_waiting(int descriptor, void *bytes, size_t count)
{
    struct iovec segment = { .iov_base = bytes, .iov_len = count };
    return preadv2(descriptor, &segment, 1, -1, RWF_NOWAIT);
}
int shim_memfd_create(const char *name, unsigned int flags) { return memfd_create(name, flags); }
int shim_get_seals(int descriptor) { return fcntl(descriptor, F_GET_SEALS); }
int shim_add_seals(int descriptor, int seals) { return fcntl(descriptor, F_ADD_SEALS, seals); }
int shim_fallocate(int descriptor, int mode, off_t offset, off_t byte_count)
{
    return fallocate(descriptor, mode, offset, byte_count);
}
int shim_set_thread_name(const char *name) { return pthread_setname_np(pthread_self(), name); }
int shim_get_thread_name(char *name) { return pthread_getname_np(pthread_self(), name, SHIM_THREAD_NAME_SIZE); }
const char *shim_error_text(int number) { return strerrordesc_np(number); }
