import DMA
import DeviceModel
import LinuxHost
import Testing

/// A device that consists of its state.
private final class StateDevice: MigratableDevice {
    let regions = [Region](repeating: .absent, count: 9)
    let interrupts = InterruptSet(counts: [:])
    let stateIdentity: StateIdentity
    private let state: Monitor<[UInt8]>

    init(_ identity: StateIdentity, _ bytes: [UInt8] = []) {
        stateIdentity = identity
        state = Monitor(bytes)
    }

    var bytes: [UInt8] { state.withLock { $0 } }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {}
    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {}
    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}
    func beginStop() {}
    func finishStop(by deadline: MonotonicInstant) throws(StopFailure) {}
    func resume() {}
    func saveState(into writer: inout StateWriter) {
        writer.append(count: bytes.count)
        writer.append(bytes: bytes)
    }

    func restoreState(from reader: inout StateReader) throws(StateError) {
        let bytes = try reader.bytes(try reader.count(atMost: 1000, "count"))
        try reader.finish()
        state.withLock { $0 = bytes }
    }
}

@Suite struct `State streams` {
    private static func identity(
        _ device: String = "thing", _ version: UInt32 = 3, _ properties: [StateIdentity.Property] = [.init("size", "4")]
    ) -> StateIdentity {
        StateIdentity(device: device, version: version, properties: properties)
    }

    private func stream(_ device: StateDevice) -> [UInt8] {
        StateStream.opening(of: device) + StateStream.body(of: device)
    }

    private func error(of bytes: [UInt8], for device: StateDevice) -> StateError? {
        do throws(StateError) {
            var incoming = StateStream.Incoming(for: device)
            try incoming.append(bytes.span)
            var reader = try incoming.finish()
            try device.restoreState(from: &reader)
            return nil
        } catch {
            return error
        }
    }

    @Test(arguments: [0, 1, 7, 1000])
    func `what is written is read, however it is cut in pieces`(count: Int) throws {
        let state = (0..<count).map { UInt8(truncatingIfNeeded: $0) }
        let bytes = stream(StateDevice(Self.identity(), state))
        for piece in [1, 3, 16, bytes.count] {
            let device = StateDevice(Self.identity())
            var incoming = StateStream.Incoming(for: device)
            for start in stride(from: 0, to: bytes.count, by: piece) {
                try incoming.append(bytes.span.extracting(start..<min(start + piece, bytes.count)))
            }
            var reader = try incoming.finish()
            try device.restoreState(from: &reader)
            #expect(device.bytes == state)
        }
    }

    @Test func `the form is the one that the documentation says`() {
        let bytes = stream(StateDevice(Self.identity("a", 2, []), [9]))
        // Checksums are by zlib's crc32.
        #expect(
            bytes == Array("OUTBOARD".utf8) + [1, 0, 0, 0, 10, 0, 0, 0] + [1, 0x61, 2, 0, 0, 0, 0, 0, 0, 0]
                + [0xa4, 0xc4, 0xd8, 0x9e] + [5, 0, 0, 0, 0, 0, 0, 0] + [1, 0, 0, 0, 9] + [0x85, 0x64, 0xe7, 0x56])
    }

    @Test func `another device is known by what is other about it`() {
        let bytes = stream(StateDevice(Self.identity(), [1]))
        func error(_ identity: StateIdentity) -> StateError? { self.error(of: bytes, for: StateDevice(identity)) }
        #expect(error(Self.identity()) == nil)
        #expect(error(Self.identity("other")) == .otherDevice("thing"))
        #expect(error(Self.identity("thing", 4)) == .otherVersion(3))
        #expect(
            error(Self.identity("thing", 3, [.init("size", "5")])) == .otherProperty("size", here: "5", there: "4"))
        #expect(error(Self.identity("thing", 3, [])) == .otherProperty("size", here: "", there: "4"))
        #expect(
            error(Self.identity("thing", 3, [.init("size", "4"), .init("colour", "red")]))
                == .otherProperty("colour", here: "red", there: ""))
        // The order in which properties come is nobody's business.
        let (one, two) = (StateIdentity.Property("one", "1"), StateIdentity.Property("two", "2"))
        let both = stream(StateDevice(Self.identity("thing", 3, [one, two]), []))
        #expect(self.error(of: both, for: StateDevice(Self.identity("thing", 3, [two, one]))) == nil)
    }

    @Test func `text that is long or not plain is compared as it is written`() {
        let strange = Self.identity("thing", 3, [.init("name", String(repeating: "ü", count: 200))])
        #expect(error(of: stream(StateDevice(strange, [])), for: StateDevice(strange)) == nil)
    }

    @Test func `every bit is watched over, and every byte needed`() {
        let bytes = stream(StateDevice(Self.identity(), Array(0..<100)))
        let device = StateDevice(Self.identity(), [42])
        for place in bytes.indices {
            for bit in 0..<8 {
                var changed = bytes
                changed[place] ^= 1 << UInt8(bit)
                #expect(error(of: changed, for: device) != nil, "bit \(bit) of byte \(place)")
            }
            #expect(error(of: Array(bytes.prefix(place)), for: device) == .tooShort)
        }
        #expect(error(of: bytes + [0], for: device) == .trailingBytes)
        #expect(device.bytes == [42], "a refusal changes nothing")
    }

    @Test func `a device that does not fit is known by the opening alone`() throws {
        let opening = StateStream.opening(of: StateDevice(Self.identity()))
        var incoming = StateStream.Incoming(for: StateDevice(Self.identity("other")))
        try incoming.append(opening.span.extracting(0..<opening.count - 1))
        let last = Array(opening.suffix(1))
        #expect(throws: StateError.otherDevice("thing")) { try incoming.append(last.span) }
    }

    @Test func `sizes that cannot be are refused before anything is kept for them`() throws {
        let device = StateDevice(Self.identity())
        let opening = StateStream.opening(of: device)
        var huge = opening
        huge.replaceSubrange(12..<16, with: [0xff, 0xff, 0xff, 0xff])
        #expect(error(of: huge, for: device) == .impossible("size of the identity"))
        #expect(error(of: opening + [UInt8](repeating: 0xff, count: 8), for: device) == .tooLong)
        #expect(error(of: Array("OUTBOARX".utf8), for: device) == .notAState)
        #expect(
            error(of: Array("OUTBOARD".utf8) + [2] + [UInt8](repeating: 0, count: 7), for: device) == .unknownFormat(2))
        // A sender that never ends is cut off.
        var incoming = StateStream.Incoming(for: device)
        try incoming.append(opening.span)
        try incoming.append([0, 0, 0, 1, 0, 0, 0, 0].span)
        let part = [UInt8](repeating: 0, count: 1 << 20)
        #expect(throws: StateError.tooLong) { for _ in 0..<18 { try incoming.append(part.span) } }
    }

    @Test func `a reader gives what was written and nothing that was not`() throws {
        var writer = StateWriter()
        writer.append(UInt16(0x1234))
        writer.append(true)
        writer.append(text: "name")
        writer.section("part") { $0.append(UInt64.max) }
        var reader = StateReader(writer.bytes)
        #expect(try reader.integer(UInt16.self) == 0x1234)
        #expect(try reader.flag("flag"))
        #expect(try reader.text() == "name")
        var part = try reader.section("part")
        #expect(try part.integer(UInt64.self) == .max)
        try part.finish()
        try reader.finish()
        #expect(throws: StateError.tooShort) { _ = try reader.integer(UInt8.self) }
        var other = StateReader([2, 200, 1, 0, 0, 0])
        #expect(throws: StateError.impossible("flag")) { _ = try other.flag("flag") }
        #expect(throws: StateError.tooShort) { _ = try other.text() }
        var wrongSection = StateReader(writer.bytes.suffix(21))
        #expect(throws: StateError.impossible("another")) { _ = try wrongSection.section("another") }
    }
}
