import DMA
import Synchronization

/// A queue on the driver's side, in guest memory that begins at address zero.
///
///     +0x0000 descriptors    +0x1000 available    +0x2000 used
public final class DriverQueue {
    public static let size = 256

    let number: Int
    let descriptors, available, used: UInt64
    private let memory: MemoryObject
    private var availableIndex: UInt16 = 0
    private var usedIndex: UInt16 = 0
    /// The next descriptor of the table that a chain may begin with.
    private var nextDescriptor = 0

    private static let readablePlace = 0x8000
    private static let writablePlace = 0x10000
    private static let eventPlace = 0x50000
    private static let tablePlace = 0x60000

    init(_ memory: MemoryObject, number: Int, at start: UInt64) {
        self.memory = memory
        self.number = number
        (descriptors, available, used) = (start, start + 0x1000, start + 0x2000)
    }

    /// As new.
    func forget() {
        (availableIndex, usedIndex, nextDescriptor) = (0, 0, 0)
        for place in Int(descriptors)..<Int(descriptors) + 0x4000 { unsafe memory.bytes[place] = 0 }
    }

    func store<Value: FixedWidthInteger>(_ value: Value, at address: UInt64) {
        unsafe memory.bytes.storeBytes(of: value.littleEndian, toByteOffset: Int(address), as: Value.self)
    }

    func load<Value: FixedWidthInteger>(_ address: UInt64, as: Value.Type) -> Value {
        Value(littleEndian: unsafe memory.bytes.load(fromByteOffset: Int(address), as: Value.self))
    }

    private func setDescriptor(
        _ index: Int, in table: UInt64, address: UInt64, byteCount: Int, flags: UInt16, next: Int
    ) {
        let place = table + UInt64(index * 16)
        store(address, at: place)
        store(UInt32(byteCount), at: place + 8)
        store(flags, at: place + 12)
        store(UInt16(next), at: place + 14)
    }

    /// Lays a request out, in memory of its own for each slot, and its descriptors.
    ///
    /// - Returns: the descriptor that it begins with, and where the device writes.
    public func lay(_ chain: RequestChain, slot: Int) -> (head: Int, writable: Range<Int>) {
        var pieces: [(address: Int, byteCount: Int, flags: UInt16)] = []
        var place = Self.readablePlace + slot * 128
        for bytes in chain.readable {
            unsafe memory.bytes[place..<place + bytes.count].copyBytes(from: bytes)
            pieces.append((place, bytes.count, 0))
            place += bytes.count
        }
        let start = Self.writablePlace + slot * 1024
        place = start
        for count in chain.writable {
            for byte in place..<place + count { unsafe memory.bytes[byte] = 0xee }
            pieces.append((place, count, 2))
            place += count
        }
        let needed = chain.isIndirect ? 1 : pieces.count
        if nextDescriptor + needed > Self.size { nextDescriptor = 0 }
        let head = nextDescriptor
        nextDescriptor += needed
        let table = chain.isIndirect ? UInt64(Self.tablePlace + slot * 512) : descriptors
        let first = chain.isIndirect ? 0 : head
        for (index, piece) in pieces.enumerated() {
            let isLast = index + 1 == pieces.count
            setDescriptor(
                first + index, in: table, address: UInt64(piece.address), byteCount: piece.byteCount,
                flags: piece.flags | (isLast ? 0 : 1), next: isLast ? 0 : first + index + 1)
        }
        if chain.isIndirect {
            setDescriptor(head, in: descriptors, address: table, byteCount: pieces.count * 16, flags: 4, next: 0)
        }
        return (head, start..<place)
    }

    public func bytes(of range: Range<Int>) -> [UInt8] { unsafe Array(memory.bytes[range]) }

    func layEventBuffer(slot: Int, byteCount: Int) -> Int {
        let place = Self.eventPlace + slot * 32
        setDescriptor(slot, in: descriptors, address: UInt64(place), byteCount: byteCount, flags: 2, next: 0)
        return slot
    }

    func bytes(ofEventBuffer slot: Int) -> [UInt8] {
        bytes(of: Self.eventPlace + slot * 32..<Self.eventPlace + slot * 32 + 32)
    }

    /// Makes chains available; the index comes last, after everything else.
    public func offer(_ heads: [Int]) {
        for head in heads {
            store(UInt16(head), at: available + 4 + UInt64(Int(availableIndex) % Self.size * 2))
            availableIndex &+= 1
        }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        store(availableIndex, at: available + 2)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }

    /// The next used entry, if there is one.
    public func nextUsed() -> (head: Int, byteCount: Int)? {
        guard load(used + 2, as: UInt16.self) != usedIndex else { return nil }
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        let place = used + 4 + UInt64(Int(usedIndex) % Self.size * 8)
        usedIndex &+= 1
        return (Int(load(place, as: UInt32.self)), Int(load(place + 4, as: UInt32.self)))
    }

    /// How many entries the device has used since the last that was looked at.
    public var usedCount: Int { Int(load(used + 2, as: UInt16.self) &- usedIndex) }
}
