import DMA
import LinuxHost
import SVA
import Testing

@Suite struct `Removing and resetting a device` {
    let system: System

    init() throws { system = try System() }

    /// The steps of a reset, and then the end of bindings, in the order of their PASIDs.
    private func steps(_ bound: [UInt32], isComplete: Bool = true) -> [SVAEvent] {
        let reset: [SVAEvent] = [
            .workStopped, .requestsStopped, .flushed(isComplete: isComplete), .leftQueue, .workFinished,
            .requestsDisabled,
        ]
        return reset + bound.flatMap { [.detached(pasid($0)), .domainFreed(pasid($0))] }
    }

    @Test func `R129, S8 a removal goes step by step, with everything in use`() throws {
        let processes = try (0..<2).map { _ in try system.process() }
        let channel = FaultChannel()
        let device = try system.device()
        for process in processes {
            _ = try device.bind(process.context)
            _ = try device.bind(process.context)
        }
        try device.attach(IOAddressSpace(), handler: channel)
        _ = device.mark(pasid(1))
        try unsafe device.withTranslations(of: pages(1), pasid: pasid(2), rights: .read) { _ in }
        let readers = try (0..<3 as Range<UInt64>).map { number in
            try OSThread(name: "reader") { #expect(device.mark(nil, page: number) == .failure(.stopped)) }
        }
        system.record.wait { events in
            events.count { if case .requested(let request) = $0 { request.pasid == nil } else { false } } == 3
        }
        var calls: [String] = []
        device.remove {
            calls.append("stop")
            #expect(device.mark(pasid(1)) == .failure(.stopped))
        } finishWork: {
            calls.append("finish")
            #expect(device.pageRequests.outstandingGroupCount == 0)
        }
        for reader in readers { reader.join() }
        #expect(calls == ["stop", "finish"])
        let events = system.record.events
        let stop = try #require(events.firstIndex(of: .workStopped))
        #expect(system.record.removalSteps == steps([1, 2]) + [.detached(nil), .removed])
        #expect(system.record.unbalanced.isEmpty)
        let noReport = events[(try #require(events.firstIndex(of: .requestsStopped)))...]
        #expect(!noReport.contains { if case .requested = $0 { true } else { false } })
        let noAnswer = events[(try #require(events.firstIndex(of: .workFinished)))...]
        #expect(!noAnswer.contains { if case .answered = $0 { true } else { false } })
        #expect(!events[..<stop].contains { if case .detached = $0 { true } else { false } })
        #expect(processes.allSatisfy { $0.context.domainCount == 0 })
        #expect(device.cachedTranslationCount == 0)
        device.remove()
        #expect(system.record.count { $0 == .removed } == 1)
    }

    @Test func `R129, R130, S8, S9 a handler that is at work is waited for by an orderly removal only`() throws {
        for manner in [SVADevice.Manner.orderly, .surprise] {
            let system = try System()
            let isReleased = Shared(false)
            let process = try system.process { _ in isReleased.wait { $0 } }
            let device = try system.device()
            _ = try device.bind(process.context)
            let reader = try OSThread(name: "reader") { #expect(device.mark(pasid(1)) != .success(1)) }
            process.pager.waitUntilAsked()
            let releaser = try OSThread(name: "releaser") {
                // The surprise is over before the handler is.
                system.record.wait { $0.contains(manner == .orderly ? .requestsStopped : .leftQueue) }
                isReleased.update { $0 = true }
            }
            device.remove(manner)
            reader.join()
            releaser.join()
            #expect(system.record.answers.map(\.code) == [manner == .orderly ? .success : .invalid])
            #expect(system.record.removalSteps == steps([1], isComplete: manner == .orderly) + [.removed])
            #expect(system.record.unbalanced.isEmpty)
        }
    }

    @Test func `S10 a reset answers what is left, keeps the bindings, and the device can start again`() throws {
        let keeper = GroupKeeper()
        let process = try system.process(mark: 7)
        let device = try system.device()
        let handle = try device.bind(process.context)
        try device.attach(IOAddressSpace(), to: pasid(9), handler: keeper)
        try unsafe device.withTranslations(of: pages(0), pasid: pasid(1), rights: .read) { _ in }
        let reader = try OSThread(name: "reader") { #expect(device.mark(pasid(9)) == .failure(.stopped)) }
        keeper.wait(for: 1)
        device.reset()
        reader.join()
        #expect(system.record.removalSteps == steps([]))
        #expect(device.cachedTranslationCount == 0)
        #expect(process.space.mappings().map(\.pinCount) == [0])
        #expect(handle.users == 1)
        #expect(device.mark(pasid(1)) == .failure(.stopped))
        #expect(keeper.groups.map { $0.respond(.success) } == [false], "an answer after the reset does nothing")
        try device.start()
        try device.start()
        #expect(device.mark(pasid(1)) == .success(7))
        #expect(device.mark(pasid(1), page: 1) == .success(7))
        let second = try OSThread(name: "second") { #expect(device.mark(pasid(9)) == .failure(.refused)) }
        keeper.wait(for: 2)
        #expect(!keeper.groups[0].respond(.success))
        #expect(keeper.groups[1].respond(.invalid))
        second.join()
        #expect(system.record.unbalanced.isEmpty)
        device.remove()
        device.reset()
        #expect(system.record.steps.last == .removed)
    }

    @Test func `S9 a removal does not wait for a user who never answers`() throws {
        let channel = FaultChannel()
        let device = try system.device()
        try device.attach(IOAddressSpace(), to: pasid(1), handler: channel)
        let readers = try (0..<4 as Range<UInt64>).map { number in
            try OSThread(name: "reader") { #expect(device.mark(pasid(1), page: number) == .failure(.stopped)) }
        }
        system.record.wait { $0.count { if case .requested = $0 { true } else { false } } == 4 }
        device.remove(.surprise)
        for reader in readers { reader.join() }
        #expect(system.record.answers.map(\.code) == [.invalid, .invalid, .invalid, .invalid])
        #expect(!channel.isReadable)
    }

    @Test func `a removal waits for pins of the model, and tells it to let go`() throws {
        let process = try system.process()
        let box = Shared<PinBox?>(nil)
        let heard = Shared<[PASID?]>([])
        let device = SVADevice(in: system.pasids, faultQueue: system.queue, trace: system.record.sink) { pasid, _ in
            heard.update { $0.append(pasid) }
            if heard.value.count == 3 { box.update { $0.take() }?.unpin() }
        }
        try device.start()
        _ = try device.bind(process.context)
        let pinned = PinBox(try device.pin(pages(0), pasid: pasid(1), rights: .read))
        box.update { $0 = pinned }
        keepingPins { device.remove() }
        #expect(heard.value.prefix(3) == [pasid(1), pasid(1), pasid(1)])
        #expect(process.space.mappings().map(\.pinCount) == [0])
    }

    @Test func `an unbind that meets the removal of its device leaves it to that`() throws {
        let process = try system.process()
        let own = Shared<SVAHandle?>(nil)
        let device = SVADevice(in: system.pasids, faultQueue: system.queue, trace: system.record.sink) { _, _ in
            // In the middle of the removal's detachment.
            #expect(errorOf { () throws(DMAError) in try own.value?.unbind() } == nil)
        }
        let handle = try device.bind(process.context)
        _ = try device.bind(process.context)
        own.update { $0 = handle }
        device.remove()
        try handle.unbind()
        #expect(handle.users == 0)
        #expect(system.record.count { $0 == .detached(pasid(1)) } == 1)
        own.update { $0 = nil }
    }

    @Test func `a device that was never started, or is bound while it does not run, can be removed`() throws {
        let process = try system.process()
        let device = try system.device(started: false)
        _ = try device.bind(process.context)
        #expect(device.mark(pasid(1)) == .failure(.stopped))
        device.remove()
        #expect(process.context.domainCount == 0)
    }

    @Test func `a device behind a queue that was stopped does not start, and can be removed`() throws {
        let device = try system.device(started: false)
        system.queue.stop()
        #expect(errorOf { () throws(DMAError) in try device.start() } == .invalid)
        #expect(!device.isRunning)
        device.remove()
    }

    @Test func `the end of a fault queue answers the devices that still run`() throws {
        let keeper = GroupKeeper()
        let device = try system.device()
        try device.attach(IOAddressSpace(), to: pasid(1), handler: keeper)
        let reader = try OSThread(name: "reader") { #expect(device.mark(pasid(1)) == .failure(.refused)) }
        keeper.wait(for: 1)
        system.queue.stop()
        reader.join()
        #expect(device.mark(pasid(1)) == .failure(.refused), "there is nobody to ask any more")
        device.remove()
    }

    @Test func `a device that is dropped with an attachment traps`() async {
        await #expect(processExitsWith: .failure) {
            let space = IOAddressSpace()
            try SVADevice(in: PASIDSpace()).attach(space)
        }
    }
}
