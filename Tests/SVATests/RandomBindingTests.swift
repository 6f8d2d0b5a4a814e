import DMA
import LinuxHost
import Randomness
import SVA
import Testing

/// What the bindings should be, as simple as it can be said.
private struct BindingModel {
    struct Pair: Hashable {
        let device, context: Int
    }

    let limits: [UInt32]
    var users: [Pair: Int] = [:]
    var pasids: [Int: UInt32] = [:]
    var exited: Set<Int> = []
    var removed: Set<Int> = []

    mutating func bind(_ pair: Pair) -> DMAError? {
        if removed.contains(pair.device) { return .noDevice }
        let limit = limits[pair.device]
        if limit == 0 { return .notSupported }
        if users[pair] == nil {
            if exited.contains(pair.context) { return .invalid }
            if let own = pasids[pair.context] {
                if own >= limit { return .overflow }
            } else {
                let taken = Set(pasids.values)
                guard let free = (1..<limit).first(where: { !taken.contains($0) }) else { return .noSpace }
                pasids[pair.context] = free
            }
        }
        users[pair, default: 0] += 1
        return nil
    }

    mutating func unbind(_ pair: Pair) {
        users[pair] = users[pair].flatMap { $0 > 1 ? $0 - 1 : nil }
        release(pair.context)
    }

    mutating func exit(_ context: Int) {
        exited.insert(context)
        release(context)
    }

    mutating func remove(_ device: Int) {
        removed.insert(device)
        let contexts = users.keys.filter { $0.device == device }.map(\.context)
        users = users.filter { $0.key.device != device }
        for context in contexts { release(context) }
    }

    private mutating func release(_ context: Int) {
        if exited.contains(context) && !users.keys.contains(where: { $0.context == context }) { pasids[context] = nil }
    }
}

@Suite struct `Random bindings` {
    @Test(arguments: 0..<20 as Range<UInt64>)
    func `any binds, unbinds, exits, resets and removals do what a simple model says`(seed: UInt64) throws {
        var random = SeededNumbers(seed: seed)
        let system = try System(threads: 1)
        let limits: [UInt32] = [1024, 4, 3, 0]
        let devices = try limits.map { limit in try system.device { $0.maximumPASIDs = limit } }
        let processes = try (0..<5 as Range<UInt8>).map { try system.process(mark: $0 + 1, pageCount: 1) }
        var model = BindingModel(limits: limits)
        var handles: [BindingModel.Pair: SVAHandle] = [:]
        for step in 0..<200 {
            let pair = BindingModel.Pair(
                device: Int.random(in: devices.indices, using: &random),
                context: Int.random(in: processes.indices, using: &random))
            let device = devices[pair.device]
            switch Int.random(in: 0..<100, using: &random) {
            case 0..<50:
                let expected = model.bind(pair)
                let error = errorOf { () throws(DMAError) in
                    let handle = try device.bind(processes[pair.context].context)
                    #expect(handles[pair].map { $0 === handle } ?? true)
                    handles[pair] = handle
                }
                #expect(error == expected, "seed \(seed), step \(step)")
            case 50..<90:
                guard model.users[pair] != nil, let handle = handles[pair] else { continue }
                model.unbind(pair)
                try handle.unbind()
                if model.users[pair] == nil { handles[pair] = nil }
            case 90..<93:
                model.exit(pair.context)
                processes[pair.context].context.exit()
            case 93..<98:
                guard !model.removed.contains(pair.device) else { continue }
                device.reset()
                try device.start()
            default:
                // One device is left to the end.
                guard pair.device > 0 else { continue }
                model.remove(pair.device)
                device.remove(step % 2 == 0 ? .orderly : .surprise)
                handles = handles.filter { $0.key.device != pair.device }
            }
            try compare(model, devices, processes, handles, "seed \(seed), step \(step)")
        }
        for device in devices { device.remove() }
        #expect(system.record.unbalanced.isEmpty)
        for process in processes { process.context.exit() }
        #expect(system.pasids.pasidCount == 0)
    }

    private func compare(
        _ model: BindingModel, _ devices: [SVADevice], _ processes: [Process],
        _ handles: [BindingModel.Pair: SVAHandle], _ comment: Comment
    ) throws {
        for (number, process) in processes.enumerated() {
            let bound = model.users.keys.filter { $0.context == number }
            #expect(process.context.pasid?.rawValue == model.pasids[number], comment)
            #expect(process.context.deviceCount == bound.count, comment)
            #expect(process.context.domainCount == (bound.isEmpty ? 0 : 1), comment)
        }
        for (pair, users) in model.users {
            #expect(handles[pair]?.users == users, comment)
            #expect(handles[pair]?.pasid?.rawValue == model.pasids[pair.context], comment)
        }
        // Each PASID reaches the memory of its context on the devices that are bound, and nothing on the others.
        for (context, number) in model.pasids {
            guard let pasid = PASID(rawValue: number) else { continue }
            let isThere = !processes[context].space.mappings().isEmpty
            for (index, device) in devices.enumerated() {
                let isBound = model.users[.init(device: index, context: context)] != nil
                let expected: Result<UInt8, AccessFailure> =
                    if model.removed.contains(index) {
                        .failure(.stopped)
                    } else if !isBound {
                        .failure(.memory(.notFound))
                    } else if model.exited.contains(context) && !isThere {
                        .failure(.refused)
                    } else {
                        .success(UInt8(context + 1))
                    }
                #expect(device.mark(pasid) == expected, comment)
            }
        }
    }
}
