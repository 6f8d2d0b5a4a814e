import CLinuxShims
import Glibc

/// A file descriptor with one owner, closed when the owner lets go of it.
public struct OwnedDescriptor: ~Copyable, Sendable {
    /// The number, for the duration of a call; whoever keeps it beyond the owner's life has a dangling descriptor.
    public let rawValue: Int32

    /// Takes over `descriptor`, which must be open and owned by nobody else.
    public init(adopting descriptor: Int32) {
        rawValue = descriptor
    }

    /// Takes over an inherited descriptor if it is an open socket, and keeps it from programs that this one starts;
    /// `nil`, with nothing changed, if it is anything else.
    public init?(adoptingSocket descriptor: Int32) {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFSOCK else { return nil }
        _ = shim_fcntl(descriptor, F_SETFD, FD_CLOEXEC)
        self.init(adopting: descriptor)
    }

    deinit {
        Glibc.close(rawValue)
    }

    /// Gives the descriptor up without closing it; the caller closes it.
    public consuming func take() -> Int32 {
        let descriptor = rawValue
        discard self
        return descriptor
    }

    /// A second descriptor for the same open file, close-on-exec. `F_DUPFD_CLOEXEC`
    public func duplicate() throws(Errno) -> OwnedDescriptor {
        OwnedDescriptor(adopting: try retryingIfInterrupted { shim_fcntl(rawValue, F_DUPFD_CLOEXEC, 0) })
    }
}

/// The descriptors that came with one message, in order; those that nobody takes are closed with the bundle.
///
/// A peer may attach descriptors to any message, so whatever a handler does not take must not leak.
public struct DescriptorBundle: ~Copyable, Sendable {
    private var rawValues: [Int32]

    public init() {
        rawValues = []
    }

    /// Takes over every descriptor in `descriptors`.
    public init(adopting descriptors: [Int32]) {
        rawValues = descriptors
    }

    deinit {
        for descriptor in rawValues { Glibc.close(descriptor) }
    }

    public var count: Int { rawValues.count }
    public var isEmpty: Bool { rawValues.isEmpty }

    /// Removes the first descriptor and hands it to the caller; `nil` when none is left.
    public mutating func takeFirst() -> OwnedDescriptor? {
        rawValues.isEmpty ? nil : OwnedDescriptor(adopting: rawValues.removeFirst())
    }

    /// Appends a descriptor, which the bundle now owns.
    public mutating func append(_ descriptor: consuming OwnedDescriptor) {
        rawValues.append(descriptor.take())
    }

    /// Moves every descriptor of `other` to the end of this bundle.
    public mutating func append(contentsOf other: consuming DescriptorBundle) {
        guard !other.isEmpty else { return }
        var other = other
        rawValues.append(contentsOf: other.rawValues)
        other.rawValues = []
    }

    /// Removes the first `count` descriptors, or all if there are not so many, and hands them to the caller.
    public mutating func takeFirst(_ count: Int) -> DescriptorBundle {
        guard count > 0, !isEmpty else { return DescriptorBundle() }
        let taken = DescriptorBundle(adopting: Array(rawValues.prefix(count)))
        rawValues.removeFirst(min(count, rawValues.count))
        return taken
    }

    /// A second set of descriptors for the same open files.
    public func duplicate() throws(Errno) -> DescriptorBundle {
        var copy = DescriptorBundle()
        for descriptor in rawValues {
            copy.rawValues.append(try retryingIfInterrupted { shim_fcntl(descriptor, F_DUPFD_CLOEXEC, 0) })
        }
        return copy
    }

    /// Lends the numbers for the duration of `body`.
    func withRawValues<Result, Failure: Error>(
        _ body: (UnsafeBufferPointer<Int32>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let result: Swift.Result<Result, Failure> = unsafe rawValues.withUnsafeBufferPointer { numbers in
            do throws(Failure) {
                return .success(unsafe try body(numbers))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}
