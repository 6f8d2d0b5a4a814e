import CLinuxShims
import Glibc

/// A 64-bit counter in the kernel that one side adds to and the other waits on. `eventfd(2)`
///
/// May be used from any thread; closed with its last reference.
public final class EventCounter: Sendable {
    private let descriptor: OwnedDescriptor

    /// A new counter at zero, non-blocking and close-on-exec.
    public init() throws(Errno) {
        descriptor = OwnedDescriptor(
            adopting: try retryingIfInterrupted { eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK)) })
    }

    /// Takes over a descriptor that a peer sent as an eventfd.
    ///
    /// - Throws: `EINVAL` when it is anything else, so that nobody can have eight bytes written to a file of their
    ///   choice, or block us on a full pipe.
    public init(adopting descriptor: consuming OwnedDescriptor) throws(Errno) {
        guard descriptor.isEventCounter else { throw .invalidArgument }
        self.descriptor = descriptor
    }

    /// The descriptor, for polling; valid as long as the counter lives.
    public var rawDescriptor: Int32 { descriptor.rawValue }

    /// A second descriptor for the same counter, to give away.
    public func duplicateDescriptor() throws(Errno) -> OwnedDescriptor { try descriptor.duplicate() }

    /// Adds one. Never blocks: a counter at its limit stays there, and its reader will find it non-zero anyway.
    ///
    /// The counter may be a peer's blocking one, whose flags are not ours to change; hence the question before the
    /// write.
    public func signal() {
        var request = pollfd(fd: descriptor.rawValue, events: Int16(POLLOUT), revents: 0)
        guard unsafe poll(&request, 1, 0) == 1, request.revents & Int16(POLLOUT) != 0 else { return }
        var one: UInt64 = 1
        _ = unsafe write(descriptor.rawValue, &one, 8)
    }

    /// Resets the counter and returns what it held; zero when nobody has signalled. Never blocks, not even when a peer
    /// empties its blocking counter at the same moment.
    @discardableResult
    public func drain() -> UInt64 {
        var value: UInt64 = 0
        return unsafe shim_read_without_waiting(descriptor.rawValue, &value, 8) == 8 ? value : 0
    }
}

extension OwnedDescriptor {
    /// Whether the open file behind the descriptor is an eventfd. The kernel names it in `/proc`, and nothing else can
    /// have that name: the path of a file on disk begins with a slash.
    var isEventCounter: Bool {
        var target = [UInt8](repeating: 0, count: 64)
        let count = unsafe shim_read_link("/proc/self/fd/\(rawValue)", &target, target.count)
        return count > 0 && target.prefix(count).elementsEqual("anon_inode:[eventfd]".utf8)
    }
}
