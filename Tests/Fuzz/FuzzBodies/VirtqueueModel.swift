import VirtioEcho

/// A queue as a driver could have set it up, and what the device is to make of it: the rules of split virtqueues written
/// down a second time, for one kick after another with nothing else going on.
///
///     readable memory   +0x0000 descriptors   +0x1000 available ring   +0x2000 tables   +0x4000 bytes
///     writable memory   room for bytes
///     used memory       the used ring
///
/// The device can read the first and write the others and cannot do it the other way around, so that it never reads what it
/// wrote.
struct VirtqueueModel {
    static let readableBase: UInt64 = 0x10000
    static let readableByteCount = 0x8000
    static let writableBase: UInt64 = 0x20000
    static let writableByteCount = 0x4000
    static let usedBase: UInt64 = 0x30000
    static let usedByteCount = 0x1000
    static let availableOffset = 0x1000
    static let tablesOffset = 0x2000
    static let bytesOffset = 0x4000
    static let maximumTableCount: UInt64 = 1024
    /// Written where nothing was.
    static let blank: UInt8 = 0xb5

    enum Device {
        case echo, entropy

        /// How many entries its queue has at most.
        var maximumSize: Int { self == .echo ? 256 : 64 }
    }

    /// What a chain of descriptors comes to.
    enum Chain {
        case good(readable: [Piece], writable: [Piece])
        case bad(String)
    }

    struct Piece {
        let address, byteCount: UInt64
    }

    let device: Device
    let size: Int
    let hasTables: Bool
    /// What the device reads, as it is in memory.
    var readable = [UInt8](repeating: 0, count: readableByteCount)
    /// What the device is to have written by now, and where that is open.
    private(set) var writable = [UInt8](repeating: blank, count: writableByteCount)
    private(set) var isOpen = [Bool](repeating: false, count: writableByteCount)
    /// Used entries that the driver is to see: heads and numbers of bytes.
    private(set) var used: [(head: Int, byteCount: Int)] = []
    private(set) var isBroken = false
    /// Whether a buffer lies over the used ring: from then on nobody can say what is in it.
    private(set) var isSpoiled = false
    private var taken: UInt16 = 0

    init(device: Device, size: Int, hasTables: Bool) {
        self.device = device
        self.size = size
        self.hasTables = hasTables
    }

    /// What a kick makes of the rings as they are.
    ///
    /// - Returns: the name of the error that ends the device's work, if there is one.
    mutating func kick() -> String? {
        guard !isBroken else { return nil }
        let index = readable.u16(at: Self.availableOffset + 2)
        let count = Int(index &- taken)
        guard count > 0 else { return nil }
        guard count <= size else { return end("availableIndexTooFar") }
        var completed: [(head: Int, byteCount: Int)] = []
        for _ in 0..<count {
            let head = Int(readable.u16(at: Self.availableOffset + 4 + Int(taken) % size * 2))
            taken &+= 1
            switch chain(from: head) {
            case .bad(let error): return end(error)
            case .good(let input, let room):
                guard let byteCount = perform(input, room) else { return end("memory") }
                completed.append((head, byteCount))
            }
            // The entropy device shows each buffer at once, the other one all of a kick.
            if device == .entropy { publish(&completed) }
        }
        publish(&completed)
        return nil
    }

    private mutating func publish(_ completed: inout [(head: Int, byteCount: Int)]) {
        used += completed
        completed = []
    }

    private mutating func end(_ error: String) -> String {
        isBroken = true
        return error
    }

    private func chain(from head: Int) -> Chain {
        var pieces: [(piece: Piece, isWritable: Bool)] = []
        var index = head
        for _ in 0..<size {
            guard index < size else { return .bad("noSuchDescriptor") }
            let descriptor = descriptor(at: index * 16)
            if descriptor.flags & 4 != 0 {
                guard hasTables, descriptor.flags & 1 == 0 else { return .bad("misplacedIndirectTable") }
                return table(descriptor, pieces)
            }
            if let error = add(descriptor, to: &pieces) { return .bad(error) }
            guard descriptor.flags & 1 != 0 else { return whole(pieces) }
            index = Int(descriptor.next)
        }
        return index < size ? .bad("endlessChain") : .bad("noSuchDescriptor")
    }

    private func table(_ descriptor: Descriptor, _ before: [(piece: Piece, isWritable: Bool)]) -> Chain {
        let count = descriptor.byteCount / 16
        guard descriptor.byteCount % 16 == 0, count > 0, count <= Self.maximumTableCount else {
            return .bad("indirectTableSize")
        }
        guard descriptor.address <= UInt64.max - (descriptor.byteCount - 1) else { return .bad("addressOverflow") }
        guard
            let start = Self.place(descriptor.address, descriptor.byteCount, Self.readableBase, Self.readableByteCount)
        else { return .bad("memory") }
        var pieces = before
        var index: UInt64 = 0
        for _ in 0..<count {
            let entry = self.descriptor(at: start + Int(index) * 16)
            if entry.flags & 4 != 0 { return .bad("misplacedIndirectTable") }
            if let error = add(entry, to: &pieces) { return .bad(error) }
            guard entry.flags & 1 != 0 else { return whole(pieces) }
            index = entry.next
            guard index < count else { return .bad("noSuchDescriptor") }
        }
        return .bad("endlessChain")
    }

    private func add(_ descriptor: Descriptor, to pieces: inout [(piece: Piece, isWritable: Bool)]) -> String? {
        let isWritable = descriptor.flags & 2 != 0
        if descriptor.byteCount == 0 { return "emptyDescriptor" }
        if !isWritable, pieces.contains(where: \.isWritable) { return "readableAfterWritable" }
        let total = pieces.reduce(descriptor.byteCount) { $0 + $1.piece.byteCount }
        if total >= 1 << 32 { return "bufferTooLarge" }
        if descriptor.address > UInt64.max - (descriptor.byteCount - 1) { return "addressOverflow" }
        pieces.append((Piece(address: descriptor.address, byteCount: descriptor.byteCount), isWritable))
        return nil
    }

    private func whole(_ pieces: [(piece: Piece, isWritable: Bool)]) -> Chain {
        let readable = pieces.filter { !$0.isWritable }.map(\.piece)
        let writable = pieces.filter(\.isWritable).map(\.piece)
        for one in readable {
            for other in writable {
                let (first, last) = (max(one.address, other.address), min(one.last, other.last))
                if first <= last { return .bad("readableOverlapsWritable") }
            }
        }
        return .good(readable: readable, writable: writable)
    }

    /// What the device does with a good buffer; `nil` if it reaches for memory that it must not access. What it has written
    /// by then is open.
    private mutating func perform(_ input: [Piece], _ room: [Piece]) -> Int? {
        let roomCount = room.reduce(0) { $0 + $1.byteCount }
        switch device {
        case .entropy:
            let count = min(roomCount, 1 << 16)
            return write(nil, count, to: room) ? Int(count) : nil
        case .echo:
            let inputCount = input.reduce(0) { $0 + $1.byteCount }
            let count = min(inputCount, UInt64(EchoDevice.maximumByteCount))
            var bytes: [UInt8] = []
            for piece in input where UInt64(bytes.count) < count {
                let part = min(piece.byteCount, count - UInt64(bytes.count))
                guard let place = Self.place(piece.address, part, Self.readableBase, Self.readableByteCount) else {
                    return nil
                }
                bytes += readable[place..<place + Int(part)]
            }
            let written = min(count, roomCount)
            return write(bytes, written, to: room) ? Int(written) : nil
        }
    }

    /// Writes `count` bytes, or bytes that nobody can foresee; `false` if some cannot be written.
    private mutating func write(_ bytes: [UInt8]?, _ count: UInt64, to room: [Piece]) -> Bool {
        var pieces: [Piece] = []
        var done: UInt64 = 0
        for piece in room where done < count {
            let part = min(piece.byteCount, count - done)
            pieces.append(Piece(address: piece.address, byteCount: part))
            done += part
        }
        if pieces.contains(where: {
            $0.last >= Self.usedBase && $0.address < Self.usedBase + UInt64(Self.usedByteCount)
        }) {
            isSpoiled = true
        }
        let places = pieces.map {
            Self.place($0.address, $0.byteCount, Self.writableBase, Self.writableByteCount)
        }
        let isPossible = places.allSatisfy { $0 != nil }
        done = 0
        for piece in pieces {
            for place in Self.places(of: piece) {
                if let bytes, isPossible {
                    writable[place] = bytes[Int(done + Self.writableBase + UInt64(place) - piece.address)]
                } else {
                    isOpen[place] = true
                }
            }
            done += piece.byteCount
        }
        return isPossible
    }

    /// What a piece has of the writable memory.
    private static func places(of piece: Piece) -> Range<Int> {
        let first = max(piece.address, writableBase)
        let last = min(piece.last, writableBase + UInt64(writableByteCount) - 1)
        guard first <= last else { return 0..<0 }
        return Int(first - writableBase)..<Int(last - writableBase) + 1
    }

    private struct Descriptor {
        let address, byteCount: UInt64
        let flags: UInt16
        let next: UInt64
    }

    private func descriptor(at place: Int) -> Descriptor {
        Descriptor(
            address: readable.u64(at: place), byteCount: UInt64(readable.u32(at: place + 8)),
            flags: readable.u16(at: place + 12), next: UInt64(readable.u16(at: place + 14)))
    }

    /// Where in a piece of memory a range lies, if all of it does.
    private static func place(_ address: UInt64, _ byteCount: UInt64, _ base: UInt64, _ size: Int) -> Int? {
        guard address >= base, byteCount <= UInt64(size), address - base <= UInt64(size) - byteCount else { return nil }
        return Int(address - base)
    }
}

extension VirtqueueModel.Piece {
    var last: UInt64 { address + byteCount - 1 }
}
