import LinuxHost
import Synchronization

/// What stands behind the addresses of a mapping.
public enum MappingBacking: Sendable {
    /// Memory of this process: the object's bytes from `offset` on.
    case file(MemoryObject, offset: UInt64)
    /// Memory that only messages reach. Each mapping needs an instance of its own.
    case remote(any RemoteMemory)
}

/// Memory in another process that is reached by messages: it can be read and written, but never pinned.
///
/// Called on any thread, several at a time, with no lock held.
public protocol RemoteMemory: Sendable {
    /// Fills the buffer from the peer's memory at `iova`.
    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError)
    /// Writes all bytes to the peer's memory at `iova`.
    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError)
    /// The mapping is going: transfers under way fail, and so do those that another thread was just about to start.
    ///
    /// Called once, with no lock held, before the `unmap` that removes the mapping returns (or when the address space
    /// goes); for memory that was copied, when the last of its mappings is removed. `unmap` does not wait for transfers:
    /// they touch no memory of this process.
    func revoke()
}

extension RemoteMemory {
    public func revoke() {}
}

/// Somebody who needs every mapping pushed: a second page table, another vfio-user server.
///
/// Called on the thread that maps, unmaps, attaches or detaches, with no lock held, for one change of a mapping at a
/// time but for several mappings at once. It must not call back into the address space. Counterpart of iommufd's
/// `iommu_domain`.
public protocol MappingConsumer: Sendable {
    /// The addresses it can translate; the rest of the space becomes reserved.
    var aperture: IOVARange { get }
    /// The size, a power of two, of which every mapping must be a multiple.
    var granule: UInt64 { get }
    /// Takes over a mapping. What it throws makes the caller's operation fail with nothing changed.
    func map(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) throws(DMAError)
    /// Forgets a mapping that it took over; returns when nothing reaches the memory through it any more.
    func unmap(_ range: IOVARange)
}

/// A backing as the address space keeps it.
enum Backing: Sendable {
    case file(MemoryObject, offset: UInt64)
    /// The peer knows the byte at an address of ours under that address plus `shift`, modulo 2^64: zero where it was
    /// mapped, something else where it was copied to.
    case remote(RemoteLink, shift: UInt64)

    /// What the alignment rules look at.
    var address: UInt64 {
        switch self {
        case .file(_, let offset): offset
        case .remote: 0
        }
    }

    /// The backing as consumers are told of it.
    var published: MappingBacking {
        switch self {
        case .file(let object, let offset): .file(object, offset: offset)
        case .remote(let link, shift: 0): .remote(link.memory)
        case .remote(let link, let shift): .remote(ShiftedRemoteMemory(base: link.memory, shift: shift))
        }
    }
}

/// Remote memory and the number of mappings that name it.
final class RemoteLink: Sendable {
    let memory: any RemoteMemory
    private let mappingCount = Atomic<Int>(1)

    init(_ memory: any RemoteMemory) {
        self.memory = memory
    }

    /// Counts a mapping more. The caller sees to it that one is there, by the lock of its address space.
    func retain() {
        mappingCount.wrappingAdd(1, ordering: .relaxed)
    }

    /// Counts a mapping less and revokes the memory after the last. Called with no lock held.
    func release() {
        let count = mappingCount.wrappingSubtract(1, ordering: .acquiringAndReleasing).newValue
        guard count == 0 else { return }
        LockChecker.callsBack()
        memory.revoke()
    }
}

/// Remote memory under other addresses than its peer's.
private struct ShiftedRemoteMemory: RemoteMemory {
    let base: any RemoteMemory
    let shift: UInt64

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        unsafe try base.read(at: IOVA(iova.rawValue &+ shift), into: buffer)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        unsafe try base.write(bytes, at: IOVA(iova.rawValue &+ shift))
    }
}
