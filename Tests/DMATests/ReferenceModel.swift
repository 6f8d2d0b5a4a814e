import DMA

/// What two address spaces and two accesses must answer, worked out the plain way: sorted lists of ranges.
///
/// The pinning access's device either lets go of its pins whenever it is told or never does. Nothing here is shared with
/// the module under test but the types of its face.
struct ReferenceModel {
    struct Entry {
        var first, last: UInt64
        /// The key in `stores` and the place of the first byte there.
        let store: Int
        let offset: UInt64
        let rights: AccessRights
        let grantableRights: AccessRights
        var pinCount = 0
        var isBlocked = false

        var range: IOVARange { IOVARange(first: IOVA(first), last: IOVA(last)) }
        var snapshot: MappingSnapshot {
            MappingSnapshot(range: range, rights: rights, pinCount: pinCount, isBlocked: isBlocked)
        }
    }

    struct Space {
        /// Ascending, without overlap.
        var entries: [Entry] = []
        var reservations: [IOVARange] = []
        var allowed: [IOVARange] = []
    }

    struct Consumer {
        let granule: UInt64
        /// Whether it refuses the next mapping that it is told of.
        var isRefusing: Bool
    }

    struct Pin {
        let range: IOVARange
        /// The first addresses of the mappings that it counts on.
        let entries: [UInt64]
    }

    struct File {
        let byteCount: UInt64
        let isWritable: Bool
        let base: UInt
    }

    struct Piece {
        let store: Int
        let offset: UInt64
        let byteCount: UInt64
        let grantableRights: AccessRights
    }

    let pageSize: UInt64
    let rounds: Int
    /// Their keys in `stores` are their indices; those of remote memory are larger.
    let files: [File]
    var stores: [Int: SparseBytes] = [:]
    var spaces = [Space(), Space()]
    /// The consumer of each space.
    var consumers: [Consumer?] = [nil, nil]
    var pins: [Pin] = []
    /// Where each device is attached.
    var attached: [Int?] = [nil, nil]
    var isObedient = true
    /// What each device was told by the last operation.
    var heard: [[IOVARange]] = [[], []]
    /// The remote memory that the last operation removed the last mapping of.
    var revoked: [Int] = []
    /// How many mappings name each remote memory that is mapped at all.
    var linkCounts: [Int: Int] = [:]
    var nextStore: Int

    init(files: [File], pageSize: UInt64, rounds: Int) {
        self.files = files
        self.pageSize = pageSize
        self.rounds = rounds
        nextStore = files.count
        for index in files.indices { stores[index] = SparseBytes() }
    }

    func alignment(_ space: Int) -> UInt64 {
        attached[0] == space ? pageSize : consumers[space]?.granule ?? 1
    }

    func isRemote(_ store: Int) -> Bool { store >= files.count }

    /// The index of the lowest entry that ends at or after `address`.
    func index(_ space: Int, notBelow address: UInt64) -> Int {
        var low = 0
        var high = spaces[space].entries.count
        while low < high {
            let middle = (low + high) / 2
            if spaces[space].entries[middle].last < address { low = middle + 1 } else { high = middle }
        }
        return low
    }

    func entry(_ space: Int, at address: UInt64) -> Entry? {
        let index = index(space, notBelow: address)
        guard index < spaces[space].entries.count, spaces[space].entries[index].first <= address else { return nil }
        return spaces[space].entries[index]
    }

    func hasEntry(_ space: Int, overlapping range: IOVARange) -> Bool {
        let index = index(space, notBelow: range.first.rawValue)
        return index < spaces[space].entries.count && spaces[space].entries[index].first <= range.last.rawValue
    }

    /// Carries an operation out and returns what the real spaces must answer, or did answer where they have a choice.
    mutating func perform(_ operation: Operation, knowing answer: Outcome) -> Outcome {
        heard = [[], []]
        revoked = []
        switch operation {
        case .map(let memory, let address, let byteCount, let rights, let space):
            return map(memory, address, byteCount, rights, space, answer)
        case .copy(let range, let source, let address, let rights, let space):
            return copy(range, from: source, to: address, rights, space, answer)
        case .unmap(let request, let space):
            return unmap(request, space)
        case .unmapAll(let requests, let space):
            return unmapAll(requests, space)
        case .pin(let range, let rights):
            return pin(range, rights)
        case .unpin(let number):
            uncount(pins.remove(at: number))
            return .done
        case .read(let range, let device):
            return read(range, attached[device.rawValue])
        case .write(let address, let byteCount, let first, let device):
            return write(Operation.bytes(byteCount, first: first), at: address, attached[device.rawValue])
        case .attach(let device, let space):
            return attach(device, space)
        case .replace(let device, let space):
            return replace(device, with: space)
        case .detach(let device):
            guard attached[device.rawValue] != nil else { return .failed(.invalid) }
            return leave(device, for: nil)
        case .obey(let isObedient):
            self.isObedient = isObedient
            return .done
        case .reserve(let range, let space):
            if hasEntry(space, overlapping: range) || spaces[space].allowed.contains(where: range.overlaps) {
                return .failed(.addressInUse)
            }
            spaces[space].reservations.append(range)
            return .done
        case .release(let number, let space):
            spaces[space].reservations.remove(at: number)
            return .done
        case .allow(let ranges, let space):
            return allow(ranges, space)
        case .attachConsumer(let granule, let isRefusing, let space):
            return attachConsumer(granule, isRefusing, space)
        case .detachConsumer(let space):
            consumers[space] = nil
            return .done
        case .refuse(let space):
            consumers[space]?.isRefusing = true
            return .done
        }
    }
}
