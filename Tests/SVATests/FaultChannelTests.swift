import DMA
import LinuxHost
import SVA
import Testing

@Suite struct `Faults that a user answers` {
    let queue: FaultQueue
    let device = PlainDevice()
    let channel: FaultChannel
    let arrivals = Shared(0)

    init() throws {
        queue = try FaultQueue()
        let arrivals = arrivals
        channel = FaultChannel { arrivals.update { $0 += 1 } }
        device.route(pasid(1), to: channel)
        try queue.add(device)
    }

    /// Receives what there is.
    private func receive(maximumRequests: Int = .max) throws(DMAError) -> [FaultChannel.Message] {
        var messages: [FaultChannel.Message] = []
        try channel.receive(maximumRequests: maximumRequests) { message in
            messages.append(message)
            return true
        }
        return messages
    }

    /// Reports a group of so many pages.
    private func report(_ index: UInt16, count: UInt64 = 1) throws {
        for number in 1...count { try device.report(number, group: index, isLast: number == count) }
    }

    @Test func `R138 groups are delivered whole, as many as there is room for, in the order of arrival`() throws {
        try report(1, count: 3)
        try report(2, count: 2)
        try report(3, count: 2)
        #expect(errorOf { () throws(DMAError) in _ = try receive(maximumRequests: 2) } == .invalid)
        #expect(try receive(maximumRequests: 6).map(\.group.pageNumbers) == [[1, 2, 3], [1, 2]])
        #expect(try receive().map(\.group.requests.last?.group) == [index(3)])
        #expect(try receive().isEmpty)
        #expect(arrivals.value == 3)
        queue.remove(device)
    }

    @Test func `R139, R140 answers are taken up to the first with a cookie that is unknown or used`() throws {
        for number in 1...3 as ClosedRange<UInt16> { try report(number) }
        let cookies = try receive().map(\.cookie)
        #expect(Set(cookies).count == 3)
        let unknown = FaultChannel.Cookie(rawValue: 12345)
        #expect(errorOf { () throws(DMAError) in try channel.respond(unknown, .accessible) } == .invalid)
        let count = try channel.respond([
            .init(cookies[1], .accessible), .init(cookies[0], .refused), .init(cookies[1], .refused),
            .init(cookies[2], .accessible),
        ])
        #expect(count == 2)
        #expect(device.responses == [answer(.success, group: 2), answer(.invalid, group: 1)])
        #expect(errorOf { () throws(DMAError) in try channel.respond(cookies[1], .accessible) } == .invalid)
        try channel.respond(cookies[2], .accessible)
        #expect(device.responses.last == answer(.success, group: 3))
        queue.remove(device)
    }

    @Test func `R141 a group that could not be delivered is the first again, under another cookie`() throws {
        try report(1)
        try report(2)
        var seen: [FaultChannel.Cookie] = []
        let error = errorOf { () throws(DMAError) in
            _ = try channel.receive { message in
                seen.append(message.cookie)
                return false
            }
        }
        #expect(error == .badAddress)
        #expect(errorOf { () throws(DMAError) in try channel.respond(seen[0], .accessible) } == .invalid)
        let count = try channel.receive { message in
            seen.append(message.cookie)
            return message.group.requests.last?.group == index(1)
        }
        #expect(count == 1)
        #expect(Set(seen).count == 3)
        #expect(try receive().map(\.group.requests.last?.group) == [index(2)])
        queue.remove(device)
    }

    @Test func `R142 the end of an attachment answers its groups, delivered or not, and no others`() throws {
        let pasids = PASIDSpace()
        let record = Record()
        let device = SVADevice(in: pasids, faultQueue: queue, trace: record.sink)
        let spaces = [IOAddressSpace(), IOAddressSpace(), IOAddressSpace()]
        for number in 0..<2 { try device.attach(spaces[number], to: pasid(UInt32(number + 1)), handler: channel) }
        try device.start()
        let results = Shared<[UInt32: Result<UInt8, AccessFailure>]>([:])
        func reader(_ number: UInt32, page: UInt64) throws -> OSThread {
            try OSThread(name: "reader") {
                let result = device.mark(pasid(number), page: page)
                results.update { $0[number] = result }
            }
        }
        let first = try reader(1, page: 1)
        arrivals.wait { $0 == 1 }
        let delivered = try receive()
        let second = try reader(2, page: 2)
        arrivals.wait { $0 == 2 }
        try device.detach(from: pasid(1))
        first.join()
        #expect(results.value[1] == .failure(.refused))
        #expect(errorOf { () throws(DMAError) in try channel.respond(delivered[0].cookie, .accessible) } == .invalid)
        #expect(channel.isReadable)
        try device.replace(with: spaces[2], at: pasid(2), handler: channel)
        second.join()
        #expect(results.value[2] == .failure(.refused))
        #expect(!channel.isReadable)
        #expect(try receive().isEmpty)
        #expect(record.unbalanced.isEmpty)
        device.remove()
        queue.remove(self.device)
    }

    @Test func `R143, R119 closing answers everything, and devices are told that nobody answers any more`() throws {
        try report(1)
        let cookie = try receive()[0].cookie
        try report(2)
        channel.close()
        #expect(device.responses == [answer(.invalid, group: 1), answer(.invalid, group: 2)])
        #expect(errorOf { () throws(DMAError) in try channel.respond(cookie, .accessible) } == .invalid)
        try report(3)
        #expect(device.responses.last == answer(.failure, group: 3))
        channel.close()
        queue.remove(device)
        #expect(device.responses.count == 3)
    }

    @Test func `R144 it is readable as long as a group is there that was not delivered`() throws {
        #expect(!channel.isReadable)
        try report(1)
        #expect(channel.isReadable)
        _ = try receive()
        #expect(!channel.isReadable)
        try report(2)
        queue.remove(device)
        #expect(!channel.isReadable)
        #expect(try receive().isEmpty)
    }
}
