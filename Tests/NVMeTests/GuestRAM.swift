import DMA
import LinuxHost
import Synchronization

/// The memory of a guest that does not exist: bytes that a test touches directly and a device through an address space.
final class GuestRAM {
    enum Reach: CaseIterable {
        /// Mapped, as a client maps shared memory.
        case shared
        /// By messages only.
        case messages
        /// The odd pages mapped, the even ones by messages.
        case mixed
    }

    static let base: UInt64 = 0x10_0000
    static let byteCount = 8 << 20
    private static let pageByteCount = 4096

    let space = IOAddressSpace()
    private let object: MemoryObject
    private let interruptions = Interruptions([:])
    private var used = 0

    init(_ reach: Reach) throws {
        object = try MemoryObject.anonymous(byteCount: Self.byteCount)
        switch reach {
        case .shared:
            try space.map(
                .file(object, offset: 0), at: IOVA(Self.base), byteCount: UInt64(Self.byteCount),
                rights: [.read, .write])
        case .messages:
            try space.map(
                .remote(MessageMemory(object, interruptions)), at: IOVA(Self.base), byteCount: UInt64(Self.byteCount),
                rights: [.read, .write])
        case .mixed:
            for page in 0..<Self.byteCount / Self.pageByteCount {
                let offset = UInt64(page * Self.pageByteCount)
                let backing: MappingBacking =
                    page % 2 == 1 ? .file(object, offset: offset) : .remote(MessageMemory(object, interruptions))
                try space.map(
                    backing, at: IOVA(Self.base + offset), byteCount: UInt64(Self.pageByteCount),
                    rights: [.read, .write])
            }
        }
    }

    /// Zeroed pages that nobody else uses, by their device address.
    func allocate(_ byteCount: Int) -> UInt64 {
        let start = used
        used += (byteCount + Self.pageByteCount - 1) / Self.pageByteCount * Self.pageByteCount
        precondition(used <= Self.byteCount, "a test uses less memory than there is")
        return Self.base + UInt64(start)
    }

    /// Runs `body` just before the next message that writes to `address`, on the thread that sends it.
    func interruptMessage(to address: UInt64, with body: @escaping @Sendable () -> Void) {
        interruptions.withLock { $0[address] = body }
    }

    func write(_ bytes: [UInt8], at address: UInt64) {
        unsafe bytes.withUnsafeBytes { unsafe slice(address, bytes.count).copyMemory(from: $0) }
    }

    func write(_ words: [UInt64], at address: UInt64) {
        unsafe words.withUnsafeBytes { unsafe slice(address, words.count * 8).copyMemory(from: $0) }
    }

    func write(_ dwords: [UInt32], at address: UInt64) {
        unsafe dwords.withUnsafeBytes { unsafe slice(address, dwords.count * 4).copyMemory(from: $0) }
    }

    func read(_ address: UInt64, _ byteCount: Int) -> [UInt8] { unsafe Array(slice(address, byteCount)) }

    /// A dword that a device may be writing at this moment; what it wrote before is then visible, too.
    func poll(_ address: UInt64) -> UInt32 {
        unsafe slice(address, 4).baseAddress.unsafelyUnwrapped.assumingMemoryBound(to: Atomic<UInt32>.self)
            .pointee.load(ordering: .acquiring)
    }

    private func slice(_ address: UInt64, _ byteCount: Int) -> UnsafeMutableRawBufferPointer {
        let offset = Int(address - Self.base)
        return unsafe UnsafeMutableRawBufferPointer(rebasing: object.bytes[offset..<offset + byteCount])
    }
}

/// What is to happen just before messages to addresses.
private typealias Interruptions = Monitor<[UInt64: @Sendable () -> Void]>

/// Guest memory on the other side of a connection.
private struct MessageMemory: RemoteMemory {
    let object: MemoryObject
    let interruptions: Interruptions

    init(_ object: MemoryObject, _ interruptions: Interruptions) {
        self.object = object
        self.interruptions = interruptions
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        let offset = Int(iova.rawValue - GuestRAM.base)
        unsafe buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: object.bytes[offset..<offset + buffer.count]))
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        let interruption = interruptions.withLock { $0.removeValue(forKey: iova.rawValue) }
        interruption?()
        let offset = Int(iova.rawValue - GuestRAM.base)
        unsafe UnsafeMutableRawBufferPointer(rebasing: object.bytes[offset..<offset + bytes.count]).copyMemory(
            from: bytes)
    }
}
