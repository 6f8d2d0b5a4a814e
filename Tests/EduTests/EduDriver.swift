import DMA
import DeviceModel
import Edu
import LinuxHost
import PCI

/// The device with guest memory and a client's event counters, driven through the face that a session uses.
struct EduDriver {
    let device: PCIFunction<Edu>
    let space = IOAddressSpace()
    let memory: MemoryObject

    /// `memoryByteCount` bytes of guest memory from address 0 on; bus mastering is on.
    init(dmaMaskBits: Int = 28, memoryByteCount: Int = 1 << 16) throws {
        device = try Edu.makeFunction(dmaMaskBits: dmaMaskBits)
        memory = try MemoryObject.anonymous(byteCount: memoryByteCount)
        try space.map(
            .file(memory, offset: 0), at: IOVA(0), byteCount: UInt64(memoryByteCount), rights: [.read, .write])
        try device.attach(to: space)
        configure(0x04, 2, 0x0006)
    }

    func bytes(_ region: Int, _ offset: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xa5, count: count)
        var span = bytes.mutableSpan
        device.readRegion(region, at: offset, into: &span)
        return bytes
    }

    func read(_ offset: UInt64, _ byteCount: Int = 4) -> UInt64 {
        bytes(0, offset, byteCount).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func write(_ offset: UInt64, _ value: UInt64, _ byteCount: Int = 4) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        device.writeRegion(0, at: offset, from: bytes.span)
    }

    func configuration(_ offset: UInt64, _ byteCount: Int) -> UInt64 {
        bytes(PCIRegion.configuration, offset, byteCount).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func configure(_ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        device.writeRegion(PCIRegion.configuration, at: offset, from: bytes.span)
    }

    /// Connects a counter to the line, or switches MSI on and connects one to its vector.
    func connect(_ kind: InterruptKind) throws -> EventCounter {
        if kind == .msi { configure(configuration(0x34, 1) + 2, 2, 1) }
        let counter = try EventCounter()
        device.interrupts.connect(kind, from: 0, to: [counter])
        return counter
    }

    /// Programs the engine and starts it.
    func startTransfer(from source: UInt64, to destination: UInt64, count: UInt64, command: UInt64) {
        write(0x80, source, 8)
        write(0x88, destination, 8)
        write(0x90, count, 8)
        write(0x98, command, 8)
    }

    func transfer(from source: UInt64, to destination: UInt64, count: UInt64, command: UInt64) {
        startTransfer(from: source, to: destination, count: count, command: command)
        waitForTransfer()
    }

    func waitForTransfer() { wait { read(0x98) & 1 == 0 } }

    func factorial(of number: UInt64) -> UInt64 {
        write(0x08, number)
        wait { read(0x20) & 1 == 0 }
        return read(0x08)
    }

    /// Looks again and again, as a driver without interrupts does.
    func wait(until isDone: () -> Bool) {
        let nobody = Monitor(())
        while !isDone() { _ = nobody.wait(until: .after(.milliseconds(1))) { _ in nil as Void? } }
    }

    /// Guest memory, byte by byte.
    subscript(_ range: Range<Int>) -> [UInt8] {
        get { unsafe Array(memory.bytes[range]) }
        nonmutating set {
            for (place, byte) in zip(range, newValue) { unsafe memory.bytes[place] = byte }
        }
    }
}

/// Where the engine sees the device's memory.
let deviceMemory: UInt64 = 0x40000

/// Bits of the DMA command register.
enum Command {
    static let toDevice: UInt64 = 1
    static let fromDevice: UInt64 = 3
    static let raiseInterrupt: UInt64 = 4
}

/// Guest memory that is reached by messages; each waits until the test lets it through.
final class SlowMemory: RemoteMemory {
    private struct State {
        var waiting = 0
        var isOpen = false
        var written: [UInt8] = []
    }

    private let state = Monitor(State())

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        pass()
        unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0x5a)
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        pass()
        let copy = unsafe Array(bytes)
        state.update { $0.written += copy }
    }

    private func pass() {
        state.update { $0.waiting += 1 }
        state.wait { $0.isOpen ? () : nil }
        state.update { $0.waiting -= 1 }
    }

    func waitUntilUsed() { state.wait { $0.waiting > 0 ? () : nil } }

    func open() { state.update { $0.isOpen = true } }

    var written: [UInt8] { state.withLock { $0.written } }
}
