import DMA

/// One request to the address spaces of a random run, the same for the real ones and for the model.
enum Operation: Sendable {
    enum Memory: Sendable {
        case file(Int, offset: UInt64)
        /// A new peer for each map.
        case remote
    }

    /// The access with pins, and the one that only reads and writes.
    enum Device: Int, CaseIterable, Sendable {
        case pinning, plain
    }

    /// Without an address, wherever there is room.
    case map(Memory, at: UInt64?, byteCount: UInt64, AccessRights, space: Int)
    case copy(IOVARange, from: Int, to: UInt64?, AccessRights, space: Int)
    case unmap(IOVARange, space: Int)
    case unmapAll([IOVARange], space: Int)
    case pin(IOVARange, AccessRights)
    /// Releases one of the pins, counted from the oldest.
    case unpin(Int)
    case read(IOVARange, Device)
    case write(at: UInt64, byteCount: Int, first: UInt8, Device)
    case attach(Device, space: Int)
    case replace(Device, space: Int)
    case detach(Device)
    /// Whether the pinning device lets go of its pins when it is told.
    case obey(Bool)
    case reserve(IOVARange, space: Int)
    /// Gives back one of the reservations, counted from the oldest.
    case release(Int, space: Int)
    case allow([IOVARange], space: Int)
    case attachConsumer(granule: UInt64, isRefusing: Bool, space: Int)
    case detachConsumer(space: Int)
    /// Makes the consumer refuse the next mapping that it is told of.
    case refuse(space: Int)

    /// The spaces whose mappings it may change.
    var spaces: [Int] {
        switch self {
        case .map(_, _, _, _, let space), .copy(_, _, _, _, let space), .unmap(_, let space),
            .unmapAll(_, let space), .attachConsumer(_, _, let space):
            [space]
        case .pin, .unpin, .attach, .replace, .detach: [0, 1]
        case .read, .write, .obey, .reserve, .release, .allow, .detachConsumer, .refuse: []
        }
    }

    /// What kind it is, for counting.
    var kind: String {
        switch self {
        case .map(.file, .some, _, _, _): "map a file"
        case .map(.remote, .some, _, _, _): "map remote memory"
        case .map(_, nil, _, _, _): "map anywhere"
        case .copy(_, _, .some, _, _): "copy"
        case .copy(_, _, nil, _, _): "copy anywhere"
        case .unmap: "unmap"
        case .unmapAll: "unmap a batch"
        case .pin: "pin"
        case .unpin: "unpin"
        case .read: "read"
        case .write: "write"
        case .attach: "attach"
        case .replace: "replace"
        case .detach: "detach"
        case .obey: "obey"
        case .reserve: "reserve"
        case .release: "release"
        case .allow: "allow"
        case .attachConsumer: "attach a consumer"
        case .detachConsumer: "detach a consumer"
        case .refuse: "refuse"
        }
    }

    /// The bytes of a write.
    static func bytes(_ count: Int, first: UInt8) -> [UInt8] {
        var bytes = [UInt8](repeating: first, count: count)
        var next = first
        for index in bytes.indices {
            bytes[index] = next
            next = next &+ 7
        }
        return bytes
    }
}

/// What an operation came to.
enum Outcome: Equatable, Sendable {
    /// A run of memory of this process.
    struct Segment: Equatable, Sendable {
        let address: UInt
        let byteCount: Int
    }

    case done
    case failed(DMAError)
    case removed(UInt64)
    case placed(UInt64)
    /// The whole buffer, also when it was filled in part.
    case read([UInt8], DMAError?)
    case pinned([Segment])

    var error: DMAError? {
        switch self {
        case .failed(let error): error
        case .read(_, let error): error
        case .done, .removed, .placed, .pinned: nil
        }
    }

    init(_ body: () throws(DMAError) -> Outcome) {
        do throws(DMAError) {
            self = try body()
        } catch {
            self = .failed(error)
        }
    }

    /// What a buffer holds before it is read into.
    static let unread: UInt8 = 0xee
}
