import DMA
import LinuxHost
import SVA
import Testing

@Suite struct `Asking for pages` {
    let system: System

    init() throws { system = try System() }

    @Test func `S1 as many groups as there are indices are outstanding, and one more waits for an answer`() throws {
        let keeper = GroupKeeper()
        let space = IOAddressSpace()
        let device = try system.device {
            $0.outstandingRequests = 600
            $0.requestPatience = .milliseconds(20)
        }
        try device.attach(space, to: pasid(1), handler: keeper)
        let readers = try (0..<512).map { number in
            try OSThread(name: "reader") { _ = device.mark(pasid(1), page: UInt64(number)) }
        }
        keeper.wait(for: 512)
        #expect(Set(keeper.groups.map { $0.requests[0].group }).count == 512)
        #expect(device.mark(pasid(1), page: 600) == .failure(.timedOut))
        #expect(device.pageRequests.outstandingGroupCount == 512)
        let answered = keeper.groups[37]
        answered.respond(.invalid)
        while device.pageRequests.outstandingGroupCount == 512 {}
        let last = try OSThread(name: "last") { _ = device.mark(pasid(1), page: 601) }
        keeper.wait(for: 513)
        #expect(keeper.groups[512].requests[0].group == answered.requests[0].group)
        for group in keeper.groups { group.respond(.invalid) }
        for reader in readers { reader.join() }
        last.join()
        #expect(system.record.unbalanced.isEmpty)
        #expect(device.pageRequests.outstandingGroupCount == 0)
        device.remove()
    }

    @Test func `S2 no more requests are outstanding than there are credits, and who cannot wait fails`() throws {
        let keeper = GroupKeeper()
        let device = try system.device {
            $0.outstandingRequests = 4
            $0.requestPatience = .milliseconds(20)
        }
        try device.attach(IOAddressSpace(), to: pasid(1), handler: keeper)
        // Six pages are missing; a group has as many as there are credits.
        let reader = try OSThread(name: "reader") {
            _ = errorOf { () throws(AccessFailure) in _ = try device.read(pages(0, 6), pasid(1)) }
        }
        keeper.wait(for: 1)
        #expect(keeper.groups[0].pageNumbers == [0, 1, 2, 3])
        #expect(device.mark(pasid(1), page: 9) == .failure(.timedOut))
        keeper.groups[0].respond(.invalid)
        reader.join()
        #expect(keeper.groups.count == 1)
        device.remove()
    }

    @Test func `a thread that waits for credits goes on when they come back`() throws {
        let keeper = GroupKeeper()
        let device = try system.device { $0.outstandingRequests = 1 }
        try device.attach(IOAddressSpace(), to: pasid(1), handler: keeper)
        let readers = try (0..<4 as Range<UInt64>).map { number in
            try OSThread(name: "reader") { _ = device.mark(pasid(1), page: number) }
        }
        for count in 1...4 {
            keeper.wait(for: count)
            #expect(keeper.groups.count == count)
            keeper.groups[count - 1].respond(.invalid)
        }
        for reader in readers { reader.join() }
        device.remove()
    }

    @Test func `S3, R116 every group that leaves a device is completed`() throws {
        let process = try system.process(pageCount: 64)
        let device = try system.device { $0.requestsPerGroup = 5 }
        _ = try device.bind(process.context)
        _ = try device.read(pages(0, 64), pasid(1))
        let requests = system.record.requests
        #expect(requests.count == 64)
        #expect(requests.count(where: \.isLast) == 16)
        #expect(system.record.answers.count == 16)
        #expect(system.record.unbalanced.isEmpty)
        device.remove()
    }

    @Test func `R125 success retries, invalid fails the access, failure ends page requests for a time`() throws {
        let process = try system.process(mark: 3)
        let channel = FaultChannel()
        let device = try system.device()
        _ = try device.bind(process.context)
        try device.attach(IOAddressSpace(), to: pasid(2), handler: channel)
        #expect(device.mark(pasid(1), page: 0) == .success(3))
        #expect(device.mark(pasid(1), page: 99) == .failure(.refused))
        #expect(device.mark(pasid(1), page: 1) == .success(3))
        channel.close()
        #expect(device.mark(pasid(2)) == .failure(.failed))
        #expect(device.pageRequests.standing == .failed)
        #expect(device.mark(pasid(1), page: 2) == .failure(.failed), "whatever needs a page fails")
        #expect(device.mark(pasid(1), page: 1) == .success(3), "what is there is there")
        #expect(device.mark(pasid(3)) == .failure(.memory(.notFound)), "what nobody takes is as always")
        device.pageRequests.recover()
        #expect(device.mark(pasid(1), page: 2) == .success(3))
        #expect(system.record.unbalanced.isEmpty)
        device.remove()
    }

    @Test func `S5 a page that is gone again when it is accessed is asked for again, not for ever`() throws {
        let answering = GroupKeeper { $0.respond(.success) }
        let device = try system.device { $0.faultRetries = 8 }
        try device.attach(IOAddressSpace(), to: pasid(1), handler: answering)
        #expect(device.mark(pasid(1)) == .failure(.tooManyFaults))
        #expect(answering.groups.count == 8)
        // A page that comes at the third time is reached.
        let object = try MemoryObject.anonymous(byteCount: Int(page))
        let space = IOAddressSpace()
        let times = Shared(0)
        let slow = GroupKeeper { group in
            times.update { $0 += 1 }
            if times.value == 3 {
                let error = errorOf { () throws(DMAError) in
                    try space.map(.file(object, offset: 0), at: iova(0), byteCount: page, rights: .read)
                }
                #expect(error == nil)
            }
            group.respond(.success)
        }
        try device.attach(space, to: pasid(2), handler: slow)
        #expect(device.mark(pasid(2)) == .success(0))
        #expect(times.value == 3)
        device.remove()
    }

    @Test func `S6 an access whose pages nobody can be asked for is unrecoverable and makes no group`() throws {
        let process = try system.process()
        let device = try system.device()
        try device.attach(process.space, to: pasid(4))
        #expect(device.mark(pasid(4)) == .failure(.memory(.notFound)))
        #expect(device.mark(pasid(5)) == .failure(.memory(.notFound)))
        #expect(device.mark(nil) == .failure(.memory(.notFound)))
        let plain = SVADevice(in: system.pasids, trace: system.record.sink)
        try plain.start()
        _ = try plain.bind(process.context)
        #expect(plain.mark(pasid(1)) == .failure(.memory(.notFound)))
        let faults = [pasid(4), pasid(5), nil, pasid(1)].map {
            SVAEvent.unrecoverable($0, bytes(1, ofPage: 0), .read)
        }
        #expect(system.record.events.filter { if case .unrecoverable = $0 { true } else { false } } == faults)
        #expect(system.record.requests.isEmpty)
        device.remove()
        plain.remove()
    }

    @Test func `R124 a page is refused that is not there, or not with the rights`() throws {
        let process = try system.process(pageCount: 2, rights: .read)
        let device = try system.device()
        _ = try device.bind(process.context)
        #expect(device.mark(pasid(1), page: 1) == .success(1))
        #expect(errorOf { () throws(AccessFailure) in try device.write([1], to: iova(0), pasid(1)) } == .refused)
        #expect(errorOf { () throws(AccessFailure) in try device.write([1], to: iova(page), pasid(1)) } == .refused)
        #expect(device.mark(pasid(1), page: 2) == .failure(.refused))
        #expect(system.record.answers.map(\.code) == [.success, .invalid, .invalid, .invalid])
        device.remove()
    }

    @Test func `R115 a fault goes to the attachment of its PASID, or to who owns all that have none`() throws {
        let own = GroupKeeper { $0.respond(.invalid) }
        let function = GroupKeeper { $0.respond(.invalid) }
        let device = try system.device()
        try device.attach(IOAddressSpace(), to: pasid(1), handler: own)
        try device.attach(IOAddressSpace(), handler: function)
        #expect(device.mark(pasid(1)) == .failure(.refused))
        #expect(device.mark(nil) == .failure(.refused))
        #expect(device.mark(pasid(2)) == .failure(.memory(.notFound)))
        #expect(own.groups.map(\.pasid) == [pasid(1)])
        #expect(function.groups.map(\.pasid) == [nil])
        // An owner of the PASIDs attaches one when it is used for the first time.
        let object = try MemoryObject.anonymous(byteCount: Int(page))
        let space = IOAddressSpace()
        try space.map(.file(object, offset: 0), at: iova(0), byteCount: page, rights: .read)
        let owner = GroupKeeper { [weak device] group in
            guard let device, let pasid = group.pasid else { return }
            #expect(errorOf { () throws(DMAError) in try device.attach(space, to: pasid) } == nil)
            group.respond(.success)
        }
        try device.replace(with: IOAddressSpace(), handler: owner, takesUnknownPASIDs: true)
        #expect(device.mark(pasid(2)) == .success(0))
        #expect(owner.groups.map(\.pasid) == [pasid(2)])
        device.remove()
    }

    @Test func `R115 a PASID that is attached is not unknown, though nobody takes its faults`() throws {
        let owner = GroupKeeper { $0.respond(.invalid) }
        let device = try system.device()
        try device.attach(IOAddressSpace(), handler: owner, takesUnknownPASIDs: true)
        try device.attach(IOAddressSpace(), to: pasid(1))
        #expect(device.mark(pasid(1)) == .failure(.memory(.notFound)))
        #expect(device.mark(pasid(2)) == .failure(.refused))
        #expect(owner.groups.map(\.pasid) == [pasid(2)])
        device.remove()
    }

    @Test func `one fault goes as the documentation says`() throws {
        let counts = Shared<[Int]>([])
        let own = Shared<SVADevice?>(nil)
        let process = try system.process(mark: 6) { _ in
            guard let device = own.value else { return }
            let outstanding = device.pageRequests.outstandingGroupCount
            counts.update { $0.append(outstanding) }
        }
        let device = try system.device()
        _ = try device.bind(process.context)
        own.update { $0 = device }
        for number in 0..<2 as Range<UInt16> {
            let range = bytes(64, ofPage: UInt64(number))
            #expect(try device.read(range, pasid(1)) == [UInt8](repeating: 6, count: 64))
            let request = PageRequest(
                pasid: pasid(1), address: range.first, rights: .read, group: index(number), isLast: true)
            #expect(
                system.record.events.suffix(2) == [.requested(request), .answered(answer(.success, group: number))])
            #expect(device.pageRequests.outstandingGroupCount == 0)
        }
        #expect(counts.value == [1, 1])
        #expect(process.pager.askedPages == [0, 1])
        own.update { $0 = nil }
        device.remove()
    }

    @Test func `an answer to no group is counted and does nothing`() throws {
        let keeper = GroupKeeper()
        let device = try system.device()
        try device.attach(IOAddressSpace(), to: pasid(1), handler: keeper)
        device.respond(answer(.success, group: 3))
        let reader = try OSThread(name: "reader") { #expect(device.mark(pasid(1)) == .failure(.refused)) }
        keeper.wait(for: 1)
        let group = keeper.groups[0].requests[0].group.rawValue
        device.respond(answer(.success, group: group, pasid(2)))
        #expect(device.pageRequests.unexpectedAnswerCount == 2)
        keeper.groups[0].respond(.invalid)
        reader.join()
        device.respond(answer(.success, group: group))
        #expect(device.pageRequests.unexpectedAnswerCount == 3)
        device.remove()
    }
}
