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
