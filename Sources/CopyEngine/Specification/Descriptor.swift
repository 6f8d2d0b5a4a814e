import DMA

/// An entry of the command ring or the work ring, as the driver wrote it.
///
///     0 opcode | 1 flags | 2 options | 4 source PASID | 8 PASID | 12 zero
///     16 source | 24 address | 32 length | 40 completion address | 48 tag | 56 zero
struct Descriptor: Sendable {
    static let byteCount = 64
    typealias Words = InlineArray<8, UInt64>

    struct Flags: OptionSet {
        let rawValue: UInt8

        static let writesCompletion = Flags(rawValue: 1 << 0)
        static let interrupts = Flags(rawValue: 1 << 1)
        static let fence = Flags(rawValue: 1 << 2)
        static let known: Flags = [.writesCompletion, .interrupts, .fence]
    }

    let opcode: UInt8
    let flags: Flags
    let options: UInt16
    /// Zero for none.
    let sourcePASID, pasid: UInt32
    let source, address, length: UInt64
    let completionAddress: IOVA
    let tag: UInt64
    /// Whether what should be zero is.
    private let hasZeroes: Bool

    /// - Parameter words: in the order of the processor.
    init(parsing words: Words) {
        opcode = UInt8(truncatingIfNeeded: words[0])
        flags = Flags(rawValue: UInt8(truncatingIfNeeded: words[0] >> 8))
        options = UInt16(truncatingIfNeeded: words[0] >> 16)
        sourcePASID = UInt32(truncatingIfNeeded: words[0] >> 32)
        pasid = UInt32(truncatingIfNeeded: words[1])
        source = words[2]
        address = words[3]
        length = words[4]
        completionAddress = IOVA(words[5])
        tag = words[6]
        hasZeroes = words[1] >> 32 == 0 && words[7] == 0
    }

    /// The fields that an opcode uses; the others are zero.
    struct Fields: OptionSet {
        let rawValue: UInt8

        static let sourcePASID = Fields(rawValue: 1 << 0)
        static let pasid = Fields(rawValue: 1 << 1)
        static let source = Fields(rawValue: 1 << 2)
        static let address = Fields(rawValue: 1 << 3)
        static let length = Fields(rawValue: 1 << 4)
    }

    /// - Throws: `invalidDescriptor` when there is something in a field that is not used, or an option or flag is none.
    func check(_ fields: Fields, options known: UInt16 = 0, flags: Flags) throws(EngineFailure) {
        let unused =
            (fields.contains(.sourcePASID) ? 0 : UInt64(sourcePASID)) | (fields.contains(.pasid) ? 0 : UInt64(pasid))
            | (fields.contains(.source) ? 0 : source) | (fields.contains(.address) ? 0 : address)
            | (fields.contains(.length) ? 0 : length) | UInt64(options & ~known)
            | (self.flags.contains(.writesCompletion) ? 0 : completionAddress.rawValue)
        guard unused == 0, hasZeroes, self.flags.isSubset(of: flags) else { throw .invalidDescriptor }
    }
}

/// What a piece of work does.
enum Work: Sendable {
    case nothing
    case copy(from: Operand, to: Operand)
    case fill(Operand, pattern: UInt64)

    /// A range in an address space, or without one in memory.
    struct Operand: Sendable {
        let pasid: UInt32
        let range: IOVARange
    }

    private static let maximumLength: UInt64 = 1 << 32

    init(_ descriptor: Descriptor) throws(EngineFailure) {
        let flags = Descriptor.Flags.known
        switch descriptor.opcode {
        case 0x00:
            try descriptor.check([], flags: flags)
            self = .nothing
        case 0x01:
            try descriptor.check([.sourcePASID, .pasid, .source, .address, .length], flags: flags)
            let source = try Self.operand(
                descriptor.sourcePASID, descriptor.source, descriptor.length, .source)
            let destination = try Self.operand(descriptor.pasid, descriptor.address, descriptor.length, .address)
            guard source.pasid != destination.pasid || !source.range.overlaps(destination.range) else {
                throw .overlap
            }
            self = .copy(from: source, to: destination)
        case 0x02:
            try descriptor.check([.pasid, .source, .address, .length], flags: flags)
            let destination = try Self.operand(descriptor.pasid, descriptor.address, descriptor.length, .address)
            self = .fill(destination, pattern: descriptor.source)
        default: throw .invalidDescriptor
        }
    }

    private static func operand(
        _ pasid: UInt32, _ address: UInt64, _ length: UInt64, _ name: CompletionRecord.Operand
    ) throws(EngineFailure) -> Operand {
        guard length <= maximumLength, let range = try? IOVARange(first: IOVA(address), byteCount: length) else {
            throw EngineFailure(.invalidRange, about: name)
        }
        return Operand(pasid: pasid, range: range)
    }
}

/// What a command does.
enum Command: Sendable {
    case nothing
    case createSpace(UInt32, hasDemandPaging: Bool)
    case destroySpace(UInt32)
    case map(UInt32, IOVARange, to: IOVA, rights: AccessRights)
    case unmap(UInt32, IOVARange)
    case respond(cookie: UInt32, isAccessible: Bool)

    init(_ descriptor: Descriptor) throws(EngineFailure) {
        let flags: Descriptor.Flags = [.writesCompletion, .interrupts]
        let (pasid, options) = (descriptor.pasid, descriptor.options)
        switch descriptor.opcode {
        case 0x00:
            try descriptor.check([], flags: flags)
            self = .nothing
        case 0x11:
            try descriptor.check(.pasid, options: 1, flags: flags)
            self = .createSpace(pasid, hasDemandPaging: options & 1 != 0)
        case 0x12:
            try descriptor.check(.pasid, flags: flags)
            self = .destroySpace(pasid)
        case 0x13:
            try descriptor.check([.pasid, .source, .address, .length], options: 0b11, flags: flags)
            let range = try Self.pages(of: descriptor)
            let memory = try? IOVARange(first: IOVA(descriptor.source), byteCount: descriptor.length)
            guard let memory, memory.first.isPageAligned else { throw EngineFailure(.invalidRange, about: .source) }
            let rights = AccessRights(rawValue: UInt8(truncatingIfNeeded: options))
            guard !rights.isEmpty else { throw .invalidDescriptor }
            self = .map(pasid, range, to: memory.first, rights: rights)
        case 0x14:
            try descriptor.check([.pasid, .address, .length], flags: flags)
            self = .unmap(pasid, try Self.pages(of: descriptor))
        case 0x15:
            try descriptor.check(.source, options: 1, flags: flags)
            guard let cookie = UInt32(exactly: descriptor.source) else {
                throw EngineFailure(.refused, .invalid, about: .source)
            }
            self = .respond(cookie: cookie, isAccessible: options == 0)
        default: throw .invalidDescriptor
        }
    }

    private static func pages(of descriptor: Descriptor) throws(EngineFailure) -> IOVARange {
        let range = try? IOVARange(first: IOVA(descriptor.address), byteCount: descriptor.length)
        guard let range, range.first.isPageAligned, descriptor.length % CopyEngine.pageSize == 0 else {
            throw EngineFailure(.invalidRange, about: .address)
        }
        return range
    }
}

extension IOVA {
    fileprivate var isPageAligned: Bool { rawValue % CopyEngine.pageSize == 0 }
}
