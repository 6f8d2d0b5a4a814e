import CLinuxShims
import Glibc

/// What one `receive` brought.
public struct ReceivedBytes: ~Copyable, Sendable {
    /// How many bytes arrived; zero when the peer has closed its side.
    public let count: Int
    /// Descriptors that arrived with them. They belong to the message whose bytes were sent in the same call, which is
    /// the last one that begins in these bytes: a read never goes past bytes that carry descriptors.
    public var descriptors: DescriptorBundle
    /// Whether the kernel had to drop descriptors. `MSG_CTRUNC`
    public let lostDescriptors: Bool

    public init(count: Int, descriptors: consuming DescriptorBundle, lostDescriptors: Bool) {
        self.count = count
        self.descriptors = descriptors
        self.lostDescriptors = lostDescriptors
    }
}

/// A connected UNIX stream socket that passes descriptors.
///
/// Any thread may use it; closed with its last reference.
public final class UNIXSocket: Sendable {
    public let descriptor: OwnedDescriptor

    /// Takes over a connected stream socket.
    public init(adopting descriptor: consuming OwnedDescriptor) {
        self.descriptor = descriptor
    }

    /// Connects to the socket at `path`.
    ///
    /// - Throws: `ENAMETOOLONG` for a path of more than 107 bytes, and what `connect(2)` answers.
    public static func connect(toPath path: String) throws(Errno) -> UNIXSocket {
        try checkSocketPath(path)
        let socket = try newSocket(nonBlocking: false)
        try retryingIfInterrupted { unsafe shim_connect_path(socket.rawValue, path) }
        return UNIXSocket(adopting: socket)
    }

    /// Two sockets connected to each other. `socketpair(2)`
    public static func pair() throws(Errno) -> (UNIXSocket, UNIXSocket) {
        var ends: (Int32, Int32) = (-1, -1)
        try retryingIfInterrupted {
            unsafe withUnsafeMutableBytes(of: &ends) { bytes in
                let numbers = unsafe bytes.bindMemory(to: Int32.self).baseAddress
                return unsafe socketpair(AF_UNIX, streamType | closeOnExec, 0, numbers)
            }
        }
        return (
            UNIXSocket(adopting: OwnedDescriptor(adopting: ends.0)),
            UNIXSocket(adopting: OwnedDescriptor(adopting: ends.1))
        )
    }

    /// Reads what is there, at most `buffer.count` bytes, and the descriptors that came with it.
    ///
    /// - Parameter waiting: whether to wait for the first byte.
    /// - Throws: `EAGAIN` when nothing is there and `waiting` is false; `ECONNRESET` and others from `recvmsg(2)`.
    public func receive(into buffer: UnsafeMutableRawBufferPointer, waiting: Bool) throws(Errno) -> ReceivedBytes {
        // On the stack: almost no read brings any, and none is to cost the heap a call.
        var numbers = InlineArray<253, Int32>(repeating: -1)
        var count: Int32 = 0
        var truncated: Int32 = 0
        let flags = waiting ? 0 : Int32(MSG_DONTWAIT)
        let received = try retryingIfInterrupted {
            unsafe withUnsafeMutableBytes(of: &numbers) { room in
                unsafe shim_receive_message(
                    descriptor.rawValue, buffer.baseAddress, buffer.count, flags,
                    room.assumingMemoryBound(to: Int32.self).baseAddress, &count, &truncated)
            }
        }
        var descriptors = DescriptorBundle()
        for index in 0..<Int(count) { descriptors.append(OwnedDescriptor(adopting: numbers[index])) }
        return ReceivedBytes(count: received, descriptors: descriptors, lostDescriptors: truncated != 0)
    }

    /// Sends bytes with one system call, descriptors attached to the first of them.
    ///
    /// - Returns: how many bytes the kernel took; if that is not all, the rest must follow without descriptors.
    /// - Throws: `EAGAIN` when the socket has no room and `waiting` is false; `EPIPE` when the peer is gone (no signal
    ///   is raised).
    public func send(
        _ bytes: UnsafeRawBufferPointer, descriptors: borrowing DescriptorBundle, waiting: Bool
    ) throws(Errno) -> Int {
        let flags = waiting ? 0 : Int32(MSG_DONTWAIT)
        return unsafe try descriptors.withRawValues { (numbers) throws(Errno) -> Int in
            try retryingIfInterrupted {
                unsafe shim_send_message(
                    descriptor.rawValue, bytes.baseAddress, bytes.count, flags, numbers.baseAddress,
                    Int32(numbers.count))
            }
        }
    }

    /// Ends both directions, which wakes whoever waits on either side; the descriptor stays open.
    public func shutdown() {
        _ = Glibc.shutdown(descriptor.rawValue, Int32(SHUT_RDWR))
    }
}

/// A UNIX stream socket that waits for clients at a path.
///
/// The path is removed with the last reference to the listener, unless somebody else has put another socket there
/// meanwhile. Any thread may use it.
public final class UNIXSocketListener: Sendable {
    public let descriptor: OwnedDescriptor
    private let path: String?
    private let identity: FileStatus.Identity?

    /// Binds a socket to `path` and listens. A socket file that nobody listens on is replaced.
    ///
    /// - Throws: `EADDRINUSE` when somebody listens there or the path is something other than a socket,
    ///   `ENAMETOOLONG` for a path of more than 107 bytes, and what `bind(2)` answers.
    public init(path: String) throws(Errno) {
        try checkSocketPath(path)
        try UNIXSocketListener.removeStaleSocket(at: path)
        let socket = try newSocket(nonBlocking: true)
        try retryingIfInterrupted { unsafe shim_bind_path(socket.rawValue, path) }
        try retryingIfInterrupted { listen(socket.rawValue, 16) }
        descriptor = socket
        self.path = path
        identity = UNIXSocketListener.socketIdentity(at: path)
    }

    /// Takes over a socket that listens already; its path is somebody else's.
    ///
    /// - Throws: `EINVAL` when it does not listen.
    public init(adopting socket: consuming OwnedDescriptor) throws(Errno) {
        var isListening: Int32 = 0
        var size = socklen_t(MemoryLayout<Int32>.size)
        let status = unsafe getsockopt(socket.rawValue, SOL_SOCKET, SO_ACCEPTCONN, &isListening, &size)
        guard status == 0, isListening != 0 else { throw .invalidArgument }
        let flags = try retryingIfInterrupted { shim_fcntl(socket.rawValue, F_GETFL, 0) }
        try retryingIfInterrupted { shim_fcntl(socket.rawValue, F_SETFL, flags | O_NONBLOCK) }
        descriptor = socket
        path = nil
        identity = nil
    }

    deinit {
        if let path, let identity, UNIXSocketListener.socketIdentity(at: path) == identity { unsafe unlink(path) }
    }

    /// The next client in line.
    ///
    /// - Throws: `EAGAIN` when nobody waits; the listener does not block. `ECONNABORTED` and others from `accept(2)`.
    public func accept() throws(Errno) -> UNIXSocket {
        let socket = try retryingIfInterrupted { shim_accept(descriptor.rawValue) }
        return UNIXSocket(adopting: OwnedDescriptor(adopting: socket))
    }

    private static func removeStaleSocket(at path: String) throws(Errno) {
        guard fileExists(at: path) else { return }
        guard socketIdentity(at: path) != nil else { throw .addressInUse }
        if try isListening(at: path) { throw .addressInUse }
        unsafe unlink(path)
    }

    /// Whether somebody listens at `path`. Does not wait: whoever has a full queue of clients listens too.
    private static func isListening(at path: String) throws(Errno) -> Bool {
        let socket = try newSocket(nonBlocking: true)
        do throws(Errno) {
            try retryingIfInterrupted { unsafe shim_connect_path(socket.rawValue, path) }
            return true
        } catch .wouldBlock {
            return true
        } catch .connectionRefused {
            return false
        }
    }

    private static func fileExists(at path: String) -> Bool {
        var status = stat()
        return unsafe lstat(path, &status) == 0
    }

    /// Which socket file is at `path`; `nil` when there is none.
    private static func socketIdentity(at path: String) -> FileStatus.Identity? {
        var status = stat()
        guard unsafe lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return nil }
        return FileStatus(status).identity
    }
}

/// Refuses a path that `sockaddr_un` cannot hold together with its terminating NUL.
private func checkSocketPath(_ path: String) throws(Errno) {
    guard path.utf8.count < Int(SHIM_SOCKET_PATH_SIZE) else { throw .nameTooLong }
    guard !path.isEmpty, !path.utf8.contains(0) else { throw .invalidArgument }
}

private let streamType = Int32(SOCK_STREAM.rawValue)
private let closeOnExec = Int32(SOCK_CLOEXEC.rawValue)

private func newSocket(nonBlocking: Bool) throws(Errno) -> OwnedDescriptor {
    let flags = nonBlocking ? closeOnExec | Int32(SOCK_NONBLOCK.rawValue) : closeOnExec
    return OwnedDescriptor(adopting: try retryingIfInterrupted { socket(AF_UNIX, streamType | flags, 0) })
}
