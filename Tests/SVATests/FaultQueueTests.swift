import DMA
import LinuxHost
import SVA
import Testing

@Suite struct `Reporting page requests` {
    let queue: FaultQueue
    let device = PlainDevice()
    let keeper = GroupKeeper()

    init() throws {
        queue = try FaultQueue()
        device.route(pasid(1), to: keeper)
    }

    @Test func `R111 a device is added to one queue, once, if it can be answered`() throws {
        let other = try FaultQueue()
        #expect(errorOf { () throws(DMAError) in try queue.add(PlainDevice(canRespond: false)) } == .noDevice)
        try queue.add(device)
        #expect(device.faultState.isAdded)
        #expect(errorOf { () throws(DMAError) in try queue.add(device) } == .busy)
        #expect(errorOf { () throws(DMAError) in try other.add(device) } == .busy)
        #expect(!other.remove(device))
        #expect(queue.remove(device))
        try other.add(device)
        #expect(other.remove(device))
        #expect(errorOf { () throws(DMAError) in try SVADevice(in: PASIDSpace()).start() } == nil)
    }

    @Test func `R112, R114 a device that is at no queue is answered at once, and only for a last request`() throws {
        #expect(errorOf { () throws(DMAError) in try device.report(1, isLast: false) } == .invalid)
        #expect(device.responses == [])
        #expect(errorOf { () throws(DMAError) in try device.report(2) } == .invalid)
        #expect(device.responses == [answer(.invalid)])
        try queue.add(device)
        queue.remove(device)
        #expect(errorOf { () throws(DMAError) in try device.report(3) } == .invalid)
        #expect(device.responses.count == 2)
        #expect(keeper.groups.isEmpty)
    }

    @Test func `R113, R137 a request that nobody takes is answered invalid, with those before it`() throws {
        try queue.add(device)
        try device.report(1, group: 3, isLast: false, pasid(2))
        #expect(errorOf { () throws(DMAError) in try device.report(2, group: 3, pasid(2)) } == .invalid)
        #expect(device.responses == [answer(.invalid, group: 3, pasid(2))])
        try device.report(5, group: 3)
        #expect(keeper.groups.map(\.pageNumbers) == [[5]])
        queue.remove(device)
    }

    @Test func `R115 who owns the PASIDs gets the faults of one that is attached just then`() throws {
        let own = Shared<PlainDevice?>(nil)
        let other = GroupKeeper()
        let lookups = Shared(0)
        let device = PlainDevice(onLookup: {
            lookups.update { $0 += 1 }
            // The owner has answered the fault of another thread, by attaching the PASID.
            if lookups.value == 1 { own.value?.route(pasid(2), to: other, attachment: 2) }
        })
        own.update { $0 = device }
        device.route(nil, to: keeper, attachment: 1)
        device.route(pasid(2), to: keeper, attachment: 1)
        try queue.add(device)
        try device.report(1, pasid(2))
        #expect(keeper.groups.map(\.pasid) == [pasid(2)])
        #expect(device.responses == [])
        // An attachment of the PASID's own that is gone takes its faults along.
        lookups.update { $0 = 0 }
        device.route(nil, to: keeper, attachment: 3)
        device.route(pasid(2), to: keeper, attachment: 1)
        #expect(errorOf { () throws(DMAError) in try device.report(2, group: 1, pasid(2)) } == .invalid)
        #expect(device.responses == [answer(.invalid, group: 1, pasid(2))])
        queue.remove(device)
        own.update { $0 = nil }
    }

    @Test func `R116, R117, R118, R120, R123 a group has its requests as they came, and one answer`() throws {
        try queue.add(device)
        try device.report(7, group: 1, isLast: false)
        try device.report(1, group: 2, isLast: false)
        try device.report(3, group: 1, isLast: false)
        try device.report(9, group: 1, isLast: false)
        #expect(keeper.groups.isEmpty)
        #expect(device.responses == [])
        try device.report(4, group: 1)
        #expect(keeper.groups.map(\.pageNumbers) == [[7, 3, 9, 4]])
        #expect(keeper.groups.map(\.pasid) == [pasid(1)])
        #expect(keeper.groups.first?.respond(.success) == true)
        #expect(device.responses == [answer(.success, group: 1)])
        try device.report(2, group: 2)
        #expect(keeper.groups.map(\.pageNumbers) == [[7, 3, 9, 4], [1, 2]])
        queue.remove(device)
    }

    @Test func `R119 a handler that refuses makes the answer failure, and the report no error`() throws {
        device.route(pasid(1), to: GroupKeeper(accepts: false))
        try queue.add(device)
        try device.report(1, group: 8)
        #expect(device.responses == [answer(.failure, group: 8)])
        queue.remove(device)
        #expect(device.responses.count == 1)
    }

    @Test func `R121 a handler may report and answer for its device, for no lock is held`() throws {
        let device = device
        let errors = Shared<[DMAError]>([])
        let handler = GroupKeeper { group in
            let error = errorOf { () throws(DMAError) in try device.report(20, group: 5, isLast: false) }
            if let error { errors.update { $0.append(error) } }
            group.respond(.success)
        }
        device.route(pasid(1), to: handler)
        try queue.add(device)
        let reports = try LockChecker.withRecording { try device.report(1, group: 4) }
        #expect(errors.value == [])
        #expect(device.responses == [answer(.success, group: 4)])
        #expect(reports.map(\.text) == [])
        queue.remove(device)
    }

    @Test func `R126 of two answers the second does nothing`() throws {
        try queue.add(device)
        try device.report(1)
        let group = try #require(keeper.groups.first)
        #expect(group.isPending)
        #expect(group.respond(.success))
        #expect(!group.isPending)
        #expect(!group.respond(.invalid))
        #expect(device.responses == [answer(.success)])
        queue.remove(device)
    }

    @Test func `R126 of many answers at once one is the answer`() throws {
        try queue.add(device)
        for round in 0..<50 as Range<UInt16> {
            try device.report(1, group: round)
            let group = try #require(keeper.groups.last)
            let firsts = Shared(0)
            let threads = try (0..<3).map { _ in
                try OSThread(name: "answerer") { if group.respond(.success) { firsts.update { $0 += 1 } } }
            }
            let isRemoved = round == 49 && queue.remove(device)
            for thread in threads { thread.join() }
            #expect(firsts.value == 1 || isRemoved)
        }
        #expect(device.responses.map(\.group) == (0..<50).map(index))
    }

    @Test func `R127 answers of a device come one at a time, under the lock of its pending faults`() throws {
        let held = Shared<[[LockClass]]>([])
        let device = PlainDevice { _ in held.update { $0.append(LockChecker.heldClasses) } }
        device.route(pasid(1), to: keeper)
        try queue.add(device)
        let reports = try LockChecker.withRecording {
            try device.report(1)
            keeper.groups.first?.respond(.success)
        }
        #expect(reports.isEmpty)
        #expect(held.value.map { $0.map(\.description).first } == ["the lock of a device's pending faults"])
        queue.remove(device)
    }

    @Test func `R128, S3 a removal answers each pending group invalid once, and incomplete ones not at all`() throws {
        let other = try FaultQueue()
        try queue.add(device)
        for group in 0..<4 as Range<UInt16> { try device.report(UInt64(group), group: group) }
        try device.report(9, group: 9, isLast: false)
        keeper.groups[2].respond(.success)
        #expect(!other.remove(device))
        #expect(device.responses.count == 1)
        #expect(queue.remove(device))
        #expect(!queue.remove(device))
        #expect(!device.faultState.isAdded)
        #expect(
            device.responses == [answer(.success, group: 2)] + [0, 1, 3].map { answer(.invalid, group: $0) })
        // What was incomplete is forgotten.
        try queue.add(device)
        try device.report(10, group: 9)
        #expect(keeper.groups.last?.pageNumbers == [10])
        queue.remove(device)
    }

    @Test func `R130 an answer after the removal does nothing, and what it needs is there until then`() throws {
        weak var weakDevice: PlainDevice?
        do {
            let device = PlainDevice()
            weakDevice = device
            device.route(pasid(1), to: keeper)
            try queue.add(device)
            try device.report(1)
            queue.remove(device)
            #expect(device.responses == [answer(.invalid)])
        }
        #expect(weakDevice != nil)
        let group = keeper.groups.first
        #expect(group?.respond(.success) == false)
        #expect(weakDevice?.responses == [answer(.invalid)])
        keeper.forget()
        _ = consume group
        #expect(weakDevice == nil)
    }

    @Test func `R133, R134 discarding forgets what is incomplete, of all devices, and nothing else`() throws {
        let other = PlainDevice()
        other.route(pasid(1), to: keeper)
        for device in [device, other] {
            try queue.add(device)
            try device.report(1, group: 1, isLast: false)
        }
        try device.report(5, group: 2)
        queue.discardPartial()
        try device.report(2, group: 1)
        try other.report(3, group: 1)
        #expect(keeper.groups.map(\.pageNumbers) == [[5], [2], [3]])
        #expect(device.responses == [])
        keeper.groups[0].respond(.success)
        #expect(device.responses == [answer(.success, group: 2)])
        for device in [device, other] { queue.remove(device) }
    }

    @Test func `R136 a stop marker is dropped`() throws {
        try device.report(0, pasid(2), rights: [])
        try queue.add(device)
        try device.report(0, rights: [])
        #expect(keeper.groups.isEmpty)
        #expect(device.responses == [])
        queue.remove(device)
    }

    @Test func `S2 requests past the limit lose what is incomplete and are answered invalid`() throws {
        let device = PlainDevice(limit: 3)
        device.route(pasid(1), to: keeper)
        try queue.add(device)
        try device.report(1, group: 1)
        try device.report(2, group: 2, isLast: false)
        try device.report(3, group: 2, isLast: false)
        #expect(errorOf { () throws(DMAError) in try device.report(4, group: 3) } == .noSpace)
        #expect(device.responses == [answer(.invalid, group: 3)])
        try device.report(5, group: 2)
        #expect(keeper.groups.map(\.pageNumbers) == [[1], [5]])
        try device.report(6, group: 4, isLast: false)
        #expect(errorOf { () throws(DMAError) in try device.report(7, group: 4, isLast: false) } == .noSpace)
        #expect(device.responses.count == 1)
        queue.remove(device)
    }

    @Test func `S4 an answer carries a PASID if the device wants one`() throws {
        let device = PlainDevice(wantsPASID: false)
        device.route(pasid(1), to: keeper)
        try queue.add(device)
        try device.report(1)
        keeper.groups.first?.respond(.success)
        #expect(device.responses == [answer(.success, nil)])
        queue.remove(device)
    }
}

@Suite struct `The threads of a fault queue` {
    let queue: FaultQueue
    let device = PlainDevice()

    init() throws { queue = try FaultQueue() }

    /// A handler that has its work done by the queue, as that of a bound context.
    private func process(_ body: @escaping @Sendable (UInt64) -> Void) throws -> (Process, SVADevice) {
        let pasids = PASIDSpace()
        let process = try Process(pasids, hook: body)
        let device = SVADevice(in: pasids, faultQueue: queue)
        _ = try device.bind(process.context)
        self.device.route(pasid(1), to: try #require(device.faultRoute(for: pasid(1))).handler)
        return (process, device)
    }

    @Test func `R122 groups are handled side by side, and answered as they are done`() throws {
        let isSecondDone = Shared(false)
        let (_, other) = try process { number in if number == 1 { isSecondDone.wait { $0 } } }
        try queue.add(device)
        try device.report(1, group: 1)
        try device.report(2, group: 2)
        device.waitForResponses(1)
        isSecondDone.update { $0 = true }
        device.waitForResponses(2)
        #expect(device.responses == [answer(.success, group: 2), answer(.success, group: 1)])
        queue.remove(device)
        other.remove()
    }

    @Test func `R122, R124 the first page of a group that is refused decides, and the rest is not asked for`() throws {
        let (process, other) = try process { _ in }
        try queue.add(device)
        for number in [3, 99, 4] as [UInt64] { try device.report(number, group: 1, isLast: number == 4) }
        device.waitForResponses(1)
        #expect(device.responses == [answer(.invalid, group: 1)])
        #expect(process.pager.askedPages == [3, 99])
        queue.remove(device)
        other.remove()
    }

    @Test func `R131 a flush waits for the device's work that was there before it`() throws {
        let isReleased = Shared(false)
        let (process, other) = try process { number in if number == 1 { isReleased.wait { $0 } } }
        let (queue, device, stranger) = (queue, device, PlainDevice())
        #expect(errorOf { () throws(DMAError) in try queue.flush(device) } == .noDevice)
        try queue.add(device)
        try queue.add(stranger)
        #expect(try queue.flush(device))
        try device.report(1)
        process.pager.waitUntilAsked()
        #expect(try !queue.flush(device, until: .now))
        // Another device has nothing to wait for.
        #expect(try queue.flush(stranger))
        let order = Shared<[String]>([])
        let isFlushing = Shared(false)
        let flusher = try OSThread(name: "flusher") {
            isFlushing.update { $0 = true }
            #expect(errorOf { () throws(DMAError) in try queue.flush(device) } == nil)
            let count = device.responses.count
            order.update { $0.append("flushed with \(count)") }
        }
        isFlushing.wait { $0 }
        isReleased.update { $0 = true }
        flusher.join()
        #expect(order.value == ["flushed with 1"])
        #expect(device.responses == [answer(.success)])
        queue.remove(device)
        queue.remove(stranger)
        other.remove()
    }

    @Test func `R131 a flush does not wait for work that came after it`() throws {
        let isFlushed = Shared(false)
        let device = device
        let count = Shared<UInt16>(0)
        // Each fault has the next one reported before it is done, so that there is work at any time.
        let (_, other) = try process { _ in
            if isFlushed.value { return }
            let group = count.update { count in
                count = (count + 1) % 512
                return count
            }
            #expect(errorOf { () throws(DMAError) in try device.report(1, group: group) } == nil)
        }
        try queue.add(device)
        try device.report(1)
        #expect(try queue.flush(device, until: .after(.seconds(60))))
        isFlushed.update { $0 = true }
        try queue.flush(device)
        queue.remove(device)
        other.remove()
    }

    @Test func `R131 a flush waits until the work is let go of, which may be the last to know its context`() throws {
        let isReleased = Shared(false)
        let isEnding = Shared(false)
        let mayEnd = Shared(false)
        var configuration = SVADevice.Configuration()
        configuration.flushTime = .zero
        let pasids = PASIDSpace()
        let device = SVADevice(configuration, in: pasids, faultQueue: queue)
        try device.start()
        func leaveToQueue() throws -> OSThread {
            let end = AtEnd {
                isEnding.update { $0 = true }
                mayEnd.wait { $0 }
            }
            let process = try Process(pasids) { _ in withExtendedLifetime(end) { isReleased.wait { $0 } } }
            let handle = try device.bind(process.context)
            let reader = try OSThread(name: "reader") { #expect(device.mark(pasid(1)) == .failure(.refused)) }
            process.pager.waitUntilAsked()
            try handle.unbind()
            return reader
        }
        try leaveToQueue().join()
        isReleased.update { $0 = true }
        isEnding.wait { $0 }
        #expect(try !queue.flush(device, until: .now))
        mayEnd.update { $0 = true }
        #expect(try queue.flush(device))
        device.remove()
        #expect(pasids.pasidCount == 0)
    }

    @Test func `S7 a pager that hangs keeps its thread, and nothing that was answered without it`() throws {
        var configuration = FaultQueue.Configuration()
        configuration.threadCount = 1
        configuration.responseTime = .milliseconds(5)
        let queue = try FaultQueue(configuration)
        let isReleased = Shared(false)
        let (process, other) = try process { _ in isReleased.wait { $0 } }
        let watch = GroupWatch(try #require(device.faultRoute(for: pasid(1))).handler)
        device.route(pasid(1), to: watch)
        try queue.add(device)
        for number in 0..<40 as Range<UInt16> {
            try device.report(1, group: number)
            device.waitForResponses(Int(number) + 1)
        }
        #expect(device.responses.allSatisfy { $0.code == .invalid })
        #expect(process.pager.askedPages == [1])
        // The one that is handled, the last one, and one that the deadline's thread may just be letting go of.
        #expect(watch.aliveCount <= 3)
        #expect(queue.remove(device))
        isReleased.update { $0 = true }
        queue.stop()
        other.remove()
    }

    @Test func `R135 stopping lets the devices go first and then waits for the threads`() throws {
        let isReleased = Shared(false)
        let order = Shared<[String]>([])
        let (process, other) = try process { _ in
            isReleased.wait { $0 }
            order.update { $0.append("handled") }
        }
        try queue.add(device)
        try device.report(1)
        process.pager.waitUntilAsked()
        let queue = queue
        let stopper = try OSThread(name: "stopper") {
            queue.stop()
            order.update { $0.append("stopped") }
        }
        device.waitForResponses(1)
        isReleased.update { $0 = true }
        stopper.join()
        #expect(order.value == ["handled", "stopped"])
        #expect(device.responses == [answer(.invalid)])
        #expect(!device.faultState.isAdded)
        #expect(errorOf { () throws(DMAError) in try queue.add(PlainDevice()) } == .invalid)
        queue.stop()
        other.remove()
    }

    @Test func `R145 a group whose time is over is answered invalid, and a later answer does nothing`() throws {
        var configuration = FaultQueue.Configuration()
        configuration.responseTime = .milliseconds(20)
        let queue = try FaultQueue(configuration)
        let keeper = GroupKeeper()
        device.route(pasid(1), to: keeper)
        try queue.add(device)
        try device.report(1, group: 1)
        try device.report(2, group: 2)
        device.waitForResponses(2)
        #expect(device.responses == [answer(.invalid, group: 1), answer(.invalid, group: 2)])
        #expect(keeper.groups.map { $0.respond(.success) } == [false, false])
        try device.report(3, group: 3)
        #expect(keeper.groups.last?.respond(.success) ?? false || device.responses.count == 3)
        device.waitForResponses(3)
        queue.stop()
        #expect(device.responses.count == 3)
    }
}
