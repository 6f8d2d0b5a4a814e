import DMA
import DeviceModel
import LinuxHost
import PCI
import Testing

/// A model with nothing but a number in its one register.
private final class Pad: MigratablePCIDeviceModel {
    let port: PCIPort
    private let number = Monitor(UInt64(0))

    init(port: PCIPort) { self.port = port }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 { number.withLock { $0 } }
    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) { number.withLock { $0 = value } }
    func reset() { number.withLock { $0 = 0 } }

    var stateIdentity: StateIdentity { StateIdentity(device: "pad", version: 1) }
    func beginStop() {}
    func finishStop(by deadline: MonotonicInstant) throws(StopFailure) {}
    func resume() {}
    func saveState(into writer: inout StateWriter) { writer.append(number.withLock { $0 }) }
    func readState(from reader: inout StateReader) throws(StateError) -> UInt64 { try reader.integer() }
    func adopt(_ state: UInt64) { number.withLock { $0 = state } }
}

@Suite struct `Functions that migrate` {
    private typealias Function = PCIFunction<Pad>

    private let function = Function(.everything) { Pad(port: $0) }

    private func saved(_ function: Function) -> [UInt8] {
        var writer = StateWriter()
        function.saveState(into: &writer)
        return writer.bytes
    }

    /// Another function with the state of a stopped one; it stands still.
    private func moved(_ function: Function) throws -> Function {
        let other = Function(.everything) { Pad(port: $0) }
        other.beginStop()
        var reader = StateReader(saved(function))
        try other.restoreState(from: &reader)
        return other
    }

    @Test func `configuration space, windows, vectors and the model go along`() throws {
        function.command(set: CommandBits.busMaster | CommandBits.memorySpace)
        function.configure(0x10, 4, 0xfeb0_0000)
        function.configure(0x3c, 1, 0x42)
        function.set(0x1234_5678_9abc_def0, 0, 0x2000 + 5 * 16, 8)
        function.maskVector(5, false)
        function.set(0x77, 2, 0, 8)
        function.beginStop()
        let other = try moved(function)
        for offset in stride(from: 0, to: 4096, by: 4) {
            #expect(other.configuration(offset) == function.configuration(offset))
        }
        #expect(other.value(0, 0x2000 + 5 * 16, 8) == 0x1234_5678_9abc_def0)
        #expect(other.value(0, 0x2000 + 5 * 16 + 12, 4) == 0)
        #expect(other.value(2, 0, 8) == 0x77)
        #expect(saved(other) == saved(function))
    }

    @Test func `messages that were held back are told where the function goes on, once`() throws {
        function.enableBusMaster()
        function.enableMSIX(functionMask: true)
        function.model.port.notify(3)
        // One that the function has let go of, and that no counter has taken.
        function.enableMSIX()
        function.enableMSIX(functionMask: true)
        function.model.port.notify(65)
        function.beginStop()
        let other = try moved(function)
        let counters = try other.interrupts.connectCounters(.msix, 70)
        other.enableMSIX()
        #expect(counters.drain().allSatisfy { $0 == 0 }, "a stopped function tells nothing")
        #expect(other.isPending(3) && other.isPending(65))
        other.resume()
        #expect(counters.drain().enumerated().filter { $0.element > 0 }.map(\.offset) == [3, 65])
        #expect(!other.isPending(3) && !other.isPending(65))
    }

    @Test func `MSI vectors that are masked stay raised`() throws {
        function.enableBusMaster()
        function.enableMSI(grant: 3)
        function.maskMSI(0b110)
        function.model.port.notify(1)
        function.model.port.notify(5)
        function.beginStop()
        let other = try moved(function)
        let counters = try other.interrupts.connectCounters(.msi, 8)
        other.resume()
        #expect(counters.drain() == [0, 0, 0, 0, 0, 1, 0, 0])
        #expect(other.pendingMSI == 0b10)
        other.maskMSI(0)
        #expect(counters.drain() == [0, 1, 0, 0, 0, 0, 0, 0])
    }

    @Test func `the line and the power state go along`() throws {
        function.model.port.setInterruptLine(asserted: true)
        function.setPowerState(3)
        function.beginStop()
        let other = try moved(function)
        let counter = try other.interrupts.connectCounters(.intx)
        other.resume()
        #expect(counter.drain() == [0], "in D3hot nobody is interrupted")
        #expect(other.configuration(0x06, 2) & 8 != 0)
        other.setPowerState(0)
        #expect(counter.drain() == [1])
    }

    @Test func `guest memory is closed to a stopped function, through a reset as well`() throws {
        let space = IOAddressSpace()
        let object = try MemoryObject.anonymous(byteCount: 4096)
        try space.map(.file(object, offset: 0), at: IOVA(0x1000), byteCount: 4096, rights: [.read, .write])
        try function.attach(to: space)
        function.enableBusMaster()
        let range = IOVARange(first: IOVA(0x1000), last: IOVA(0x100f))
        func reaches() throws -> Bool {
            let memory = try #require(function.model.port.memory)
            var bytes = [UInt8](repeating: 0, count: 16)
            return unsafe bytes.withUnsafeMutableBytes { bytes in
                unsafe (try? memory.read(range, into: bytes)) != nil
            }
        }
        #expect(try reaches())
        function.beginStop()
        #expect(try !reaches())
        #expect(!function.model.port.isBusMaster)
        function.reset()
        function.enableBusMaster()
        #expect(try !reaches())
        function.resume()
        #expect(try reaches())
        function.detach()
    }

    @Test func `what no software can change in configuration space is not changed by a state either`() throws {
        function.beginStop()
        let state = saved(function)
        // The function's part opens with its name and size, then the number of bytes of registers.
        let start = 1 + 8 + 8 + 4
        let registers = RegisterMap<ConfigurationRegister>(.everything).declarations
        for offset in 0..<0x10c {
            let register = registers.first { ($0.offset..<$0.offset + $0.byteCount).contains(offset) }
            for bit in 0..<8 {
                var changed = state
                changed[start + offset] ^= 1 << UInt8(bit)
                var reader = StateReader(changed)
                let isTaken = (try? function.restoreState(from: &reader)) != nil
                let place = bit + (offset - (register?.offset ?? 0)) * 8
                let field = register?.fields.first { $0.bits.contains(place) }
                var isChangeable = field.map { $0.access != .readOnly } ?? false
                // What the function itself reports is read-only, and changes all the same.
                if field != nil, register?.hooks.contains(.read) == true { isChangeable = true }
                // One bit more or less makes a power state that there is not.
                if register?.id == .powerManagementControl { isChangeable = false }
                #expect(isTaken == isChangeable, "\(register?.name ?? "no register"), bit \(place)")
            }
        }
        var reader = StateReader(state)
        try function.restoreState(from: &reader)
        #expect(function.configuration(0x00) == 0x0010_1b36)
    }

    @Test func `a power state that there is not is refused`() throws {
        function.setPowerState(3)
        function.beginStop()
        var state = saved(function)
        let place = 1 + 8 + 8 + 4 + function.capability(.powerManagement) + 4
        #expect(state[place] == 0xb)
        for bad in [9, 10] as [UInt8] {
            state[place] = bad
            var reader = StateReader(state)
            #expect(throws: StateError.impossible("power state")) { try function.restoreState(from: &reader) }
        }
    }

    @Test func `a state for a function of another kind is refused`() throws {
        function.beginStop()
        for change in [
            { $0.deviceID = 0x11 }, { $0.serialNumber = 7 }, { $0.msi = MSIDescription(vectorCount: 4) },
            { $0.msix = nil }, { $0.isExpress = false }, { $0.bars.removeLast() },
        ] as [(inout PCIDescription) -> Void] {
            let other = Function(PCIDescription.everything.with(change)) { Pad(port: $0) }
            other.beginStop()
            var reader = StateReader(saved(function))
            if let error = error(of: { () throws(StateError) in try other.restoreState(from: &reader) }) {
                guard case .impossible = error else { Issue.record("\(error)"); continue }
            } else {
                // Without its I/O window the function has no register there, in which the state has nothing but zeroes.
                #expect(other.configuration(0x1c) == 0)
            }
        }
    }

    private func error(of body: () throws(StateError) -> Void) -> StateError? {
        do throws(StateError) {
            try body()
            return nil
        } catch {
            return error
        }
    }
}
