// A vfio-user server as a plain program in C would have it: one thread that waits in recvmsg, handles a message, and sends
// the reply. It has the messages that are measured, and the device below.

#ifndef OUTBOARD_BASELINE_SERVER_H
#define OUTBOARD_BASELINE_SERVER_H

#include <stdbool.h>
#include <stdint.h>

// The device that is measured, here and as a device of Outboard: region 0 is 4 KiB, of which the first half is storage; the
// registers behind it take accesses of eight bytes at their offsets. What is neither reads as zero and ignores writes, and so
// does region 7, 256 bytes. There are no other regions, and no interrupts.
enum {
    MEASURED_REGION_SIZE = 4096,
    MEASURED_CONFIGURATION_SIZE = 256,
    MEASURED_STORAGE_SIZE = 0x800,
    // How often the serving thread has called malloc and its relatives.
    MEASURED_ALLOCATIONS = 0x800,
    // An address is written; read are the eight bytes of client memory there, all ones when no descriptor leads to them.
    MEASURED_PROBE = 0x808,
    // A transfer between client memory and the device's buffer. It ends with a message of eight bytes to the address of
    // completion: one of the two below.
    MEASURED_DMA_ADDRESS = 0x810,
    MEASURED_DMA_COUNT = 0x818,
    MEASURED_DMA_COMPLETION = 0x820,
    MEASURED_DMA_COMMAND = 0x828,

    MEASURED_DMA_READ = 1,
    MEASURED_DMA_WRITE = 2,
    MEASURED_DMA_SUCCEEDED = 1,
    MEASURED_DMA_FAILED = 2,
    MEASURED_DMA_BUFFER_SIZE = 1 << 20,
};

// How a server reads.
enum baseline_reading {
    // One call for the header and one for the rest.
    BASELINE_HEADER_FIRST,
    // One call for all that has arrived, up to 64 KiB or to a message with descriptors.
    BASELINE_BUFFERED,
    // As buffered, and before it sleeps it asks for BASELINE_POLLING_NANOSECONDS over and over.
    BASELINE_POLLING,
};

enum { BASELINE_POLLING_NANOSECONDS = 200000 };

// Serves the client until it leaves or breaks the protocol. The socket stays the caller's.
//
// `allocations` is what the device's register of that name reads.
void baseline_server_run(int socket, enum baseline_reading reading, uint64_t (*allocations)(void));

#endif
