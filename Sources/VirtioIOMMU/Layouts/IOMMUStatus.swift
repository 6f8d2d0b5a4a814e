/// What a request comes to, as its tail says. `VIRTIO_IOMMU_S_*`
public enum IOMMUStatus: UInt8, Error, Hashable, Sendable {
    case ok = 0
    case inputOutput = 1
    case notSupported = 2
    case deviceError = 3
    case invalid = 4
    case outOfRange = 5
    case notFound = 6
    case badAddress = 7
    case outOfMemory = 8

    /// The tail of every request: the status, then three bytes of zero. `struct virtio_iommu_req_tail`
    static let tailByteCount = 4

    var tail: InlineArray<4, UInt8> { [rawValue, 0, 0, 0] }
}

extension IOMMUStatus: CustomStringConvertible {
    /// The status as the standard spells it, without the prefix.
    public var description: String {
        switch self {
        case .ok: "OK"
        case .inputOutput: "IOERR"
        case .notSupported: "UNSUPP"
        case .deviceError: "DEVERR"
        case .invalid: "INVAL"
        case .outOfRange: "RANGE"
        case .notFound: "NOENT"
        case .badAddress: "FAULT"
        case .outOfMemory: "NOMEM"
        }
    }
}
