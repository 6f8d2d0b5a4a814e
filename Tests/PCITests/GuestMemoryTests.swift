import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing

/// A client's memory of 64 KiB from address 0 on.
private struct Client {
    let space = IOAddressSpace()
    let object: MemoryObject

    init() throws {
        object = try MemoryObject.anonymous(byteCount: 0x10000)
        try space.map(.file(object, offset: 0), at: IOVA(0), byteCount: 0x10000, rights: [.read, .write])
    }

    subscript(_ place: Int) -> UInt8 {
        get { unsafe object.bytes[place] }
        nonmutating set { unsafe object.bytes[place] = newValue }
    }
}

extension GuestMemory {
    fileprivate func byte(at address: UInt64) throws(DMAError) -> UInt8 {
        let range = try IOVARange(first: IOVA(address), byteCount: 1)
        var bytes: [UInt8] = [0]
        let result = unsafe bytes.withUnsafeMutableBytes { buffer -> Result<Void, DMAError> in
            do throws(DMAError) {
                return .success(unsafe try read(range, into: buffer))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
        return bytes[0]
    }

    fileprivate func set(_ byte: UInt8, at address: UInt64) throws(DMAError) {
        let result = unsafe [byte].withUnsafeBytes { bytes -> Result<Void, DMAError> in
            do throws(DMAError) {
                return .success(unsafe try write(bytes, to: IOVA(address)))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    /// Pins a page and lets go of it at once.
    fileprivate func tryPin() throws(DMAError) {
        let pinned = try pin(IOVARange(first: IOVA(0x1000), last: IOVA(0x1fff)), rights: .read)
        pinned.unpin()
    }

    /// The errors of reading, writing and pinning; `nil` for each that works.
    fileprivate var errors: [DMAError?] {
        [failure { _ = try byte(at: 0) }, failure { try set(1, at: 0) }, failure { try tryPin() }]
    }
}

private func failure(of body: () throws -> Void) -> DMAError? {
    do {
        try body()
        return nil
    } catch {
        return error as? DMAError
    }
}

@Suite struct `Guest memory` {
    private let function = TestFunction()
    private let client: Client
    private var port: PCIPort { function.model.port }

    private static let works: [DMAError?] = [nil, nil, nil]
    private static let fails: [DMAError?] = [.notFound, .notFound, .notFound]

    init() throws {
        client = try Client()
        try function.attach(to: client.space)
    }

    @Test func `there is none without a client`() throws {
        #expect(TestFunction().model.port.memory == nil)
        function.detach()
        #expect(port.memory == nil)
    }

    @Test func `the device hears of a client that is gone when its memory is`() {
        function.detach()
        #expect(function.model.takeTrace() == [.clientLost(hadMemory: false)])
    }

    @Test func `it is the client's`() throws {
        function.enableBusMaster()
        let memory = try #require(port.memory)
        client[0x123] = 0x5a
        #expect(try memory.byte(at: 0x123) == 0x5a)
        try memory.set(0xa5, at: 0x124)
        #expect(client[0x124] == 0xa5)
    }

    @Test func `S104 without the bus master bit nothing can be reached`() throws {
        let memory = try #require(port.memory)
        #expect(memory.errors == Self.fails)
        function.enableBusMaster()
        #expect(memory.errors == Self.works)
        function.command(clear: CommandBits.busMaster)
        #expect(memory.errors == Self.fails)
    }

    @Test func `in D3hot nothing can be reached, and back in D0 everything`() throws {
        function.enableBusMaster()
        let memory = try #require(port.memory)
        function.setPowerState(3)
        #expect(memory.errors == Self.fails)
        function.setPowerState(0)
        #expect(memory.errors == Self.works)
    }

    @Test func `the device hears of memory that goes while it is pinned`() throws {
        function.enableBusMaster()
        let memory = try #require(port.memory)
        let (space, range) = (client.space, IOVARange(first: IOVA(0), last: IOVA(0xffff)))
        let pinned = try memory.pin(IOVARange(first: IOVA(0x1000), last: IOVA(0x1fff)), rights: .read)
        let unmapper = try OSThread(name: "unmapper") { _ = try? space.unmap(range) }
        function.model.waitUntilReleased()
        pinned.unpin()
        unmapper.join()
        #expect(Set(function.model.released) == [range])
        #expect(memory.errors == Self.fails)
    }

    @Test func `S54 what was begun before a reset reaches nothing after it`() throws {
        function.enableBusMaster()
        let before = try #require(port.memory)
        function.reset()
        function.enableBusMaster()
        #expect(before.errors == Self.fails)
        let after = try #require(port.memory)
        #expect(after.errors == Self.works)
    }

    @Test func `S54 what was begun for one client reaches nothing of the next`() throws {
        function.enableBusMaster()
        let before = try #require(port.memory)
        function.detach()
        function.detach()
        #expect(before.errors == Self.fails)
        let next = try Client()
        next[7] = 0x77
        try function.attach(to: next.space)
        #expect(before.errors == Self.fails)
        #expect(try port.memory?.byte(at: 7) == 0x77)
    }

    @Test func `a pin that outlasts a reset is all that is left of before`() throws {
        function.enableBusMaster()
        let before = try #require(port.memory)
        let pinned = try before.pin(IOVARange(first: IOVA(0), last: IOVA(0xfff)), rights: .read)
        keepingPins { function.reset() }
        function.enableBusMaster()
        #expect(before.errors == Self.fails)
        #expect(client.space.mappings().map(\.pinCount) == [1])
        #expect(port.memory?.errors == Self.works)
        pinned.unpin()
        #expect(client.space.mappings().map(\.pinCount) == [0])
    }

    @Test func `a client's memory is not let go while something of before a reset is pinned`() throws {
        function.enableBusMaster()
        let before = try #require(port.memory)
        let pinned = try before.pin(IOVARange(first: IOVA(0), last: IOVA(0xfff)), rights: .read)
        keepingPins { function.reset() }
        let isDetached = Monitor(false)
        let session = try OSThread(name: "session") { [function] in
            keepingPins { function.detach() }
            isDetached.update { $0 = true }
        }
        function.model.waitUntilReleased()
        #expect(!isDetached.withLock { $0 })
        pinned.unpin()
        session.join()
        #expect(isDetached.withLock { $0 })
        #expect(port.memory == nil)
    }

    @Test func `a second client is refused while the first is attached`() throws {
        let other = try Client()
        #expect(throws: DMAError.invalid) { try function.attach(to: other.space) }
        function.enableBusMaster()
        client[3] = 0x33
        #expect(try port.memory?.byte(at: 3) == 0x33)
    }

    @Test func `a function goes with its last reference, attached or not`() throws {
        weak var detachedModel: Scratchpad?
        weak var detachedPort: PCIPort?
        weak var attachedPort: PCIPort?
        do {
            let function = TestFunction()
            detachedModel = function.model
            detachedPort = function.model.port
            try function.attach(to: client.space)
            function.detach()
            let other = TestFunction()
            attachedPort = other.model.port
            try other.attach(to: client.space)
        }
        #expect(detachedModel == nil)
        #expect(detachedPort == nil)
        #expect(attachedPort == nil)
    }
}

/// Runs what waits for pins in vain. The lock checker may say that of it, and nothing else.
private func keepingPins(_ body: () -> Void) {
    let reports = LockChecker.withRecording(body)
    #expect(reports.filter { !$0.isMatterOfTime && $0.kind != .lostPin } == [])
}
