import LinuxHost

/// Questions a front end asks before it maps or unmaps on somebody's behalf.
extension IOAddressSpace {
    /// Whether exactly this mapping is there: the same range, rights and memory. A second copy of a request that was
    /// carried out already can be told from a conflict by it.
    public func hasMapping(_ backing: MappingBacking, at range: IOVARange, rights: AccessRights) -> Bool {
        state.withLock { state in
            guard let mapping = state.table.mapping(at: range.first) else { return false }
            return mapping.range == range && mapping.rights == rights && !mapping.state.isBlocked
                && mapping.backing.isSame(as: backing)
        }
    }

    /// Whether a mapping lies partly inside and partly outside a range, so that an unmap of the range would have to
    /// split it, which it refuses.
    ///
    /// - Parameter earlier: ranges that are going to be unmapped before; what lies wholly in one of them does not count.
    public func splitsMapping(_ range: IOVARange, after earlier: [IOVARange] = []) -> Bool {
        state.withLock { $0.splitsMapping(range, after: earlier[...]) }
    }

    /// Where an access to a range with these rights fails first, and why; `nil` when all of it would be let through.
    ///
    /// For whoever reports a fault after an access has failed. It says what is so now, which may be other than what the
    /// access met. A mapping that consumers are just being told of is not there, as for accesses.
    public func firstFault(in range: IOVARange, for rights: AccessRights) -> AccessFault? {
        state.withLock { state in
            var next = range.first
            for mapping in state.table.mappings(overlapping: range) {
                let state = mapping.state
                if mapping.range.first > next || state.isInTransition { break }
                if state.isBlocked { return AccessFault(address: next, reason: .closed) }
                guard mapping.rights.isSuperset(of: rights) else {
                    return AccessFault(address: next, reason: .notPermitted)
                }
                guard mapping.range.last < range.last, let successor = mapping.range.last.successor else { return nil }
                next = successor
            }
            return AccessFault(address: next, reason: .notMapped)
        }
    }
}

/// The first address at which an access fails, and why.
public struct AccessFault: Hashable, Sendable {
    public enum Reason: Hashable, Sendable {
        /// There is no mapping. The access is told `ENOENT`.
        case notMapped
        /// An unmap has closed the mapping, and may be waiting for pins. `EINVAL`
        case closed
        /// The mapping lacks a right. `EPERM`
        case notPermitted
    }

    public let address: IOVA
    public let reason: Reason

    public init(address: IOVA, reason: Reason) {
        self.address = address
        self.reason = reason
    }
}

extension Backing {
    /// Whether a mapping of `other` would show the same bytes. Remote memory of one kind is all the peer's, whichever
    /// instance stands for it.
    fileprivate func isSame(as other: MappingBacking) -> Bool {
        switch (self, other) {
        case (.file(let object, let offset), .file(let otherObject, let otherOffset)):
            object === otherObject && offset == otherOffset
        case (.remote(let link, let shift), .remote(let other)): shift == 0 && type(of: link.memory) == type(of: other)
        case (.file, .remote), (.remote, .file): false
        }
    }
}
