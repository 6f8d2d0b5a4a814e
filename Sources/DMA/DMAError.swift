public import LinuxHost

/// Why an operation on an address space was refused. Each case means one Linux error number.
public enum DMAError: Error, Hashable, Sendable {
    /// The mapping or its backing does not grant the rights asked for. `EPERM`
    case notPermitted
    /// Nothing is mapped there, a mapping would have to be split, or the access is not attached. `ENOENT`
    case notFound
    /// A transfer to remote memory failed. `EIO`
    case inputOutput
    /// `ENOMEM`
    case outOfMemory
    /// A descriptor that does not allow reading. `EACCES`
    case accessDenied
    /// The backing cannot be reached. `EFAULT`
    case badAddress
    /// Another operation on the same mapping or access is under way. `EBUSY`
    case busy
    /// Something is mapped there already. `EEXIST`
    case exists
    /// The access was destroyed, or the file cannot be memory. `ENODEV`
    case noDevice
    /// The request makes no sense as such. `EINVAL`
    case invalid
    /// No hole is large enough, or there are too many mappings. `ENOSPC`
    case noSpace
    /// Somebody keeps pins although asked to let go. `EDEADLOCK`
    case deadlock
    /// An address or size past 64 bits. `EOVERFLOW`
    case overflow
    /// `EOPNOTSUPP`
    case notSupported
    /// Something that exists already forbids the change. `EADDRINUSE`
    case addressInUse
    /// The transfer's mapping went away meanwhile. `ECANCELED`
    case cancelled
    /// A number with no case of its own, from a system call or a peer; `init(errno:)` makes it for no other.
    case other(errno: Int32)

    /// The Linux error number.
    public var errno: Int32 {
        switch self {
        case .notPermitted: 1
        case .notFound: 2
        case .inputOutput: 5
        case .outOfMemory: 12
        case .accessDenied: 13
        case .badAddress: 14
        case .busy: 16
        case .exists: 17
        case .noDevice: 19
        case .invalid: 22
        case .noSpace: 28
        case .deadlock: 35
        case .overflow: 75
        case .notSupported: 95
        case .addressInUse: 98
        case .cancelled: 125
        case .other(let number): number
        }
    }

    /// The error with a Linux error number.
    public init(errno number: Int32) {
        self = DMAError.named.first { $0.errno == number } ?? .other(errno: number)
    }

    public init(_ error: Errno) {
        self.init(errno: error.rawValue)
    }

    private static let named: [DMAError] = [
        .notPermitted, .notFound, .inputOutput, .outOfMemory, .accessDenied, .badAddress, .busy, .exists, .noDevice,
        .invalid, .noSpace, .deadlock, .overflow, .notSupported, .addressInUse, .cancelled,
    ]
}

/// What may be done to memory through a mapping.
public struct AccessRights: OptionSet, Hashable, Sendable {
    public let rawValue: UInt8

    public init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// `IOMMU_IOAS_MAP_READABLE`
    public static let read = AccessRights(rawValue: 1)
    /// `IOMMU_IOAS_MAP_WRITEABLE`
    public static let write = AccessRights(rawValue: 2)
}

extension AccessRights: CustomStringConvertible {
    public var description: String { (contains(.read) ? "r" : "-") + (contains(.write) ? "w" : "-") }
}
