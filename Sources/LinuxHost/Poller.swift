import CLinuxShims
import Glibc

/// Waits for any of several descriptors to become ready. `epoll(7)`, level-triggered
///
/// Used by one thread. A descriptor must be removed before its owner closes it.
public struct Poller: ~Copyable, Sendable {
    public struct Interest: OptionSet, Sendable {
        public let rawValue: UInt8

        public init(rawValue: UInt8) {
            self.rawValue = rawValue
        }

        /// `EPOLLIN`
        public static let readable = Interest(rawValue: 1)
        /// `EPOLLOUT`
        public static let writable = Interest(rawValue: 2)
    }

    /// What became ready. A descriptor that failed or hung up counts as readable and writable: the next read or write
    /// tells why.
    public struct Event: Sendable {
        /// The number under which the descriptor was added.
        public let token: UInt64
        public let ready: Interest
    }

    /// How many events one wait returns at most; when there are more, the others come with the next.
    public static var batch: Int { Int(SHIM_EPOLL_BATCH) }

    private let descriptor: OwnedDescriptor

    public init() throws(Errno) {
        descriptor = OwnedDescriptor(
            adopting: try retryingIfInterrupted { epoll_create1(Int32(EPOLL_CLOEXEC)) })
    }

    /// Watches `rawDescriptor`, reporting it as `token`.
    ///
    /// - Throws: `EEXIST` when it is watched already, `EPERM` for a file that is always ready.
    public func add(_ rawDescriptor: Int32, token: UInt64, interest: Interest) throws(Errno) {
        try control(EPOLL_CTL_ADD, rawDescriptor, token, interest)
    }

    /// Changes what a watched descriptor is watched for.
    public func change(_ rawDescriptor: Int32, token: UInt64, interest: Interest) throws(Errno) {
        try control(EPOLL_CTL_MOD, rawDescriptor, token, interest)
    }

    /// Stops watching; harmless for a descriptor that is not watched.
    public func remove(_ rawDescriptor: Int32) {
        _ = shim_epoll_control(descriptor.rawValue, EPOLL_CTL_DEL, rawDescriptor, 0, 0)
    }

    /// Waits until something is ready and returns it; nothing when `timeout` (none: for ever) passes first.
    public func wait(timeout: Duration? = nil) throws(Errno) -> [Event] {
        var events = [shim_epoll_ready](repeating: shim_epoll_ready(), count: Int(SHIM_EPOLL_BATCH))
        let milliseconds = timeout.map(\.pollMilliseconds) ?? -1
        let count = try retryingIfInterrupted {
            unsafe shim_epoll_wait(descriptor.rawValue, &events, milliseconds)
        }
        return events.prefix(Int(count)).map { event in
            let bits = event.events
            let failed = bits & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0
            var ready: Interest = []
            if failed || bits & EPOLLIN.rawValue != 0 { ready.insert(.readable) }
            if failed || bits & EPOLLOUT.rawValue != 0 { ready.insert(.writable) }
            return Event(token: event.token, ready: ready)
        }
    }

    private func control(
        _ operation: Int32, _ rawDescriptor: Int32, _ token: UInt64, _ interest: Interest
    ) throws(Errno) {
        var bits: UInt32 = 0
        if interest.contains(.readable) { bits |= EPOLLIN.rawValue }
        if interest.contains(.writable) { bits |= EPOLLOUT.rawValue }
        try retryingIfInterrupted { shim_epoll_control(descriptor.rawValue, operation, rawDescriptor, bits, token) }
    }
}

/// Signals as something to wait for instead of an interruption. `signalfd(2)`
public struct SignalQueue: ~Copyable, Sendable {
    public let descriptor: OwnedDescriptor

    /// Blocks `signals` in the calling thread, and in those it starts from now on, and queues them here instead.
    public init(_ signals: [Int32]) throws(Errno) {
        var set = sigset_t()
        unsafe sigemptyset(&set)
        for signal in signals { unsafe sigaddset(&set, signal) }
        let status = unsafe pthread_sigmask(SIG_BLOCK, &set, nil)
        guard status == 0 else { throw Errno(rawValue: status) }
        let flags = Int32(SFD_CLOEXEC | SFD_NONBLOCK)
        descriptor = OwnedDescriptor(adopting: try retryingIfInterrupted { unsafe signalfd(-1, &set, flags) })
    }

    /// The next signal that arrived, `nil` when none did.
    public func next() -> Int32? {
        var information = signalfd_siginfo()
        let size = MemoryLayout<signalfd_siginfo>.size
        guard unsafe read(descriptor.rawValue, &information, size) == size else { return nil }
        return Int32(information.ssi_signo)
    }
}
