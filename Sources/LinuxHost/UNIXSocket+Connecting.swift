import CLinuxShims
import Glibc

extension UNIXSocket {
    /// How long to sleep before a listener whose queue is full is tried again.
    private static let retryInterval: UInt32 = 5_000

    /// Connects to the socket at `path`, and gives up on a listener that does not take clients.
    ///
    /// - Throws: `ETIMEDOUT` when the listener's queue has been full all the time, and as `connect(toPath:)`.
    public static func connect(toPath path: String, atMost time: Duration) throws(Errno) -> UNIXSocket {
        guard path.utf8.count < Int(SHIM_SOCKET_PATH_SIZE) else { throw .nameTooLong }
        guard !path.isEmpty, !path.utf8.contains(0) else { throw .invalidArgument }
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue)
        let socket = OwnedDescriptor(adopting: try retryingIfInterrupted { Glibc.socket(AF_UNIX, type, 0) })
        let deadline = MonotonicInstant.after(time)
        while true {
            do throws(Errno) {
                try retryingIfInterrupted { unsafe shim_connect_path(socket.rawValue, path) }
                break
            } catch .wouldBlock {
                guard MonotonicInstant.now < deadline else { throw .timedOut }
                usleep(retryInterval)
            }
        }
        let flags = try retryingIfInterrupted { shim_fcntl(socket.rawValue, F_GETFL, 0) }
        try retryingIfInterrupted { shim_fcntl(socket.rawValue, F_SETFL, flags & ~O_NONBLOCK) }
        return UNIXSocket(adopting: socket)
    }
}
