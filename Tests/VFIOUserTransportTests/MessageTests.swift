import LinuxHost
import Testing
import VFIOUserTransport
import VFIOUserWire

private func message(_ id: UInt16, payload count: Int) -> [UInt8] {
    var writer = MessageWriter()
    writer.beginCommand(.readRegion, id: MessageID(rawValue: id))
    writer.append(contentsOf: text(count))
    writer.finish()
    return writer.bytes
}

/// What a reader made of a message.
private struct Taken: Hashable {
    let id: UInt16
    let payload: [UInt8]
    let descriptorCount: Int
}

@Suite struct `Reading messages` {
    private func takeAll(_ reader: inout MessageReader, from transport: any Transport) throws(Errno) -> [Taken] {
        var taken: [Taken] = []
        for _ in 0..<100_000 {
            let arrival = try reader.receive(from: transport)
            while true {
                guard case .message(let message) = reader.next() else { break }
                let (id, payload) = (message.header.id.rawValue, Array(reader.bytes[message.payload]))
                taken.append(Taken(id: id, payload: payload, descriptorCount: message.takeDescriptors().count))
            }
            if arrival == .end { break }
        }
        return taken
    }

    @Test(arguments: 0...30 as ClosedRange<UInt64>)
    func `however a conversation is split, each message has its bytes and its descriptors`(seed: UInt64) throws {
        let (left, right) = try UNIXSocket.pair()
        let counter = try EventCounter()
        var expected: [Taken] = []
        for id in 0..<200 as Range<UInt16> {
            let count = Int(id) * 7 % 150
            let descriptorCount = id % 3 == 0 ? Int(id) % 5 : 0
            let bytes = message(id, payload: count)
            #expect(try right.write(bytes, Array(repeating: counter, count: descriptorCount)) == bytes.count)
            expected.append(Taken(id: id, payload: text(count), descriptorCount: descriptorCount))
        }
        right.shutdown()
        let faults = try FaultPlan(parsing: "seed=\(seed),short-reads=\(seed * 3)%,interruptions=5%,refusals=5%")
        var reader = MessageReader()
        #expect(try takeAll(&reader, from: FaultyTransport(left, faults)) == expected)
    }

    @Test func `a reader says when there may be more`() throws {
        let (left, right) = try UNIXSocket.pair()
        let counter = try EventCounter()
        var reader = MessageReader()
        #expect(try reader.receive(from: left) == .nothing)
        _ = try right.write(message(1, payload: 0), [counter])
        _ = try right.write(message(2, payload: 0))
        #expect(try reader.receive(from: left) == .bytes(mayBeMore: true))
        #expect(try reader.receive(from: left) == .bytes(mayBeMore: false))
        right.shutdown()
        #expect(try reader.receive(from: left) == .end)
    }

    @Test func `a message beyond the limit that was set is broken`() throws {
        let (left, right) = try UNIXSocket.pair()
        var reader = MessageReader(maximumMessageSize: 100)
        _ = try right.write(message(1, payload: 84) + message(2, payload: 85))
        _ = try reader.receive(from: left)
        guard case .message(let first) = reader.next() else {
            Issue.record("a message at the limit was not taken")
            return
        }
        #expect(first.header.byteCount == 100)
        guard case .broken(let id, .readRegion, .messageTooLong(maximum: 100, actual: 101)) = reader.next() else {
            Issue.record("a message past the limit was taken")
            return
        }
        #expect(id.rawValue == 2)
    }

    @Test func `descriptors that pile up on a message that never ends are too many`() throws {
        let (left, right) = try UNIXSocket.pair()
        let counters = [EventCounter](repeating: try EventCounter(), count: 126)
        var reader = MessageReader()
        let bytes = message(1, payload: 60_000)
        for place in 0..<2 {
            _ = try right.write([bytes[place]], counters)
            #expect(try reader.receive(from: left) == .bytes(mayBeMore: true))
        }
        _ = try right.write([bytes[2]], counters)
        var failure: Errno?
        do throws(Errno) {
            _ = try reader.receive(from: left)
        } catch {
            failure = error
        }
        #expect(failure == .tooManyReferences)
    }
}

@Suite struct `Sending messages` {
    @Test(arguments: 0...20 as ClosedRange<UInt64>)
    func `what is taken in pieces arrives whole and once, with its descriptors`(seed: UInt64) throws {
        let (left, right) = try UNIXSocket.pair()
        let faults = "seed=\(seed),short-writes=80%,interruptions=20%,refusals=20%"
        let transport = FaultyTransport(left, try FaultPlan(parsing: faults))
        let counter = try EventCounter()
        var sender = MessageSender()
        var reader = MessageReader()
        for id in 0..<100 as Range<UInt16> {
            var bundle = DescriptorBundle(adopting: [counter.rawDescriptor])
            // Lent: the sender duplicates what it has to keep.
            defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
            try sender.send(message(id, payload: Int(id) * 10), bundle, to: transport)
            while !sender.isEmpty { try sender.flush(to: transport) }
            var descriptorCount: Int?
            while descriptorCount == nil {
                _ = try reader.receive(from: right)
                guard case .message(let message) = reader.next() else { continue }
                #expect(message.header.id.rawValue == id && message.payload.count == Int(id) * 10)
                descriptorCount = message.takeDescriptors().count
            }
            #expect(descriptorCount == 1)
        }
    }
}
