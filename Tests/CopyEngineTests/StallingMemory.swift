import CopyEngine
import DMA
import LinuxHost
import PCI
import ServedDevices

/// Memory of a client that answers messages when it likes.
final class StallingMemory: RemoteMemory {
    private struct State {
        var isOpen = false
        var waiting = 0
    }

    private let state = Monitor(State())

    /// Lets every transfer go on, those that come later too.
    func open() { state.update { $0.isOpen = true } }

    /// Returns when so many transfers wait for an answer.
    func wait(forTransfers count: Int) { state.wait { $0.waiting == count ? () : nil } }

    private func wait() {
        state.update { $0.waiting += 1 }
        state.wait { $0.isOpen ? () : nil }
        state.update { $0.waiting -= 1 }
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        wait()
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) { wait() }
}

/// The direct route, which also shows the device memory that stalls, beside the client's own.
final class StallingRoute: DMARoute {
    /// Where it is.
    static let address: UInt64 = 0x10_0000_0000
    static let byteCount: UInt64 = 1 << 20

    private let direct = DirectRoute()
    private let memory: StallingMemory

    init(_ memory: StallingMemory) { self.memory = memory }

    func connect(to space: IOAddressSpace) {
        do throws(DMAError) {
            try space.map(
                .remote(memory), at: IOVA(StallingRoute.address), byteCount: StallingRoute.byteCount,
                rights: [.read, .write])
        } catch {
            preconditionFailure("a new client has nothing there: \(error)")
        }
        direct.connect(to: space)
    }

    func disconnect() { direct.disconnect() }
    func add(_ access: DMAAccess) throws(DMAError) { try direct.add(access) }
    func remove(_ access: DMAAccess) throws(DMAError) { try direct.remove(access) }
    func didFail(_ access: DMAAccess, at range: IOVARange, wanting rights: AccessRights) {
        direct.didFail(access, at: range, wanting: rights)
    }
}

/// Runs `body` with a driver of a device that also reaches memory which stalls until it is opened.
func withStallingDriver(
    workers: Int = 4, _ body: (CopyEngineDriver, StallingMemory) throws -> Void
) throws {
    var options = CopyEngine.Options()
    options.workers = workers
    options.pageTimeout = .seconds(60)
    let memory = StallingMemory()
    try withClient(of: try CopyEngine.makeFunction(options, route: StallingRoute(memory))) { client in
        // The device waits for its work before it is gone.
        defer { memory.open() }
        let driver = try CopyEngineDriver(client)
        try driver.enable()
        try body(driver, memory)
    }
}
