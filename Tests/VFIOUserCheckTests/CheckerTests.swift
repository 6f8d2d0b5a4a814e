import DeviceModel
import Edu
import LinuxHost
import Testing

@testable import VFIOUserCheck

/// Time is of no matter to these, but to those that wait for what never comes.
private let patience = Duration.seconds(60)

/// Those that take seconds or leave little to tell from outside are run once, against a server without fault.
private let slow: Set = [20, 45, 55, 103]

/// Runs items against a server with a fault and returns the names of those that fail.
private func failures(
    _ fault: Fault, of device: any Device, items: [CheckItem], patience: Duration = patience
) throws -> [String] {
    let server = try FaultyServer(fault, device: device)
    defer { server.end() }
    let results = Checker(path: server.path, patience: patience).run(items)
    #expect(results.count == items.count)
    return results.compactMap { result in
        if case .fails(let finding) = result.outcome {
            #expect(!finding.sent.isEmpty && !finding.expected.isEmpty && !finding.received.isEmpty)
            return result.item.name
        }
        return nil
    }
}

private func names(_ numbers: [Int]) -> [String] { numbers.map { "S\($0)" } }

@Suite struct `The checklist as data` {
    @Test func `it has every number once and in order`() {
        #expect(CheckItem.all.map(\.number) == Array(1...108))
    }

    @Test func `every item says what it demands in a sentence, where that stands and whom it matters to`() {
        for item in CheckItem.all {
            #expect(item.demand.hasSuffix(".") && item.demand.count > 20, "\(item.name)")
            #expect(!item.source.isEmpty && !item.audiences.isEmpty, "\(item.name)")
            #expect(item.reasonWithoutCheck?.isEmpty != true, "\(item.name)")
        }
    }

    @Test func `only what takes a guest or a look inside is without a check`() {
        #expect(
            CheckItem.all.filter { $0.reasonWithoutCheck != nil }.map(\.number) == [18, 105, 107, 108])
    }
}

@Suite struct `Checking servers` {
    @Test func `nothing fails of a server that is right`() throws {
        #expect(try failures(.none, of: Edu.makeFunction(), items: CheckItem.all) == [])
    }

    @Test(
        arguments: [
            (.answersUnderAnotherID, [1, 4, 56]), (.givesErrorsAPayload, [3]), (.answersWhatWantsNoReply, [2]),
            (.sendsInPieces, [5]), (.padsTheVersion, [29]), (.leavesOutTheNUL, [30]), (.namesWhatNobodyNamed, [28]),
            (.takesTooManyDescriptors, [31]), (.answersUnmapsWithAHeader, [46, 47, 48, 50, 51]),
            (.callsOverlapsInvalid, [39]), (.hasARegionOfThreeQuarters, [70, 94]), (.losesWrites, [94]),
            (.forgetsToFire, [7, 74, 77, 99]),
            (
                .neverRefuses,
                [
                    3, 8, 9, 10, 11, 12, 14, 15, 17, 21, 22, 24, 26, 33, 38, 39, 40, 41, 42, 49, 50, 52, 53, 64, 66,
                    72, 73, 77, 81, 84, 85, 86, 87, 88, 92, 96, 99, 100, 102,
                ]
            ),
        ] as [(Fault, [Int])])
    func `a fault fails the items that are about it and no other`(fault: Fault, expected: [Int]) throws {
        let items = CheckItem.all.filter { !slow.contains($0.number) }
        let failing = try failures(fault, of: Edu.makeFunction(), items: items)
        #expect(failing == names(expected))
    }

    @Test(
        arguments: [
            (.none, []), (.sendsTwoDescriptors, [35, 68]), (.sendsNoDescriptor, [68]), (.overlapsAreas, [69]),
            (.passesTheEnd, [69]), (.showsOtherBytes, [71]),
        ] as [(Fault, [Int])])
    func `a fault in what can be mapped fails the items that are about it`(fault: Fault, expected: [Int]) throws {
        let items = CheckItem.all.filter { [1, 5, 35, 65, 66, 67, 68, 69, 71].contains($0.number) }
        #expect(try failures(fault, of: WindowDevice(), items: items) == names(expected))
    }

    @Test func `a server that does not answer or does not let go is given up`() throws {
        let items = CheckItem.all.filter { [16, 19, 46, 64, 100].contains($0.number) }
        let time = Duration.seconds(2)
        #expect(
            try failures(.forgetsToAnswerResets, of: Edu.makeFunction(), items: items, patience: time) == ["S19"])
        #expect(
            try failures(.keepsDescriptors, of: Edu.makeFunction(), items: items, patience: time) == ["S16", "S46"])
    }

    @Test func `the item that ends a server fails, and nothing is said of the others`() throws {
        let server = try FaultyServer(.dies(at: 14), device: Edu.makeFunction())
        defer { server.end() }
        let items = CheckItem.all.filter { [1, 10, 11, 12, 13].contains($0.number) }
        let outcomes = Checker(path: server.path, patience: .seconds(2)).run(items).map(\.outcome)
        #expect(outcomes[0] == .holds && outcomes[1] == .holds)
        guard case .fails = outcomes[2] else {
            Issue.record("the item that ended the server did not fail: \(outcomes[2])")
            return
        }
        for outcome in outcomes[3...] {
            guard case .notJudged(let reason) = outcome else {
                Issue.record("judged without a server: \(outcome)")
                continue
            }
            #expect(reason.contains("S11"))
        }
    }

    @Test func `nobody who listens is an obstacle`() {
        #expect(Checker(path: "/nonexistent/socket", patience: .seconds(1)).obstacle != nil)
    }
}

/// The connection that all checks talk over, and servers that do not stop.
@Suite struct `A connection of the checks` {
    /// What a server sends over and over.
    @Test(
        arguments: [
            // A request for memory of no bytes, and one that brings a megabyte; a reply to what wanted none.
            bytes(.u16(1), .u16(11), .u32(32), .u32(0), .u32(0), .zeros(16)),
            bytes(.u16(1), .u16(12), .u32(32 + 1 << 20), .u32(0), .u32(0), .zeros(16 + 1 << 20)),
            bytes(.u16(0x1000), .u16(10), .u32(16), .u32(1), .u32(0)),
        ])
    func `is not held by what is no answer`(message: [UInt8]) throws {
        let (ours, theirs) = try UNIXSocket.pair()
        let flood = try OSThread(name: "flood") {
            // In the end it stops, so that what is held fails and does not hang.
            let end = MonotonicInstant.after(.seconds(20))
            while MonotonicInstant.now < end {
                let sent = unsafe message.withUnsafeBytes { bytes in
                    unsafe try? theirs.send(bytes, descriptors: DescriptorBundle(), waiting: true)
                }
                if sent == nil { break }
            }
            theirs.shutdown()
        }
        let connection = try RawConnection(ours, patience: .milliseconds(300))
        var outcome: Outcome?
        do throws(Outcome) {
            try connection.post(10)
            _ = try connection.receiveReply()
        } catch {
            outcome = error
        }
        connection.close()
        flood.join()
        guard case .fails = outcome else {
            Issue.record("\(outcome.map { "\($0)" } ?? "the end of the connection")")
            return
        }
    }

    @Test func `capabilities of a region inside each other are not read over and over`() throws {
        let (ours, theirs) = try UNIXSocket.pair()
        defer { theirs.shutdown() }
        let connection = try RawConnection(ours, patience: .seconds(1))
        // Both name areas, and the second begins among those of the first.
        let payload = bytes(
            .u32(80), .u32(0xf), .u32(0), .u32(32), .u64(0x4000), .u64(0), .u16(1), .u16(1), .u32(48), .u32(2), .u32(0),
            .u16(1), .u16(1), .u32(0), .u32(1), .u32(0), .u64(0), .u64(0x1000))
        #expect(throws: Outcome.self) { try RegionCapabilities(payload, connection) }
    }
}
