import DeviceModel
public import LinuxHost

/// Memory of a function in a base address register, which a client may map into a guest and the model reads and writes in
/// place.
///
/// All of a base address register or some of its pages; the rest are registers, as in any. Accesses by message see the same
/// bytes, without the model hearing of them. What a client has mapped it keeps for as long as it likes: while the function
/// is in D3hot, where messages reach nothing, and after it has left, when another client may have the function. Reset
/// leaves the bytes alone; a model whose reset is to clear them calls `clear()`.
///
/// The model and clients touch the bytes at the same time. Whatever is read from here is read once and then checked.
@safe
public final class BarMemory: Sendable {
    public let bar: Int
    /// What the session tells clients of it.
    let mappable: MappableMemory
    private let mapping: MemoryMapping

    /// Zeroed memory in some pages of a base address register.
    ///
    /// - Parameter areas: offsets in the base address register.
    /// - Precondition: `areas` are whole pages of 4 KiB, at least one, in ascending order and without overlap.
    /// - Throws: what the kernel answers when it has no descriptor or address space left.
    public init(bar: Int, areas: [Range<UInt64>]) throws(Errno) {
        guard let end = areas.last?.upperBound, let byteCount = Int(exactly: end) else {
            preconditionFailure("a memory without pages")
        }
        let file = try OwnedDescriptor.anonymousMemory(name: "outboard-bar", byteCount: byteCount)
        // Clients get the descriptor too, and must not pull the pages from under us or from under each other.
        try file.add([.shrink, .grow, .seal])
        mapping = try MemoryMapping(of: file, byteCount: byteCount, isWritable: true)
        mappable = MappableMemory(descriptor: file, areas: areas)
        self.bar = bar
    }

    /// Zeroed memory that is all of a base address register.
    public convenience init(_ bar: BaseAddressRegister) throws(Errno) {
        try self.init(bar: bar.index, areas: [0..<bar.byteCount])
    }

    public var areas: [Range<UInt64>] { mappable.areas }

    /// All bytes from the start of the base address register to the end of the last area. Those outside of the areas are of
    /// no use to anybody. Valid as long as the memory lives.
    @unsafe public var bytes: UnsafeMutableRawBufferPointer { unsafe mapping.bytes }

    /// Whether the byte at an offset is in an area. Areas are whole pages, so that a naturally aligned access is in one if
    /// its first byte is.
    public func contains(_ offset: UInt64) -> Bool { areas.contains { $0.contains(offset) } }

    /// Reads 1, 2, 4 or 8 bytes, naturally aligned, in one access.
    ///
    /// - Precondition: they lie in an area.
    public func read(at offset: UInt64, byteCount: Int) -> UInt64 {
        let place = place(of: offset, byteCount)
        // The areas lie within the mapping, and the file cannot shrink.
        return switch byteCount {
        case 1: UInt64(unsafe bytes.load(fromByteOffset: place, as: UInt8.self))
        case 2: UInt64(unsafe UInt16(littleEndian: bytes.load(fromByteOffset: place, as: UInt16.self)))
        case 4: UInt64(unsafe UInt32(littleEndian: bytes.load(fromByteOffset: place, as: UInt32.self)))
        default: unsafe UInt64(littleEndian: bytes.load(fromByteOffset: place, as: UInt64.self))
        }
    }

    /// Writes the 1, 2, 4 or 8 low bytes of `value`, naturally aligned, in one access.
    ///
    /// - Precondition: they lie in an area.
    public func write(_ value: UInt64, at offset: UInt64, byteCount: Int) {
        let place = place(of: offset, byteCount)
        // As for reads.
        switch byteCount {
        case 1: unsafe bytes.storeBytes(of: UInt8(truncatingIfNeeded: value), toByteOffset: place, as: UInt8.self)
        case 2:
            unsafe bytes.storeBytes(
                of: UInt16(truncatingIfNeeded: value).littleEndian, toByteOffset: place, as: UInt16.self)
        case 4:
            unsafe bytes.storeBytes(
                of: UInt32(truncatingIfNeeded: value).littleEndian, toByteOffset: place, as: UInt32.self)
        default: unsafe bytes.storeBytes(of: value.littleEndian, toByteOffset: place, as: UInt64.self)
        }
    }

    /// Fills every area with zeroes.
    public func clear() {
        for area in areas {
            unsafe UnsafeMutableRawBufferPointer(rebasing: bytes[Int(area.lowerBound)..<Int(area.upperBound)])
                .initializeMemory(as: UInt8.self, repeating: 0)
        }
    }

    private func place(of offset: UInt64, _ byteCount: Int) -> Int {
        precondition(
            contains(offset) && [1, 2, 4, 8].contains(byteCount) && offset % UInt64(byteCount) == 0,
            "accesses to memory are naturally aligned and lie in it")
        return Int(offset)
    }
}
