public import LinuxHost

/// The memory objects of one client, found again by the file they show.
///
/// A client that runs a virtual IOMMU sends a descriptor for the same memfd with each of a hundred thousand mappings.
/// The cache closes it and answers with the object that shows that file already, so that a mapping costs neither an
/// `mmap` nor a descriptor. It keeps no object alive: that is for the mappings to do.
///
/// Usable from any thread. Its lock is held for the `mmap` of a new object and for nothing else that takes time.
public final class MemoryObjectCache: Sendable {
    /// A read-only descriptor must not find the writable object of the same file, whose rights it does not have.
    private struct Key: Hashable {
        let identity: FileStatus.Identity
        let isWritable: Bool
    }

    private struct Entry {
        weak var object: MemoryObject?
    }

    private struct State {
        var entries: [Key: Entry] = [:]
        /// The number of entries at which those whose object is gone are dropped.
        var sweepThreshold = 16
    }

    private let state = Monitor(State(), as: .objectCache)

    public init() {}

    /// The object that shows the descriptor's file with the rights the descriptor has. The descriptor is closed whatever
    /// happens.
    ///
    /// A file whose size has changed since gets a new object; mappings and pins of the old one keep it.
    ///
    /// - Throws: as `MemoryObject.init(adopting:)`.
    public func object(adopting descriptor: consuming OwnedDescriptor) throws(DMAError) -> MemoryObject {
        let file = try MemoryFile(descriptor)
        let key = Key(identity: file.identity, isWritable: file.isWritable)
        return try object(for: key, file, descriptor)
    }

    private func object(
        for key: Key, _ file: MemoryFile, _ descriptor: borrowing OwnedDescriptor
    ) throws(DMAError) -> MemoryObject {
        try state.withLock { (state) throws(DMAError) -> MemoryObject in
            if let object = state.entries[key]?.object, object.byteCount == file.byteCount { return object }
            let object = try MemoryObject(mapping: descriptor, as: file)
            state.entries[key] = Entry(object: object)
            if state.entries.count >= state.sweepThreshold {
                state.entries = state.entries.filter { $0.value.object != nil }
                state.sweepThreshold = max(16, state.entries.count * 2)
            }
            return object
        }
    }
}
