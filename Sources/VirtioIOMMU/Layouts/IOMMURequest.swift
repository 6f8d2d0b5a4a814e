/// What the driver asks of the IOMMU, in the part of a buffer that the device reads.
///
///     offset  size
///        0      1   type
///        1      3   reserved, ignored
///        4          fields, in the order of the properties below
public enum IOMMURequest: Hashable, Sendable {
    case attach(AttachRequest)
    case detach(DetachRequest)
    case map(MapRequest)
    case unmap(UnmapRequest)
    case probe(ProbeRequest)

    /// The number in the first byte. `VIRTIO_IOMMU_T_*`
    public enum Kind: UInt8, Hashable, Sendable {
        case attach = 1
        case detach = 2
        case map = 3
        case unmap = 4
        case probe = 5

        /// The size of the readable part.
        var byteCount: Int {
            switch self {
            case .attach, .detach: 20
            case .map: 36
            case .unmap: 28
            case .probe: 72
            }
        }
    }

    /// The size of what every request begins with. `struct virtio_iommu_req_head`
    static let headByteCount = 4
    /// - Throws: `invalid` for a request that is too short, has an unknown flag, or has something in a reserved field that
    ///   must be zero.
    init(_ kind: Kind, parsing bytes: Span<UInt8>) throws(IOMMUStatus) {
        guard bytes.count >= kind.byteCount else { throw .invalid }
        switch kind {
        case .attach: self = .attach(try AttachRequest(parsing: bytes))
        case .detach: self = .detach(DetachRequest(parsing: bytes))
        case .map: self = .map(try MapRequest(parsing: bytes))
        case .unmap: self = .unmap(UnmapRequest(parsing: bytes))
        case .probe: self = .probe(ProbeRequest(parsing: bytes))
        }
    }
}

/// `struct virtio_iommu_req_attach`
public struct AttachRequest: Hashable, Sendable {
    public let domain: DomainID
    public let endpoint: EndpointID
    /// Whether the domain is one that translates nothing. `VIRTIO_IOMMU_ATTACH_F_BYPASS`
    public let isBypass: Bool

    init(domain: DomainID, endpoint: EndpointID, isBypass: Bool = false) {
        self.domain = domain
        self.endpoint = endpoint
        self.isBypass = isBypass
    }

    fileprivate init(parsing bytes: Span<UInt8>) throws(IOMMUStatus) {
        domain = DomainID(bytes.integer(at: 4))
        endpoint = EndpointID(bytes.integer(at: 8))
        let flags: UInt32 = bytes.integer(at: 12)
        let reserved: UInt32 = bytes.integer(at: 16)
        guard reserved == 0, flags & ~1 == 0 else { throw .invalid }
        isBypass = flags & 1 != 0
    }
}

/// `struct virtio_iommu_req_detach`
public struct DetachRequest: Hashable, Sendable {
    public let domain: DomainID
    public let endpoint: EndpointID

    init(domain: DomainID, endpoint: EndpointID) {
        self.domain = domain
        self.endpoint = endpoint
    }

    fileprivate init(parsing bytes: Span<UInt8>) {
        domain = DomainID(bytes.integer(at: 4))
        endpoint = EndpointID(bytes.integer(at: 8))
    }
}

/// `struct virtio_iommu_req_map`
public struct MapRequest: Hashable, Sendable {
    /// `VIRTIO_IOMMU_MAP_F_*`
    public struct Flags: OptionSet, Hashable, Sendable {
        public let rawValue: UInt32

        public init(rawValue: UInt32) {
            self.rawValue = rawValue
        }

        public static let read = Flags(rawValue: 1)
        public static let write = Flags(rawValue: 2)
        /// Behind the addresses is no memory but the registers of something.
        public static let mmio = Flags(rawValue: 4)
    }

    public let domain: DomainID
    /// The first and the last address; nobody has looked whether that is a range.
    public let first: UInt64
    public let last: UInt64
    /// Where in guest memory the first address leads.
    public let physical: UInt64
    public let flags: Flags

    init(domain: DomainID, first: UInt64, last: UInt64, physical: UInt64, flags: Flags) {
        self.domain = domain
        self.first = first
        self.last = last
        self.physical = physical
        self.flags = flags
    }

    fileprivate init(parsing bytes: Span<UInt8>) throws(IOMMUStatus) {
        domain = DomainID(bytes.integer(at: 4))
        first = bytes.integer(at: 8)
        last = bytes.integer(at: 16)
        physical = bytes.integer(at: 24)
        flags = Flags(rawValue: bytes.integer(at: 32))
        guard flags.isSubset(of: [.read, .write, .mmio]) else { throw .invalid }
    }
}

/// `struct virtio_iommu_req_unmap`
public struct UnmapRequest: Hashable, Sendable {
    public let domain: DomainID
    /// The first and the last address; nobody has looked whether that is a range.
    public let first: UInt64
    public let last: UInt64

    init(domain: DomainID, first: UInt64, last: UInt64) {
        self.domain = domain
        self.first = first
        self.last = last
    }

    fileprivate init(parsing bytes: Span<UInt8>) {
        domain = DomainID(bytes.integer(at: 4))
        first = bytes.integer(at: 8)
        last = bytes.integer(at: 16)
    }
}

/// `struct virtio_iommu_req_probe`
public struct ProbeRequest: Hashable, Sendable {
    public let endpoint: EndpointID

    init(endpoint: EndpointID) {
        self.endpoint = endpoint
    }

    fileprivate init(parsing bytes: Span<UInt8>) {
        endpoint = EndpointID(bytes.integer(at: 4))
    }
}

extension IOMMURequest: CustomStringConvertible {
    public var description: String {
        switch self {
        case .attach(let request):
            "attach endpoint \(request.endpoint) to \(request.isBypass ? "bypass " : "")domain \(request.domain)"
        case .detach(let request): "detach endpoint \(request.endpoint) from domain \(request.domain)"
        case .map(let request):
            "map 0x\(String(request.first, radix: 16))-0x\(String(request.last, radix: 16)) -> "
                + "0x\(String(request.physical, radix: 16)), \(request.flags) in domain \(request.domain)"
        case .unmap(let request):
            "unmap 0x\(String(request.first, radix: 16))-0x\(String(request.last, radix: 16)) "
                + "in domain \(request.domain)"
        case .probe(let request): "probe endpoint \(request.endpoint)"
        }
    }
}

extension MapRequest.Flags: CustomStringConvertible {
    public var description: String {
        (contains(.read) ? "r" : "-") + (contains(.write) ? "w" : "-") + (contains(.mmio) ? " mmio" : "")
    }
}
