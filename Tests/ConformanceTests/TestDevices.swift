import DMA
import DeviceModel
import Edu
import LinuxHost
import PCI
import VFIOUserCheck

/// Edu's registers and numbers, by QEMU's `docs/specs/edu.rst`.
enum EduOffset {
    static let liveness: UInt64 = 0x04
    static let interruptStatus: UInt64 = 0x24
    static let interruptRaise: UInt64 = 0x60
    static let interruptAcknowledge: UInt64 = 0x64
    static let dmaSource: UInt64 = 0x80
    static let dmaDestination: UInt64 = 0x88
    static let dmaCount: UInt64 = 0x90
    static let dmaCommand: UInt64 = 0x98
    /// Where the engine sees the device's own 4 KiB.
    static let memory: UInt64 = 0x40000
}

/// Edu behind a client.
extension RawPeer {
    /// Programs a transfer from client memory at `address` into the device and starts it.
    func startEduRead(from address: UInt64, count: Int, to place: UInt64 = 0) throws {
        try startEdu(source: address, destination: EduOffset.memory + place, count: count, command: 1)
    }

    /// Programs a transfer from the device into client memory and starts it.
    func startEduWrite(to address: UInt64, count: Int, from place: UInt64 = 0) throws {
        try startEdu(source: EduOffset.memory + place, destination: address, count: count, command: 3)
    }

    func startEdu(source: UInt64, destination: UInt64, count: Int, command: UInt64) throws {
        try write(0, at: EduOffset.dmaSource, bytes(.u64(source)))
        try write(0, at: EduOffset.dmaDestination, bytes(.u64(destination)))
        try write(0, at: EduOffset.dmaCount, bytes(.u64(UInt64(count))))
        try write(0, at: EduOffset.dmaCommand, bytes(.u64(command)))
    }

    func isEduTransferring() throws -> Bool {
        try read(0, at: EduOffset.dmaCommand, count: 8).number & 1 != 0
    }

    func waitForEdu() throws {
        try eventually { try !isEduTransferring() }
    }

    /// Reads client memory into the device and waits.
    func eduRead(from address: UInt64, count: Int, to place: UInt64 = 0) throws {
        try startEduRead(from: address, count: count, to: place)
        try waitForEdu()
    }

    func eduWrite(to address: UInt64, count: Int, from place: UInt64 = 0) throws {
        try startEduWrite(to: address, count: count, from: place)
        try waitForEdu()
    }
}

/// A PCI Express function with everything that edu lacks: 64-bit and I/O BARs, MSI-X, MSI with several vectors and masks,
/// and a register that holds on to guest memory.
///
/// BAR 0, 64 KiB of 64-bit memory: at 0x00 a write raises the vector of that number; at 0x08 a write of an address pins
/// its page, of zero lets go; a read tells how often a pin had to be given up; at 0x10 the level of the INTx line; from
/// 0x100 on 256 bytes of storage; the MSI-X table at 0x2000, the pending bits at 0x3000. BAR 2 is 32 bytes of I/O.
final class VectorDevice: PCIDeviceModel {
    static let vectorCount = 32
    static let tableOffset: UInt64 = 0x2000
    static let pendingOffset: UInt64 = 0x3000
    static let raise: UInt64 = 0x00
    static let pin: UInt64 = 0x08
    static let line: UInt64 = 0x10
    static let storage: UInt64 = 0x100

    private let port: PCIPort
    private let state = Monitor(State())

    private struct State {
        var storage = [UInt8](repeating: 0, count: 256)
        var pin: Pin?
        var releaseCount: UInt64 = 0
    }

    private final class Pin: Sendable {
        let range: IOVARange
        private let memory: Monitor<PinnedBox>

        init(_ range: IOVARange, _ memory: consuming PinnedMemory) {
            self.range = range
            self.memory = Monitor(PinnedBox(memory))
        }

        func release() { memory.withLock { $0.release() } }
    }

    /// Holds a value that is not copyable where a copyable one is asked for.
    private final class PinnedBox {
        private var memory: PinnedMemory?

        init(_ memory: consuming PinnedMemory) { self.memory = consume memory }

        func release() { memory.take()?.unpin() }
    }

    static func makeFunction() -> PCIFunction<VectorDevice> {
        PCIFunction(
            PCIDescription(
                vendorID: 0x1b36, deviceID: 0x0d00, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
                bars: [
                    BaseAddressRegister(0, .memory64, byteCount: 0x10000),
                    BaseAddressRegister(2, .io, byteCount: 32),
                    BaseAddressRegister(3, .memory32, byteCount: 0x1000),
                ],
                msi: MSIDescription(vectorCount: 8, hasMasking: true),
                msix: MSIXDescription(
                    vectorCount: vectorCount, bar: 0, tableOffset: tableOffset, pendingOffset: pendingOffset))
        ) { VectorDevice(port: $0) }
    }

    private init(port: PCIPort) { self.port = port }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        guard bar == 0 else { return 0 }
        if offset == Self.pin { return state.withLock { $0.releaseCount } }
        guard (Self.storage..<Self.storage + 256).contains(offset) else { return 0 }
        let first = Int(offset - Self.storage)
        return state.withLock { Array($0.storage[first..<first + byteCount]).number }
    }

    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        guard bar == 0 else { return }
        switch offset {
        case Self.raise: port.notify(Int(value % UInt64(Self.vectorCount)))
        case Self.pin: hold(value)
        case Self.line: port.setInterruptLine(asserted: value != 0)
        case Self.storage..<Self.storage + 256:
            let first = Int(offset - Self.storage)
            state.withLock {
                $0.storage.replaceSubrange(first..<first + byteCount, with: littleEndian(value, byteCount: byteCount))
            }
        default: break
        }
    }

    func reset() {
        release(.everything)
        port.setInterruptLine(asserted: false)
        state.withLock { $0 = State() }
    }

    func release(_ range: IOVARange) {
        let pin = state.withLock { state -> Pin? in
            guard let pin = state.pin, pin.range.overlaps(range) else { return nil }
            state.pin = nil
            state.releaseCount += 1
            return pin
        }
        pin?.release()
    }

    private func hold(_ address: UInt64) {
        release(.everything)
        guard address != 0, let range = try? IOVARange(first: IOVA(rawValue: address), byteCount: 4096) else { return }
        guard let memory = try? port.memory?.pin(range, rights: [.read, .write]) else { return }
        let pin = Pin(range, memory)
        state.withLock { $0.pin = pin }
    }
}

/// A device that is not made of PCI parts, with regions of every kind: 0 can be mapped in part, 1 only read, 2 only
/// written; 7 is configuration space.
final class WindowDevice: Device {
    static let byteCount = 0x4000
    static let fileOffset = 0x2000
    static let areas: [Range<UInt64>] = [0x1000..<0x2000, 0x3000..<0x4000]

    let regions: [DeviceModel.Region]
    let interrupts = InterruptSet(counts: [.intx: 1, .error: 1, .request: 1])
    private let memory: Monitor<Window>

    private final class Window: Sendable {
        let mapping: MemoryMapping

        init(_ mapping: consuming MemoryMapping) { self.mapping = mapping }
    }

    init() throws {
        let size = Self.fileOffset + Self.byteCount
        let file = try OwnedDescriptor.anonymousMemory(name: "window", byteCount: size)
        memory = Monitor(Window(try MemoryMapping(of: file, byteCount: size, isWritable: true)))
        var regions = [DeviceModel.Region](repeating: .absent, count: 9)
        regions[0] = DeviceModel.Region(
            byteCount: UInt64(Self.byteCount),
            memory: MappableMemory(descriptor: file, fileOffset: UInt64(Self.fileOffset), areas: Self.areas))
        regions[1] = DeviceModel.Region(byteCount: 64, isWritable: false)
        regions[2] = DeviceModel.Region(byteCount: 64, isReadable: false)
        regions[7] = DeviceModel.Region(byteCount: 256)
        self.regions = regions
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        guard index == 0 else { return }
        let window = memory.withLock { $0 }
        for place in 0..<bytes.count {
            // The session has checked the access against the region, and the file holds the region.
            bytes[place] = unsafe window.mapping.bytes[Self.fileOffset + Int(offset) + place]
        }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        guard index == 0 else { return }
        let window = memory.withLock { $0 }
        for place in 0..<bytes.count {
            unsafe window.mapping.bytes[Self.fileOffset + Int(offset) + place] = bytes[place]
        }
    }

    func reset() {}
    func attach(to space: IOAddressSpace) throws(DMAError) {}
    func detach() {}
}
