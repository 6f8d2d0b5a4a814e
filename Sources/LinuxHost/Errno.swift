import CLinuxShims
import Glibc

/// The number a failed system call leaves behind, or a standard asks for in an error reply.
///
/// Values are Linux's. `errno`.
public struct Errno: RawRepresentable, Error, Hashable, Sendable {
    public let rawValue: Int32

    public init(rawValue: Int32) {
        self.rawValue = rawValue
    }

    /// The calling thread's `errno`; meaningful only right after the call that failed.
    static var current: Errno { Errno(rawValue: Glibc.errno) }

    /// `EPERM`
    public static let notPermitted = Errno(rawValue: 1)
    /// `ENOENT`
    public static let noSuchEntry = Errno(rawValue: 2)
    /// `EINTR`
    public static let interrupted = Errno(rawValue: 4)
    /// `EIO`
    public static let inputOutput = Errno(rawValue: 5)
    /// `EAGAIN`
    public static let wouldBlock = Errno(rawValue: 11)
    /// `EFAULT`
    public static let badAddress = Errno(rawValue: 14)
    /// `EBUSY`
    public static let busy = Errno(rawValue: 16)
    /// `EEXIST`
    public static let exists = Errno(rawValue: 17)
    /// `ENODEV`
    public static let noSuchDevice = Errno(rawValue: 19)
    /// `EINVAL`
    public static let invalidArgument = Errno(rawValue: 22)
    /// `ENOSPC`
    public static let noSpace = Errno(rawValue: 28)
    /// `EPIPE`
    public static let brokenPipe = Errno(rawValue: 32)
    /// `ENAMETOOLONG`
    public static let nameTooLong = Errno(rawValue: 36)
    /// `EOVERFLOW`
    public static let overflow = Errno(rawValue: 75)
    /// `EADDRINUSE`
    public static let addressInUse = Errno(rawValue: 98)
    /// `ECONNRESET`
    public static let connectionReset = Errno(rawValue: 104)
    /// `ETOOMANYREFS`
    public static let tooManyReferences = Errno(rawValue: 109)
    /// `ETIMEDOUT`
    public static let timedOut = Errno(rawValue: 110)
    /// `ECONNREFUSED`
    public static let connectionRefused = Errno(rawValue: 111)
    /// `ECANCELED`
    public static let cancelled = Errno(rawValue: 125)
}

extension Errno: CustomStringConvertible {
    public var description: String {
        guard let text = unsafe shim_error_text(rawValue) else { return "error \(rawValue)" }
        return unsafe String(cString: text)
    }
}

/// Repeats a system call that a signal interrupted, and throws for every other failure.
///
/// `body` returns the call's result, negative for failure.
@discardableResult
func retryingIfInterrupted<Result: SignedInteger>(_ body: () -> Result) throws(Errno) -> Result {
    while true {
        let result = body()
        if result >= 0 { return result }
        let error = Errno.current
        if error != .interrupted { throw error }
    }
}
