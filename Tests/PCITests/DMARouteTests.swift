import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing

/// A route to one of two address spaces, as an IOMMU that knows two domains would have it.
private final class Switch: DMARoute {
    struct Failure: Equatable {
        let range: IOVARange
        let rights: AccessRights
    }

    private struct State {
        var isConnected = false
        var accesses: [DMAAccess] = []
        var failures: [Failure] = []
    }

    let first = IOAddressSpace()
    let second = IOAddressSpace()
    private let state = Monitor(State())

    var isConnected: Bool { state.withLock { $0.isConnected } }
    var accessCount: Int { state.withLock { $0.accesses.count } }
    var failures: [Failure] { state.withLock { $0.failures } }

    func connect(to memory: IOAddressSpace) { state.withLock { $0.isConnected = true } }

    func disconnect() { state.withLock { $0.isConnected = false } }

    func add(_ access: DMAAccess) throws(DMAError) {
        try access.attach(to: first)
        state.withLock { $0.accesses.append(access) }
    }

    func remove(_ access: DMAAccess) throws(DMAError) {
        try access.detach()
        state.withLock { $0.accesses.removeAll { $0 === access } }
    }

    func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights) {
        state.withLock { state in
            guard state.accesses.contains(where: { $0 === access }) else { return }
            state.failures.append(Failure(range: range, rights: rights))
        }
    }

    func turn() throws {
        for access in state.withLock({ $0.accesses }) { try access.replace(with: second) }
    }
}

@Suite struct `The route of a function's accesses` {
    private let route = Switch()
    private let function: TestFunction
    private let client = IOAddressSpace()
    private static let page = IOVARange(first: IOVA(0x1000), last: IOVA(0x1fff))

    init() throws {
        function = TestFunction(.everything, route: route) { Scratchpad(port: $0) }
        let object = try MemoryObject.anonymous(byteCount: 0x2000)
        try route.first.map(.file(object, offset: 0), at: IOVA(0x1000), byteCount: 0x1000, rights: .read)
        try route.second.map(
            .file(object, offset: 0x1000), at: IOVA(0x1000), byteCount: 0x1000, rights: [.read, .write])
    }

    private func memory() throws -> GuestMemory {
        function.enableBusMaster()
        return try #require(function.model.port.memory)
    }

    @Test func `is connected as long as there is a client, and has an access as long`() throws {
        #expect(!route.isConnected && route.accessCount == 0)
        try function.attach(to: client)
        #expect(route.isConnected && route.accessCount == 1)
        function.reset()
        #expect(route.isConnected && route.accessCount == 1)
        function.detach()
        #expect(!route.isConnected && route.accessCount == 0)
        try function.attach(to: client)
        #expect(route.isConnected && route.accessCount == 1)
    }

    @Test func `an access that cannot be attached leaves the function without a client`() throws {
        let remains = try MemoryObject.anonymous(byteCount: 0x4000)
        // Not whole pages, which a device that pins must have.
        try route.first.map(.file(remains, offset: 0x10), at: IOVA(0x8010), byteCount: 0x10, rights: .read)
        #expect(throws: DMAError.addressInUse) { try function.attach(to: client) }
        #expect(!route.isConnected && function.model.port.memory == nil)
    }

    @Test func `decides where accesses go`() throws {
        try function.attach(to: client)
        let memory = try memory()
        #expect(throws: DMAError.notPermitted) { try memory.pin(Self.page, rights: .write).unpin() }
        try route.turn()
        try memory.pin(Self.page, rights: .write).unpin()
        #expect(route.second.mappings().count == 1 && client.mappings().isEmpty)
    }

    @Test func `hears of every access that is refused, and what it wanted`() throws {
        try function.attach(to: client)
        let memory = try memory()
        let beyond = IOVARange(first: IOVA(0x1ffe), last: IOVA(0x2001))
        var bytes: [UInt8] = [1, 2, 3, 4]
        _ = unsafe bytes.withUnsafeMutableBytes { buffer in
            #expect(throws: DMAError.notFound) { unsafe try memory.read(beyond, into: buffer) }
        }
        _ = unsafe bytes.withUnsafeBytes { bytes in
            #expect(throws: DMAError.notPermitted) { unsafe try memory.write(bytes, to: IOVA(0x1000)) }
        }
        #expect(throws: DMAError.notFound) { try memory.pin(IOVARange.everything, rights: .read).unpin() }
        #expect(
            route.failures == [
                .init(range: beyond, rights: .read),
                .init(range: IOVARange(first: IOVA(0x1000), last: IOVA(0x1003)), rights: .write),
                .init(range: .everything, rights: .read),
            ])
    }

    @Test func `hears nothing of what the function itself holds back`() throws {
        try function.attach(to: client)
        let memory = try memory()
        function.command(clear: CommandBits.busMaster)
        #expect(throws: DMAError.notFound) { try memory.pin(IOVARange.everything, rights: .read).unpin() }
        function.enableBusMaster()
        function.reset()
        function.enableBusMaster()
        #expect(throws: DMAError.notFound) { try memory.pin(IOVARange.everything, rights: .read).unpin() }
        #expect(route.failures.isEmpty)
    }
}

@Suite struct `The direct route` {
    private let count = Monitor(0)

    private func fail(_ function: TestFunction) throws {
        function.enableBusMaster()
        let memory = try #require(function.model.port.memory)
        #expect(throws: DMAError.notFound) {
            try memory.pin(IOVARange(first: IOVA(0x5000), last: IOVA(0x5fff)), rights: .read).unpin()
        }
    }

    private func makeFunction() -> TestFunction {
        let route = DirectRoute { [count] in count.update { $0 += 1 } }
        return TestFunction(.everything, route: route) { Scratchpad(port: $0) }
    }

    @Test func `tells once for each client that an access fails where nothing at all is mapped`() throws {
        let function = makeFunction()
        for expected in 1...2 {
            try function.attach(to: IOAddressSpace())
            try fail(function)
            try fail(function)
            #expect(count.withLock { $0 } == expected)
            function.detach()
        }
    }

    @Test func `does not tell of accesses beside what is mapped`() throws {
        let function = makeFunction()
        let client = IOAddressSpace()
        let object = try MemoryObject.anonymous(byteCount: 0x1000)
        try client.map(.file(object, offset: 0), at: IOVA(0x1000), byteCount: 0x1000, rights: .read)
        try function.attach(to: client)
        try fail(function)
        #expect(count.withLock { $0 } == 0)
        // Later it goes, and one that fails then is told of.
        try client.unmap(.everything)
        try fail(function)
        #expect(count.withLock { $0 } == 1)
    }
}
