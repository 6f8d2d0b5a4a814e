public import DMA
public import LinuxHost

/// What happens to an IOMMU, for whoever keeps a log.
public enum IOMMUEvent: Sendable {
    /// A device was refused an access.
    case fault(IOMMUFault)
    /// A request that was not granted. The driver does not look at the status of most.
    case rejected(RejectedRequest)
    /// Devices keep pins on what the guest has unmapped, for a second already; its request is not answered before they let
    /// go. The first of the ranges, and how many others the same unmap has.
    case unmapWaits(IOVARange, others: Int)
    /// A device keeps pins, for a second already, so that its endpoint cannot be moved to where it is to be.
    case moveWaits(EndpointID)
}

/// A request that was not granted.
public struct RejectedRequest: Hashable, Sendable {
    public let number: UInt64
    /// `nil` for one that could not be read.
    public let request: IOMMURequest?
    public let status: IOMMUStatus
    /// How many before this one were too many in a second to be told of.
    public let suppressedCount: UInt64
}

/// An access that a device was refused.
public struct IOMMUFault: Hashable, Sendable {
    /// What the address was when the access came.
    public enum Cause: Hashable, Sendable {
        /// The endpoint is attached to no domain.
        case notAttached
        /// Nothing is or was mapped there.
        case neverMapped
        /// Nothing is mapped there, nor was among the tens of thousands of mappings that ended last.
        case notMapped
        /// What was mapped there is not any more: DMA after unmap.
        case unmapped(EndedMapping)
        /// It was mapped after the access, or just then.
        case notYetMapped(GuestMapping)
        /// It is mapped, but not for this.
        case notPermitted(GuestMapping)
        /// It is mapped, but leads to no guest memory that can be used so.
        case noMemory(GuestMapping)
        /// It cannot be mapped.
        case reserved(IOVARange)
        /// The domain ended before anybody could look.
        case domainEnded
    }

    public let endpoint: EndpointID
    /// `nil` if it is attached to none.
    public let domain: DomainID?
    /// The first address at which the access failed.
    public let address: IOVA
    /// What the device wanted to do.
    public let rights: AccessRights
    public let time: MonotonicInstant
    public let cause: Cause
    /// How many faults of the endpoint before this one were too many in a second to be told of.
    public let suppressedCount: UInt64

    var record: FaultRecord {
        FaultRecord(
            reason: cause == .notAttached ? .domain : .mapping, endpoint: endpoint, address: address, rights: rights)
    }
}

extension IOMMUEvent: CustomStringConvertible {
    /// A line for a log. It says nothing of events that were too many to be told of, which is for whoever sums them up.
    public var description: String {
        switch self {
        case .fault(let fault): fault.description
        case .rejected(let rejected): rejected.description
        case .unmapWaits(let range, let others):
            "an unmap of \(range)\(others == 0 ? "" : " and \(others) other ranges") waits for devices to let go"
        case .moveWaits(let endpoint): "endpoint \(endpoint) keeps memory that it is to be detached from"
        }
    }
}

extension RejectedRequest: CustomStringConvertible {
    public var description: String {
        "request \(number) refused with \(status): \(request.map(String.init(describing:)) ?? "unreadable")"
    }
}

extension IOMMUFault: CustomStringConvertible {
    public var description: String {
        let what = "endpoint \(endpoint) \(verb) \(address)"
        return switch cause {
        case .notAttached: "DMA of an endpoint that is attached to no domain: \(what)"
        case .neverMapped: "DMA to an address that was never mapped: \(what)\(place)"
        case .notMapped: "DMA to an address that is not mapped, and was not lately: \(what)\(place)"
        case .unmapped(let ended):
            "DMA after unmap: \(what), mapped \(age(ended.mapping.time)) before by request "
                + "\(ended.mapping.request) (\(ended.mapping)), unmapped \(age(ended.time)) before by request "
                + "\(ended.request)"
        case .notYetMapped(let mapping):
            "DMA before map: \(what), mapped \(age(mapping.time)) after by request \(mapping.request) (\(mapping))"
        case .notPermitted(let mapping):
            "DMA without permission: \(what), mapped \(age(mapping.time)) before by request \(mapping.request) "
                + "(\(mapping))"
        case .noMemory(let mapping):
            "DMA to what is no guest memory: \(what), mapped \(age(mapping.time)) before by request "
                + "\(mapping.request) (\(mapping))"
        case .reserved(let range):
            "DMA to reserved addresses: \(what), reserved \(range.hyphenated)"
        case .domainEnded: "DMA in a domain that has ended: \(what)\(place)"
        }
    }

    private var verb: String {
        switch rights {
        case .read: "read"
        case .write: "wrote"
        default: "held"
        }
    }

    private var place: String { domain.map { " in domain \($0)" } ?? "" }

    /// How far an instant is from the fault, in milliseconds with one digit behind the point.
    private func age(_ instant: MonotonicInstant) -> String {
        let tenths = (abs(time.nanoseconds - instant.nanoseconds) + 50_000) / 100_000
        return "\(tenths / 10).\(tenths % 10) ms"
    }
}

extension GuestMapping: CustomStringConvertible {
    public var description: String {
        "\(range.hyphenated) -> 0x\(String(physical, radix: 16)), \(rights)\(isMMIO ? " mmio" : "")"
    }
}

extension IOVARange {
    fileprivate var hyphenated: String { "\(first)-\(last)" }
}
