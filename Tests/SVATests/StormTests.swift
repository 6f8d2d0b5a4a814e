import DMA
import Glibc
import LinuxHost
import SVA
import Testing

/// Everything at once: whoever asks gets one answer, and nothing is left behind.
@Suite struct `Storms of faults` {
    let system: System

    init() throws { system = try System() }

    /// Reads pages so many times, or until told to end, and notes results that must not be.
    private static func reader(
        _ device: SVADevice, _ pasid: PASID, seed: UInt64, count: Int = .max, until isOver: Shared<Bool>? = nil,
        pageCount: UInt64, mark: UInt8, _ isAllowed: @escaping @Sendable (AccessFailure) -> Bool,
        _ wrong: Shared<[String]>
    ) throws -> OSThread {
        try OSThread(name: "reader \(seed)") {
            var random = SeededGenerator(seed: seed)
            for _ in 0..<count {
                if let isOver, isOver.value { return }
                switch device.mark(pasid, page: UInt64.random(in: 0..<pageCount, using: &random)) {
                case .success(mark): break
                case .success(let other): wrong.update { $0.append("read \(other) instead of \(mark)") }
                case .failure(let failure):
                    if !isAllowed(failure) { wrong.update { $0.append("\(failure)") } }
                }
            }
        }
    }

    @Test func `a thousand binds and unbinds against a thousand faults on four threads lose nothing`() throws {
        let process = try system.process(mark: 6, pageCount: 8)
        let device = try system.device { $0.outstandingRequests = 3 }
        let isOver = Shared(false)
        let wrong = Shared<[String]>([])
        let binder = try OSThread(name: "binder") {
            for cycle in 1...1000 {
                let error = errorOf { () throws(DMAError) in
                    let handle = try device.bind(process.context)
                    process.pager.waitUntilAsked(cycle)
                    try handle.unbind()
                }
                if let error { wrong.update { $0.append("bind: \(error)") } }
            }
            isOver.update { $0 = true }
        }
        // What is read is taken away again, so that nearly every read faults.
        let thief = try OSThread(name: "thief") {
            while !isOver.value {
                _ = errorOf { () throws(DMAError) in try process.space.unmap(.everything) }
                sched_yield()
            }
        }
        let readers = try (0..<4 as Range<UInt64>).map { seed in
            try Self.reader(
                device, pasid(1), seed: seed, until: isOver, pageCount: 8, mark: 6,
                { [.memory(.notFound), .memory(.invalid), .refused, .tooManyFaults].contains($0) }, wrong)
        }
        for thread in readers + [binder, thief] { thread.join() }
        #expect(process.pager.askedPages.count >= 1000)
        #expect(wrong.value.prefix(5) == [])
        #expect(system.record.unbalanced.isEmpty)
        #expect(device.pageRequests.outstandingGroupCount == 0)
        #expect(device.pageRequests.unexpectedAnswerCount == 0)
        #expect(system.record.count { $0 == .attached(pasid(1)) } == 1000)
        #expect(system.record.count { $0 == .detached(pasid(1)) } == 1000)
        #expect(system.record.count { $0 == .domainFreed(pasid(1)) } == 1000)
        #expect(process.context.domainCount == 0)
        device.remove()
        #expect(try process.space.unmap(.everything) % page == 0)
    }

    @Test func `an unbind during a storm answers what is left, and other contexts do not notice`() throws {
        let processes = try [system.process(mark: 1, pageCount: 256), system.process(mark: 2, pageCount: 256)]
        let device = try system.device()
        let handles = try processes.map { try device.bind($0.context) }
        let wrong = Shared<[String]>([])
        let victims = try (0..<3 as Range<UInt64>).map { seed in
            try Self.reader(
                device, pasid(1), seed: seed, count: 300, pageCount: 256, mark: 1,
                { [.memory(.notFound), .refused].contains($0) }, wrong)
        }
        let others = try (3..<5 as Range<UInt64>).map { seed in
            try Self.reader(
                device, pasid(2), seed: seed, count: 300, pageCount: 256, mark: 2, { _ in false }, wrong)
        }
        processes[0].pager.waitUntilAsked(20)
        try handles[0].unbind()
        for thread in victims + others { thread.join() }
        #expect(wrong.value.prefix(5) == [])
        #expect(system.record.unbalanced.isEmpty)
        device.remove()
    }

    @Test func `contexts that exit and devices that are removed during a storm leave nothing behind`() throws {
        for round in 0..<10 as Range<UInt64> {
            let system = try System()
            let processes = try [system.process(mark: 1, pageCount: 64), system.process(mark: 2, pageCount: 64)]
            let devices = try [system.device(), system.device()]
            let wrong = Shared<[String]>([])
            var threads: [OSThread] = []
            for (number, device) in devices.enumerated() {
                for (mark, process) in processes.enumerated() {
                    let pasid = try #require(try device.bind(process.context).pasid)
                    threads.append(
                        try Self.reader(
                            device, pasid, seed: round * 100 + UInt64(number * 10 + mark), count: 200, pageCount: 64,
                            mark: UInt8(mark + 1), { [.refused, .stopped].contains($0) }, wrong))
                }
            }
            processes[0].pager.waitUntilAsked(10)
            processes[0].context.exit()
            let asked = processes[0].pager.askedPages.count
            devices[0].remove(round % 2 == 0 ? .orderly : .surprise)
            for thread in threads { thread.join() }
            #expect(processes[0].pager.askedPages.count == asked, "after its exit nobody is asked for its pages")
            devices[1].remove()
            #expect(wrong.value.prefix(5) == [])
            processes[1].context.exit()
            #expect(system.pasids.pasidCount == 0)
            for device in devices { #expect(device.pageRequests.unexpectedAnswerCount == 0) }
            system.queue.stop()
        }
    }

    @Test func `a user who answers late, twice, wrongly or never, and resets meanwhile, confuse nobody`() throws {
        let channel = FaultChannel()
        let system = try System(responseTime: .milliseconds(30))
        let process = try system.process(mark: 4, pageCount: 64)
        let device = try system.device()
        try device.attach(process.space, to: pasid(1), handler: channel)
        let isOver = Shared(false)
        let wrong = Shared<[String]>([])
        let readers = try (0..<3 as Range<UInt64>).map { seed in
            try Self.reader(
                device, pasid(1), seed: seed, count: 60, pageCount: 64, mark: 4,
                { [.refused, .stopped, .tooManyFaults].contains($0) }, wrong)
        }
        let user = try OSThread(name: "user") {
            var random = SeededGenerator(seed: 7)
            var late: [FaultChannel.Cookie] = []
            while !isOver.value {
                _ = errorOf { () throws(DMAError) in
                    try channel.receive { message in
                        switch UInt8.random(in: 0..<8, using: &random) {
                        case 0: return false
                        case 1: late.append(message.cookie)
                        case 2: break
                        case 3:
                            _ = errorOf { () throws(DMAError) in
                                try channel.respond([
                                    .init(message.cookie, .refused), .init(message.cookie, .accessible),
                                ])
                            }
                        default:
                            for request in message.group.requests {
                                _ = process.pager.makeAccessible(request.range, for: .read, in: process.space)
                            }
                            _ = errorOf { () throws(DMAError) in try channel.respond(message.cookie, .accessible) }
                        }
                        return true
                    }
                }
                if let cookie = late.popLast() {
                    _ = errorOf { () throws(DMAError) in try channel.respond(cookie, .accessible) }
                }
                sched_yield()
            }
        }
        let resetter = try OSThread(name: "resetter") {
            for _ in 0..<20 {
                device.reset()
                let error = errorOf { () throws(DMAError) in try device.start() }
                if let error { wrong.update { $0.append("start: \(error)") } }
                for _ in 0..<50 { sched_yield() }
            }
        }
        for thread in readers { thread.join() }
        resetter.join()
        isOver.update { $0 = true }
        user.join()
        #expect(wrong.value.prefix(5) == [])
        #expect(system.record.unbalanced.isEmpty)
        #expect(device.pageRequests.unexpectedAnswerCount == 0)
        device.remove()
        channel.close()
    }

    @Test func `attachments that come, move and go under accesses, faults, answers and resets leave nothing behind`()
        throws
    {
        let channel = FaultChannel()
        let system = try System(responseTime: .milliseconds(50))
        // Pins are released as soon as they are asked for, however long that takes on a busy machine.
        let processes = try [1, 2].map { mark in
            try Process(system.pasids, mark: mark, pageCount: 32, unmapWait: .seconds(60))
        }
        let device = try system.device {
            $0.outstandingRequests = 8
            $0.requestsPerGroup = 8
            $0.cachedTranslations = 4
        }
        let isOver = Shared(false)
        let wrong = Shared<[String]>([])
        let allowed: [AccessFailure] = [
            .memory(.notFound), .memory(.invalid), .refused, .stopped, .tooManyFaults, .timedOut,
        ]
        let users = try (1...3 as ClosedRange<UInt32>).map { number in
            try OSThread(name: "user \(number)") {
                var random = SeededGenerator(seed: UInt64(number))
                while !isOver.value {
                    let target = pasid(UInt32.random(in: 1...3, using: &random))
                    let range = bytes(
                        UInt64.random(in: 1...3 * page, using: &random),
                        ofPage: UInt64.random(in: 0..<28, using: &random))
                    var seen: [UInt8] = []
                    let failure = errorOf { () throws(AccessFailure) in
                        switch UInt8.random(in: 0..<3, using: &random) {
                        case 0: seen = try device.read(range, target)
                        case 1:
                            try unsafe device.withTranslations(of: range, pasid: target, rights: .read) { memory in
                                unsafe seen.append(memory[0])
                            }
                        default:
                            let pinned = try device.pin(
                                pages(range.first.rawValue / page), pasid: target, rights: .read)
                            unsafe pinned.forEachSegment { memory in unsafe seen.append(memory[0]) }
                            pinned.unpin()
                        }
                    }
                    if let failure, !allowed.contains(failure) { wrong.update { $0.append("\(failure)") } }
                    if !seen.allSatisfy({ $0 == 1 || $0 == 2 || (failure != nil && $0 == 0) }) {
                        wrong.update { $0.append("read \(Set(seen))") }
                    }
                }
            }
        }
        let driver = try OSThread(name: "driver") {
            var random = SeededGenerator(seed: 11)
            while !isOver.value {
                _ = errorOf { () throws(DMAError) in
                    try channel.receive { message in
                        if UInt8.random(in: 0..<16, using: &random) == 0 { return true }
                        for process in processes {
                            for request in message.group.requests {
                                _ = process.pager.makeAccessible(request.range, for: .read, in: process.space)
                            }
                        }
                        _ = errorOf { () throws(DMAError) in try channel.respond(message.cookie, .accessible) }
                        return true
                    }
                }
                sched_yield()
            }
        }
        let thief = try OSThread(name: "thief") {
            var random = SeededGenerator(seed: 12)
            while !isOver.value {
                for process in processes {
                    _ = errorOf { () throws(DMAError) in
                        try process.space.unmap(pages(UInt64.random(in: 0..<32, using: &random)))
                    }
                }
                sched_yield()
            }
        }
        var random = SeededGenerator(seed: 13)
        for _ in 0..<1500 {
            let target = pasid(UInt32.random(in: 1...3, using: &random))
            let space = processes[Int.random(in: 0...1, using: &random)].space
            let error = errorOf { () throws(DMAError) in
                switch UInt8.random(in: 0..<20, using: &random) {
                case 0..<9: try device.attach(space, to: target, handler: channel)
                case 9..<14: try device.replace(with: space, at: target, handler: channel)
                case 14..<19: try device.detach(from: target)
                default:
                    device.reset()
                    try device.start()
                }
            }
            if let error, error != .invalid, error != .busy { wrong.update { $0.append("change: \(error)") } }
        }
        isOver.update { $0 = true }
        device.reset()
        for thread in users + [driver, thief] { thread.join() }
        #expect(wrong.value.prefix(5) == [])
        #expect(system.record.unbalanced.isEmpty)
        #expect(device.pageRequests.outstandingGroupCount == 0)
        #expect(device.pageRequests.unexpectedAnswerCount == 0)
        #expect(device.cachedTranslationCount == 0)
        for process in processes { #expect(process.space.mappings().allSatisfy { $0.pinCount == 0 && !$0.isBlocked }) }
        // Every credit has come back, so one group can ask for as much as ever.
        try device.start()
        for number in 1...3 as ClosedRange<UInt32> { try? device.detach(from: pasid(number)) }
        let keeper = GroupKeeper { $0.respond(.invalid) }
        try device.attach(IOAddressSpace(), to: pasid(1), handler: keeper)
        #expect(errorOf { () throws(AccessFailure) in _ = try device.read(pages(0, 20), pasid(1)) } == .refused)
        #expect(keeper.groups.map(\.requests.count) == [8])
        device.remove()
    }
}
