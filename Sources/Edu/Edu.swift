import DMA
import DeviceModel
public import LinuxHost
public import PCI

/// QEMU's educational device: a factorial unit, a DMA engine with 4 KiB of memory, and an interrupt that both can raise.
///
/// Register for register as QEMU's own `edu`, so that a driver cannot tell them apart, except that a transfer takes as
/// long as it takes instead of a tenth of a second. Registers are touched on the connection's thread; factorials and
/// transfers run on a thread of the device's own, because guest memory may take a message to reach.
public final class Edu: PCIDeviceModel {
    /// Where the DMA engine sees the device's memory, in its own address space.
    static let memoryBase: UInt64 = 0x40000
    static let memoryByteCount: UInt64 = 4096
    /// Registers below this offset take four-byte accesses only, those from it on also eight-byte ones.
    static let firstWideRegister: UInt64 = 0x80

    let port: PCIPort
    let addressMask: UInt64
    let state = Monitor(EduState())
    private let worker: OSThread

    /// A function with the device behind it.
    ///
    /// - Parameters:
    ///   - dmaMaskBits: how many address bits the DMA engine has, 12 to 64; the others are ignored.
    ///   - route: where its transfers go.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public static func makeFunction(
        dmaMaskBits: Int = 28, route: any DMARoute = DirectRoute()
    ) throws(Errno) -> PCIFunction<Edu> {
        precondition((12...64).contains(dmaMaskBits), "the DMA engine has 12 to 64 address bits")
        let mask = dmaMaskBits == 64 ? UInt64.max : (1 << UInt64(dmaMaskBits)) - 1
        return try PCIFunction(description, route: route) { (port) throws(Errno) in
            try Edu(port: port, addressMask: mask)
        }
    }

    /// Commands that start a transfer can be given without a message; the driver has set the other registers before.
    private static let doorbells = [1, 3, 5, 7].map { (command: UInt64) in
        Doorbell(
            region: 0, offset: UInt64(EduRegister.commandOffset), value: command, byteCount: 8,
            rungBy: [.value(command, byteCount: 4), .value(command, byteCount: 8)])
    }

    private static let description = PCIDescription(
        vendorID: 0x1234, deviceID: 0x11e8, subsystemVendorID: 0x1af4, subsystemID: 0x1100, revision: 0x10,
        classCode: PCIClassCode(baseClass: 0x00, subclass: 0xff),
        bars: [BaseAddressRegister(0, .memory32, byteCount: 1 << 20)],
        msi: MSIDescription(vectorCount: 1, hasMasking: false), hasPowerManagement: false, isExpress: false,
        doorbells: doorbells)

    private init(port: PCIPort, addressMask: UInt64) throws(Errno) {
        self.port = port
        self.addressMask = addressMask
        worker = try OSThread(name: "edu") { [state] in
            EduEngine(port: port, state: state, addressMask: addressMask).run()
        }
    }

    deinit {
        state.update { $0.activity.isEnding = true }
        worker.join()
    }

    public func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        guard let register = register(at: offset, byteCount), !register.isWriteOnly else { return .max }
        return state.withLock { $0.registers.read(at: register.offset, byteCount: byteCount) { _ in 0 } }
    }

    /// Four bytes to a register of eight mean the whole register, as in QEMU: the upper half becomes zero.
    public func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        guard let register = register(at: offset, byteCount) else { return }
        state.update { state in
            let writes = state.registers.write(value, at: register.offset, byteCount: register.byteCount)
            for write in writes { state.act(on: write, memory: port.memory) }
            state.tell(port)
        }
    }

    /// The register that an access means; there is none for an access of a width that the device does not know, or that
    /// does not begin where a register does. Such a read answers with ones.
    private func register(at offset: UInt64, _ byteCount: Int) -> RegisterDeclaration<EduRegister>? {
        guard byteCount == 4 || byteCount == 8 && offset >= Edu.firstWideRegister else { return nil }
        return EduRegister.map.declarations.first { $0.offset == offset }
    }

    public func reset() {
        state.update { state in
            state = EduState(after: state)
            port.setInterruptLine(asserted: false)
        }
    }

    public var hasPendingTransactions: Bool { state.withLock { $0.activity.isTransferring } }
}

extension RegisterDeclaration {
    fileprivate var isWriteOnly: Bool { fields.allSatisfy { $0.access == .writeOnly } }
}

/// What the device is doing; everything that reset rebuilds.
struct EduState {
    var registers = RegisterBank(EduRegister.map)
    var memory = [UInt8](repeating: 0, count: Int(Edu.memoryByteCount))
    /// Counts resets: work that was begun under another number is not the device's any more.
    var generation = 0
    var activity = Activity()
    /// What a transfer that the driver has started works on.
    var transferMemory: GuestMemory?
    /// Whether the message for the present interrupt status is still to be sent.
    private var hasNews = false

    /// What the thread is doing, which no reset changes.
    struct Activity {
        var isWorking = false
        var isTransferring = false
        /// Whether the device stands still to be migrated: nothing new is taken up.
        var isStopped = false
        /// Counts the times that it was told to stand still. What fails under another number than it began under is done
        /// again.
        var stops = 0
        /// Whether the thread is to end.
        var isEnding = false
    }

    init() {}

    /// The state that a reset leaves, or the adoption of another.
    init(after last: EduState) {
        generation = last.generation + 1
        activity = last.activity
    }

    mutating func act(on write: RegisterWrite<EduRegister>, memory: GuestMemory?) {
        switch write.id {
        case .liveness: registers[.liveness] = ~write.new & 0xffff_ffff
        case .factorial:
            // A number that comes while another is being worked on is lost.
            if registers[.status] & EduStatus.computing != 0 {
                registers[.factorial] = write.old
            } else {
                registers[.status] |= EduStatus.computing
            }
        case .interruptRaise: raise(write.written)
        case .interruptAcknowledge: registers[.interruptStatus] &= ~write.written
        case .dmaSource, .dmaDestination, .dmaCount, .dmaCommand:
            let previous = write.id == .dmaCommand ? write.old : registers[.dmaCommand]
            let isRunning = previous & EduDMACommand.start != 0
            let startsNothing = write.id == .dmaCommand && write.new & EduDMACommand.start == 0
            // The engine's registers hold still while it runs, and a command that does not start it is ignored.
            if isRunning || startsNothing {
                registers[write.id] = write.old
            } else if write.id == .dmaCommand {
                transferMemory = memory
            }
        case .identification, .status, .interruptStatus: break
        }
    }

    mutating func raise(_ interrupts: UInt64) {
        registers[.interruptStatus] |= interrupts & 0xffff_ffff
        if registers[.interruptStatus] != 0 { hasNews = true }
    }

    /// Brings the line in step with the interrupt status, and sends one message for every time something was raised.
    mutating func tell(_ port: PCIPort) {
        port.setInterruptLine(asserted: registers[.interruptStatus] != 0)
        if hasNews { port.notify(0) }
        hasNews = false
    }
}
