import Synchronization

/// The memory of mapping records: chunks of 64 KiB with a thousand records each, given back when none is left in one.
@safe
struct MappingSlab: ~Copyable {
    /// Stands where the first record of a chunk would be.
    @safe
    private struct Header {
        /// Free records, each holding the address of the next.
        var firstFree: UnsafeMutableRawPointer?
        var freeCount: Int
        /// Where the chunk stands in `available`, `nil` when no record of it is free.
        var position: Int?
    }

    private typealias Chunk = UnsafeMutablePointer<Header>

    private static var chunkSize: Int { 64 << 10 }
    private static var recordSize: Int { 64 }
    private static var recordCount: Int { chunkSize / recordSize - 1 }

    /// The chunks with free records.
    private var available: [Chunk] = unsafe []
    private var nextSerial: UInt64 = 0

    init() {
        precondition(MemoryLayout<MappingRecord>.stride == MappingSlab.recordSize, "a record is a cache line")
    }

    deinit {
        for index in unsafe available.indices {
            let chunk = unsafe available[index]
            precondition(unsafe chunk.pointee.freeCount == MappingSlab.recordCount, "a mapping outlives its space")
            unsafe chunk.deallocate()
        }
    }

    /// A record for a new mapping, which it keeps the memory of alive.
    mutating func makeMapping(
        range: IOVARange, backing: Backing, rights: AccessRights, grantableRights: AccessRights, inTransition: Bool
    ) -> Mapping {
        let record = unsafe allocate().bindMemory(to: MappingRecord.self, capacity: 1)
        nextSerial += 1
        let state = inTransition ? MappingState.inTransition : 0
        switch backing {
        case .file(let object, let offset):
            unsafe record.initialize(
                to: MappingRecord(
                    state: .init(state), range: range, host: object.bytes.baseAddress?.advanced(by: Int(offset)),
                    memory: Unmanaged.passRetained(object), offset: offset, rights: rights,
                    grantableRights: grantableRights, serial: nextSerial))
        case .remote(let link, let shift):
            unsafe record.initialize(
                to: MappingRecord(
                    state: .init(state), range: range, host: nil, memory: Unmanaged.passRetained(link), offset: shift,
                    rights: rights, grantableRights: grantableRights, serial: nextSerial))
        }
        return unsafe Mapping(record: record)
    }

    /// Takes back a record that nobody can reach any more. The memory it kept alive must have been released.
    mutating func free(_ mapping: Mapping) {
        unsafe mapping.record.deinitialize(count: 1)
        let record = unsafe UnsafeMutableRawPointer(mapping.record)
        // Chunks are aligned to their size.
        let offset = Int(bitPattern: record) & (MappingSlab.chunkSize - 1)
        let chunk = unsafe (record - offset).assumingMemoryBound(to: Header.self)
        unsafe record.storeBytes(of: chunk.pointee.firstFree, as: UnsafeMutableRawPointer?.self)
        unsafe chunk.pointee.firstFree = record
        unsafe chunk.pointee.freeCount += 1
        if unsafe chunk.pointee.position == nil {
            unsafe chunk.pointee.position = available.count
            unsafe available.append(chunk)
        } else if unsafe chunk.pointee.freeCount == MappingSlab.recordCount && available.count > 1 {
            unsafe remove(chunk)
            unsafe chunk.deallocate()
        }
    }

    private mutating func allocate() -> UnsafeMutableRawPointer {
        if unsafe available.isEmpty { addChunk() }
        let chunk = unsafe available[available.count - 1]
        guard let record = unsafe chunk.pointee.firstFree else { preconditionFailure("an available chunk has records") }
        unsafe chunk.pointee.firstFree = record.load(as: UnsafeMutableRawPointer?.self)
        unsafe chunk.pointee.freeCount -= 1
        if unsafe chunk.pointee.freeCount == 0 { unsafe remove(chunk) }
        return unsafe record
    }

    private mutating func addChunk() {
        let memory = UnsafeMutableRawPointer.allocate(
            byteCount: MappingSlab.chunkSize, alignment: MappingSlab.chunkSize)
        let chunk = unsafe memory.bindMemory(to: Header.self, capacity: 1)
        unsafe chunk.initialize(
            to: Header(firstFree: nil, freeCount: MappingSlab.recordCount, position: available.count))
        for index in (1...MappingSlab.recordCount).reversed() {
            let record = unsafe memory + index * MappingSlab.recordSize
            unsafe record.storeBytes(of: chunk.pointee.firstFree, as: UnsafeMutableRawPointer?.self)
            unsafe chunk.pointee.firstFree = record
        }
        unsafe available.append(chunk)
    }

    /// Takes a chunk off the list of those with free records.
    private mutating func remove(_ chunk: Chunk) {
        guard let position = unsafe chunk.pointee.position else { return }
        let last = unsafe available.removeLast()
        if unsafe last != chunk {
            unsafe available[position] = last
            unsafe last.pointee.position = position
        }
        unsafe chunk.pointee.position = nil
    }
}
