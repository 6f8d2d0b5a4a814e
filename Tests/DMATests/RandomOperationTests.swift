import DMA
import LinuxHost
import Testing

/// Random operations on two address spaces, each compared with the reference model: results, mappings and bytes.
@Suite struct `Random operations` {
    /// The device of the access: it keeps its pins, and releases those in the range when it is told and obedient.
    private final class Device: Sendable {
        struct State {
            var pins: [(range: IOVARange, box: PinnedBox)] = []
            var isObedient = true
        }

        let state: Monitor<State>
        let access: DMAAccess

        init() {
            let state = Monitor(State())
            self.state = state
            access = DMAAccess(needsPin: true) { range in
                let released = state.withLock { state in
                    guard state.isObedient else { return [PinnedBox]() }
                    let boxes = state.pins.filter { $0.range.overlaps(range) }.map(\.box)
                    state.pins.removeAll { $0.range.overlaps(range) }
                    return boxes
                }
                for box in released { box.unpin() }
            }
        }

        /// Pins a range and returns the bytes seen through the pin.
        func pin(_ range: IOVARange, _ rights: AccessRights) throws(DMAError) -> [UInt8] {
            let pinned = try access.pin(range, rights: rights)
            var bytes: [UInt8] = []
            unsafe pinned.forEachSegment { segment in unsafe bytes.append(contentsOf: segment) }
            let box = PinnedBox(pinned)
            state.withLock { $0.pins.append((range, box)) }
            return bytes
        }

        func unpinLast() {
            state.withLock { $0.pins.popLast() }?.box.unpin()
        }
    }

    private struct Run {
        static let span: UInt64 = 1024
        let seed: UInt64
        var random: SeededGenerator
        let spaces: [IOAddressSpace]
        let device = Device()
        let objects: [MemoryObject]
        var peers: [PeerMemory] = []
        var model: ReferenceModel
        /// How often each kind of operation was not refused.
        var successes: [String: Int] = [:]

        init(seed: UInt64) throws {
            self.seed = seed
            random = SeededGenerator(seed: seed)
            var configuration = IOAddressSpace.Configuration()
            configuration.pageSize = ReferenceModel.pageSize
            configuration.unmapRounds = 2
            configuration.unmapWait = .zero
            spaces = [IOAddressSpace(configuration), IOAddressSpace(configuration)]
            objects = [try .anonymous(byteCount: 512), try .anonymous(byteCount: 256), try readOnlyObject(pages: 1)]
            let files = objects.map { [UInt8](repeating: 0, count: $0.byteCount) }
            model = ReferenceModel(files: files, readOnly: 2)
            try device.access.attach(to: spaces[0])
        }

        /// Mostly whole pages, sometimes any byte.
        mutating func number(below limit: UInt64) -> UInt64 {
            let number = UInt64.random(in: 0..<limit, using: &random)
            return Int.random(in: 0..<8, using: &random) == 0 ? number : number & ~(ReferenceModel.pageSize - 1)
        }

        mutating func count() -> UInt64 {
            Int.random(in: 0..<40, using: &random) == 0 ? 0 : number(below: 160) + ReferenceModel.pageSize
        }

        /// Any range or, more often, one that something in the space suggests: a mapping, the end of it, or two.
        mutating func anyRange(in space: Int) -> IOVARange {
            if Int.random(in: 0..<4, using: &random) != 0,
                let index = model.spaces[space].indices.randomElement(using: &random)
            {
                let here = model.spaces[space][index].range
                let next = model.spaces[space][min(index + 1, model.spaces[space].count - 1)].range
                switch Int.random(in: 0..<4, using: &random) {
                case 0: return range(here.last.rawValue & ~(ReferenceModel.pageSize - 1), next.last.rawValue)
                case 1: return range(here.first.rawValue, next.last.rawValue)
                default: return here
                }
            }
            let first = number(below: Run.span)
            return range(first, first + max(1, count()) - 1)
        }

        mutating func rights() -> AccessRights {
            let choice: [AccessRights] = [[.read, .write], [.read, .write], [.read, .write], .read, .write, []]
            return choice.randomElement(using: &random) ?? []
        }

        private mutating func note(_ name: String, _ error: DMAError?) {
            successes[name, default: 0] += error == nil ? 1 : 0
        }

        /// One random operation; what it was, and whether the space answered as the model.
        mutating func step() -> (String, Bool) {
            let space = Int.random(in: 0..<2, using: &random)
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<30: return map(space)
            case 30..<45: return unmap(space)
            case 45..<55: return copy(to: space)
            case 55..<68: return pin()
            case 68..<75:
                device.unpinLast()
                model.unpinLast()
                return ("unpin", true)
            case 75..<85: return read()
            case 85..<95: return write()
            case 95..<98:
                let expected = model.replace(with: space)
                let actual = errorOf { () throws(DMAError) in try device.access.replace(with: spaces[space]) }
                note("replace", actual)
                return ("replace by \(space)", actual == expected)
            default:
                let isObedient = Bool.random(using: &random)
                model.isObedient = isObedient
                device.state.withLock { $0.isObedient = isObedient }
                return ("obedient \(isObedient)", true)
            }
        }

        private mutating func map(_ space: Int) -> (String, Bool) {
            let (first, count, rights) = (number(below: Run.span), count(), rights())
            let isRemote = Int.random(in: 0..<3, using: &random) == 0
            let store: Int
            let offset: UInt64
            let backing: MappingBacking
            if isRemote {
                let peer = PeerMemory(byteCount: 2048)
                peers.append(peer)
                model.stores.append(peer.bytes)
                store = model.stores.count - 1
                offset = first
                backing = .remote(peer)
            } else {
                store = Int.random(in: 0..<objects.count, using: &random)
                offset = number(below: 256)
                backing = .file(objects[store], offset: offset)
            }
            let expected = model.map(space, store: store, offset: offset, at: first, count: count, rights: rights)
            let actual = errorOf { () throws(DMAError) in
                try spaces[space].map(backing, at: IOVA(first), byteCount: count, rights: rights)
            }
            note("map", actual)
            return ("map \(count) bytes at \(IOVA(first)) \(rights) in \(space)", actual == expected)
        }

        private mutating func unmap(_ space: Int) -> (String, Bool) {
            let isAll = Int.random(in: 0..<40, using: &random) == 0
            let request = isAll ? IOVARange.everything : anyRange(in: space)
            let expected = model.unmap(space, request)
            let actual = resultOf { () throws(DMAError) in try spaces[space].unmap(request) }
            note("unmap", actual.error)
            return ("unmap \(request) in \(space): \(actual)", actual == expected)
        }

        private mutating func copy(to target: Int) -> (String, Bool) {
            let source = Int.random(in: 0..<2, using: &random)
            let (request, first, rights) = (anyRange(in: source), number(below: Run.span), rights())
            let expected = model.copy(request, from: source, to: target, at: first, rights: rights)
            let actual = errorOf { () throws(DMAError) in
                try spaces[target].copy(request, from: spaces[source], to: IOVA(first), rights: rights)
            }
            note("copy", actual)
            return ("copy \(request) of \(source) to \(IOVA(first)) in \(target)", actual == expected)
        }

        private mutating func pin() -> (String, Bool) {
            let (request, rights) = (anyRange(in: model.attached), rights())
            let expected = model.pin(request, rights: rights)
            let actual = resultOf { () throws(DMAError) in try device.pin(request, rights) }
            note("pin", actual.error)
            return ("pin \(request) \(rights)", actual == expected)
        }

        private mutating func read() -> (String, Bool) {
            let request = anyRange(in: model.attached)
            let expected = model.read(request)
            let actual = resultOf { () throws(DMAError) in try device.access.read(request) }
            note("read", actual.error)
            return ("read \(request)", actual == expected)
        }

        private mutating func write() -> (String, Bool) {
            let request = anyRange(in: model.attached)
            let bytes = (0..<request.byteCount).map { _ in UInt8.random(in: 0...255, using: &random) }
            let expected = model.write(bytes, at: request.first.rawValue)
            let actual = errorOf { () throws(DMAError) in try device.access.write(bytes, to: request.first) }
            note("write", actual)
            return ("write \(request)", actual == expected)
        }

        var bytesAgree: Bool {
            let files = objects.map { object in unsafe Array(object.bytes) }
            return files + peers.map(\.bytes) == model.stores
        }
    }

    @Test(arguments: 1...6 as ClosedRange<UInt64>)
    func `answer as the reference model does`(seed: UInt64) throws {
        var run = try Run(seed: seed)
        for step in 0..<4000 {
            let (operation, agrees) = misusing(.lostPin) { run.step() }
            let mappingsAgree = (0..<2).allSatisfy { run.spaces[$0].mappings() == run.model.snapshots($0) }
            let bytesAgree = step % 100 != 0 || run.bytesAgree
            try #require(
                agrees && mappingsAgree && bytesAgree,
                """
                seed \(seed), step \(step): \(operation)
                result \(agrees), mappings \(mappingsAgree), bytes \(bytesAgree)
                \(run.spaces[0])
                \(run.spaces[1])
                expected \(run.model.snapshots(0)) and \(run.model.snapshots(1))
                """)
        }
        #expect(run.bytesAgree)
        for name in ["map", "unmap", "copy", "pin", "read", "write", "replace"] {
            #expect(run.successes[name, default: 0] > 15, "seed \(seed): \(name) hardly ever succeeds")
        }
        run.device.state.withLock { $0.isObedient = true }
        run.device.access.destroy()
        for space in run.spaces { try space.unmap(.everything) }
        #expect(run.peers.allSatisfy { $0.revocations <= 1 })
    }
}

private func resultOf<Value>(_ body: () throws(DMAError) -> Value) -> Result<Value, DMAError> {
    do throws(DMAError) {
        return .success(try body())
    } catch {
        return .failure(error)
    }
}

extension Result {
    fileprivate var error: Failure? {
        if case .failure(let error) = self { error } else { nil }
    }
}
