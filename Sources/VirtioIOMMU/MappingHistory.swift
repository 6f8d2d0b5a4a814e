import DMA
import LinuxHost

/// The mappings that ended last, in all domains, for whoever wants to know what an address was.
struct MappingHistory: Sendable {
    struct Entry: Sendable {
        let domain: DomainSerial
        let ended: EndedMapping
    }

    /// How many are kept: a program that unmaps 256 MiB page by page and then goes astray is told so, at 80 bytes for each.
    static let capacity = 1 << 16

    private var entries: [Entry] = []
    /// Where the next entry goes once there are as many as are kept.
    private var next = 0
    /// Whether some are not known any more.
    private(set) var hasForgotten = false

    mutating func append(_ entry: Entry) {
        if entries.count < Self.capacity {
            entries.append(entry)
        } else {
            hasForgotten = true
            entries[next] = entry
            next = (next + 1) % Self.capacity
        }
    }

    /// The last mapping of a domain that held an address and was there already at a time.
    func last(at iova: IOVA, in domain: DomainSerial, mappedBefore time: MonotonicInstant) -> EndedMapping? {
        for part in [entries[..<next], entries[next...]] {
            let entry = part.last {
                $0.domain == domain && $0.ended.mapping.range.contains(iova) && $0.ended.mapping.time <= time
            }
            if let entry { return entry.ended }
        }
        return nil
    }
}

/// The number of a domain among all there ever were; the guest uses its own numbers again.
struct DomainSerial: Hashable, Sendable {
    let rawValue: UInt64
}
