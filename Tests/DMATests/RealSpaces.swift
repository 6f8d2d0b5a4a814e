import DMA
import LinuxHost

/// The two address spaces and the two accesses of a random run.
final class RealSpaces {
    /// The device of an access: it keeps its pins, and releases those in the range when it is told and obedient.
    private final class Device: Sendable {
        struct State {
            var pins: [(range: IOVARange, box: PinnedBox)] = []
            var isObedient = true
            var heard: [IOVARange] = []
        }

        let state: Monitor<State>
        let access: DMAAccess

        init(needsPin: Bool) {
            let state = Monitor(State())
            self.state = state
            access = DMAAccess(needsPin: needsPin) { range in
                let released = state.withLock { state in
                    state.heard.append(range)
                    guard state.isObedient else { return [PinnedBox]() }
                    let boxes = state.pins.filter { $0.range.overlaps(range) }.map(\.box)
                    state.pins.removeAll { $0.range.overlaps(range) }
                    return boxes
                }
                for box in released { box.unpin() }
            }
        }
    }

    /// What a space pushed, by first address. It refuses one mapping when it is told to.
    private final class Consumer: MappingConsumer {
        private struct State {
            var ranges: [UInt64: IOVARange] = [:]
            var isRefusing: Bool
        }

        let aperture = IOVARange.everything
        let granule: UInt64
        private let state: Monitor<State>

        init(granule: UInt64, isRefusing: Bool) {
            self.granule = granule
            state = Monitor(State(isRefusing: isRefusing))
        }

        var ranges: [IOVARange] { state.withLock { $0.ranges.values.sorted { $0.first < $1.first } } }

        func refuse() { state.withLock { $0.isRefusing = true } }

        func map(_ range: IOVARange, _ backing: MappingBacking, rights: AccessRights) throws(DMAError) {
            try state.withLock { (state) throws(DMAError) in
                if state.isRefusing {
                    state.isRefusing = false
                    throw .outOfMemory
                }
                guard state.ranges.updateValue(range, forKey: range.first.rawValue) == nil else { throw .exists }
            }
        }

        func unmap(_ range: IOVARange) {
            state.withLock { state in
                if state.ranges.removeValue(forKey: range.first.rawValue) != range { state.ranges = [:] }
            }
        }
    }

    let spaces: [IOAddressSpace]
    let files: [MemoryObject]
    private let devices = [Device(needsPin: true), Device(needsPin: false)]
    private var reservations: [[Reservation]] = [[], []]
    private var consumers: [Consumer?] = [nil, nil]
    /// The remote memory that is mapped, by the key that the model has for it.
    private var peers: [Int: SparsePeer] = [:]
    private var nextPeer: Int
    /// The remote memory that the last operation did not map after all.
    private var refusedPeer: SparsePeer?

    init(files: [MemoryObject], pageSize: UInt64, rounds: Int) {
        var configuration = IOAddressSpace.Configuration()
        configuration.pageSize = pageSize
        configuration.unmapRounds = rounds
        configuration.unmapWait = .zero
        spaces = [IOAddressSpace(configuration), IOAddressSpace(configuration)]
        self.files = files
        nextPeer = files.count
    }

    /// Takes back what devices were told since the last time.
    func takeHeard() -> [[IOVARange]] {
        devices.map { device in
            device.state.withLock { state in
                defer { state.heard.removeAll(keepingCapacity: true) }
                return state.heard
            }
        }
    }

    /// Whether the peers whose last mapping the last operation removed have been told so, once, and the one that it did
    /// not map has not. They are forgotten.
    func peersAgree(revoked: [Int]) -> Bool {
        if let refusedPeer, refusedPeer.revocations > 0 { return false }
        return revoked.allSatisfy { peers.removeValue(forKey: $0)?.revocations == 1 }
    }

    /// Whether no peer was told that its memory is no longer mapped.
    var peersAreMapped: Bool { peers.values.allSatisfy { $0.revocations == 0 } }

    func pushedRanges(of space: Int) -> [IOVARange] { consumers[space]?.ranges ?? [] }

    /// Releases every pin and destroys the accesses.
    func end() {
        for device in devices {
            device.state.withLock { $0.isObedient = true }
            device.access.destroy()
        }
        for index in spaces.indices { consumers[index].map { spaces[index].detach($0) } }
    }

    func perform(_ operation: Operation) -> Outcome {
        refusedPeer = nil
        switch operation {
        case .map(let memory, let address, let byteCount, let rights, let space):
            return map(memory, address, byteCount, rights, spaces[space])
        case .copy(let range, let source, let address, let rights, let space):
            return Outcome { () throws(DMAError) in
                let first = try spaces[space].copy(
                    range, from: spaces[source], to: address.map(IOVA.init(rawValue:)), rights: rights)
                return .placed(first.rawValue)
            }
        case .unmap(let request, let space):
            return Outcome { () throws(DMAError) in .removed(try spaces[space].unmap(request)) }
        case .unmapAll(let requests, let space):
            return Outcome { () throws(DMAError) in .removed(try spaces[space].unmapAll(in: requests)) }
        case .pin(let range, let rights):
            return Outcome { () throws(DMAError) in try pin(range, rights) }
        case .unpin(let number):
            devices[0].state.withLock { $0.pins.remove(at: number) }.box.unpin()
            return .done
        case .read(let range, let device):
            return read(range, devices[device.rawValue].access)
        case .write(let address, let byteCount, let first, let device):
            let bytes = Operation.bytes(byteCount, first: first)
            return carryOut { () throws(DMAError) in
                try devices[device.rawValue].access.write(bytes, to: IOVA(address))
            }
        case .attach(let device, let space):
            return carryOut { () throws(DMAError) in try devices[device.rawValue].access.attach(to: spaces[space]) }
        case .replace(let device, let space):
            return carryOut { () throws(DMAError) in try devices[device.rawValue].access.replace(with: spaces[space]) }
        case .detach(let device):
            return carryOut { () throws(DMAError) in try devices[device.rawValue].access.detach() }
        case .obey(let isObedient):
            devices[0].state.withLock { $0.isObedient = isObedient }
            return .done
        case .reserve(let range, let space):
            return carryOut { () throws(DMAError) in reservations[space].append(try spaces[space].reserve(range)) }
        case .release(let number, let space):
            reservations[space].remove(at: number).release()
            return .done
        case .allow(let ranges, let space):
            return carryOut { () throws(DMAError) in try spaces[space].allow(ranges) }
        case .attachConsumer(let granule, let isRefusing, let space):
            return attachConsumer(granule, isRefusing, space)
        case .detachConsumer(let space):
            if let consumer = consumers[space] { spaces[space].detach(consumer) }
            consumers[space] = nil
            return .done
        case .refuse(let space):
            consumers[space]?.refuse()
            return .done
        }
    }

    /// With the one that is there, when there is one.
    private func attachConsumer(_ granule: UInt64, _ isRefusing: Bool, _ space: Int) -> Outcome {
        let consumer = consumers[space] ?? Consumer(granule: granule, isRefusing: isRefusing)
        return carryOut { () throws(DMAError) in
            do throws(DMAError) {
                try spaces[space].attach(consumer)
                consumers[space] = consumer
            } catch {
                // What it was told it has been told to forget.
                throw consumers[space] == nil && !consumer.ranges.isEmpty ? .busy : error
            }
        }
    }

    private func carryOut(_ body: () throws(DMAError) -> Void) -> Outcome {
        Outcome { () throws(DMAError) in
            try body()
            return .done
        }
    }

    private func map(
        _ memory: Operation.Memory, _ address: UInt64?, _ byteCount: UInt64, _ rights: AccessRights,
        _ space: IOAddressSpace
    ) -> Outcome {
        let backing: MappingBacking
        switch memory {
        case .file(let file, let offset):
            backing = .file(files[file], offset: offset)
        case .remote:
            let peer = SparsePeer()
            backing = .remote(peer)
            peers[nextPeer] = peer
            nextPeer += 1
        }
        let outcome = Outcome { () throws(DMAError) in
            if let address {
                try space.map(backing, at: IOVA(address), byteCount: byteCount, rights: rights)
                return .placed(address)
            }
            return .placed(try space.mapAnywhere(backing, byteCount: byteCount, rights: rights).rawValue)
        }
        if case .remote = memory, outcome.error != nil { refusedPeer = peers.removeValue(forKey: nextPeer - 1) }
        return outcome
    }

    private func pin(_ range: IOVARange, _ rights: AccessRights) throws(DMAError) -> Outcome {
        let pinned = try devices[0].access.pin(range, rights: rights)
        var segments: [Outcome.Segment] = []
        unsafe pinned.forEachSegment { segment in
            let address = UInt(bitPattern: segment.baseAddress)
            segments.append(Outcome.Segment(address: address, byteCount: segment.count))
        }
        let box = PinnedBox(pinned)
        devices[0].state.withLock { $0.pins.append((range, box)) }
        return .pinned(segments)
    }

    private func read(_ range: IOVARange, _ access: DMAAccess) -> Outcome {
        var buffer = [UInt8](repeating: Outcome.unread, count: Int(range.byteCount))
        let error = unsafe buffer.withUnsafeMutableBytes { buffer in
            errorOf { () throws(DMAError) in unsafe try access.read(range, into: buffer) }
        }
        return .read(buffer, error)
    }
}
