import DMA
import DeviceModel
import LinuxHost
import PCI
import Randomness
import Testing

/// PCI Bus Power Management Interface 1.2, 3.2.4 and 5.4
@Suite struct `Power states` {
    let function = TestFunction()
    private var port: PCIPort { function.model.port }

    private var powerControl: UInt64 { function.configuration(function.capability(.powerManagement) + 4, 2) }

    @Test func `D3hot and back`() {
        #expect(powerControl == 8)
        function.setPowerState(3)
        #expect(powerControl == 0xb)
        function.setPowerState(0)
        #expect(powerControl == 8)
    }

    @Test(arguments: [0, 3] as [UInt64], [1, 2] as [UInt64])
    func `states that the function does not have are ignored`(current: UInt64, unsupported: UInt64) {
        function.setPowerState(current)
        function.setPowerState(unsupported)
        #expect(powerControl == 8 | current)
    }

    @Test(arguments: [1, 2, 4, 8])
    func `in D3hot windows answer with ones and drop writes`(byteCount: Int) {
        function.set(0x55, 2, 0x10, byteCount)
        function.setPowerState(3)
        _ = function.model.takeTrace()
        #expect(function.read(2, 0x10, byteCount) == [UInt8](repeating: 0xff, count: byteCount))
        function.set(0xaa, 2, 0x10, byteCount)
        #expect(function.model.takeTrace().isEmpty)
        function.setPowerState(0)
        #expect(function.value(2, 0x10, byteCount) == 0x55)
    }

    @Test func `in D3hot the MSI-X structures answer like any other memory`() {
        function.maskVector(1, false)
        function.setPowerState(3)
        #expect(function.value(0, 0x2000, 8) == .max)
        #expect(function.value(0, 0x3000, 8) == .max)
        function.maskVector(1, true)
        function.maskVector(2, false)
        function.setPowerState(0)
        #expect(function.value(0, 0x201c, 4) == 0)
        #expect(function.value(0, 0x202c, 4) == 1)
    }

    @Test func `in D3hot configuration space works`() {
        function.setPowerState(3)
        #expect(function.configuration(0) == 0x0010_1b36)
        function.configure(0x3c, 1, 0x42)
        #expect(function.configuration(0x3c, 1) == 0x42)
    }

    @Test func `in D3hot messages wait`() throws {
        function.enableBusMaster()
        function.enableMSIX()
        let counters = try function.interrupts.connectCounters(.msix)
        function.setPowerState(3)
        port.notify(0)
        #expect(counters.drain() == [0])
        function.setPowerState(0)
        #expect(counters.drain() == [1])
    }

    @Test func `in D3hot the line is released`() throws {
        let counters = try function.interrupts.connectCounters(.intx)
        function.setPowerState(3)
        port.setInterruptLine(asserted: true)
        #expect(counters.drain() == [0])
        function.setPowerState(0)
        #expect(counters.drain() == [1])
        function.setPowerState(3)
        function.interrupts.unmask(.intx, 0)
        #expect(counters.drain() == [0])
    }

    @Test func `nothing is lost on the way back to D0`() {
        function.command(set: 0x406)
        function.configure(0x10, 4, 0xfebf_0000)
        function.enableMSI(grant: 2)
        function.maskVector(3, false)
        let before = function.read(PCIRegion.configuration, 0, 4096)
        function.setPowerState(3)
        function.setPowerState(0)
        #expect(function.read(PCIRegion.configuration, 0, 4096) == before)
        #expect(function.value(0, 0x203c, 4) == 0)
        #expect(!function.model.takeTrace().contains(.reset))
    }
}

@Suite struct `Reset` {
    enum Way: CaseIterable, Sendable {
        case message, functionLevel

        func perform(on function: TestFunction) {
            switch self {
            case .message: function.reset()
            case .functionLevel: function.resetByConfiguration()
            }
        }
    }

    @Test(arguments: Way.allCases)
    func `S99 everything is as it was at power-on`(way: Way) {
        let function = TestFunction()
        let fresh = function.read(PCIRegion.configuration, 0, 4096)
        let freshWindow = function.read(0, 0, 0x4000)
        var numbers = SeededNumbers(seed: 99)
        function.write(PCIRegion.configuration, 0, numbers.bytes(0x80))
        function.configure(function.capability(.express) + 0x28, 4, .max)
        function.write(0, 0, numbers.bytes(0x4000))
        function.setPowerState(3)
        way.perform(on: function)
        #expect(function.read(PCIRegion.configuration, 0, 4096) == fresh)
        #expect(function.read(0, 0, 0x4000) == freshWindow)
        #expect(!function.model.port.isBusMaster)
        #expect(function.model.takeTrace().contains(.reset))
    }

    @Test(arguments: Way.allCases)
    func `S99 interrupts stay connected and what was raised is forgotten`(way: Way) throws {
        let function = TestFunction()
        function.enableBusMaster()
        function.enableMSIX()
        let counters = try function.interrupts.connectCounters(.msix, 4)
        for vector in 0..<4 { function.maskVector(vector, true) }
        for vector in 0..<8 { function.model.port.notify(vector) }
        way.perform(on: function)
        function.enableBusMaster()
        function.enableMSIX()
        let late = try function.interrupts.connectCounters(.msix, 4, from: 4)
        #expect(counters.drain() == [0, 0, 0, 0])
        #expect(late.drain() == [0, 0, 0, 0])
        for vector in 0..<8 { function.maskVector(vector, false) }
        #expect(counters.drain() == [0, 0, 0, 0])
        #expect(late.drain() == [0, 0, 0, 0])
        function.model.port.notify(2)
        #expect(counters.drain() == [0, 0, 1, 0])
    }

    @Test(arguments: Way.allCases)
    func `the line is released`(way: Way) throws {
        let function = TestFunction()
        let line = try function.interrupts.connectCounters(.intx)
        function.model.port.setInterruptLine(asserted: true)
        way.perform(on: function)
        #expect(line.drain() == [1])
        function.interrupts.unmask(.intx, 0)
        #expect(line.drain() == [0])
        #expect(function.configuration(0x06, 2) >> 3 & 1 == 0)
    }

    @Test(arguments: Way.allCases)
    func `what the device still raises while it is being reset is forgotten`(way: Way) throws {
        let function = TestFunction()
        let messages = try function.interrupts.connectCounters(.msix, 2)
        let line = try function.interrupts.connectCounters(.intx)
        function.model.duringReset { port in
            #expect(!port.isBusMaster)
            port.notify(1)
            port.setInterruptLine(asserted: true)
        }
        function.enableBusMaster()
        way.perform(on: function)
        function.interrupts.disable(.msix)
        #expect(line.drain() == [0])
        function.interrupts.connect(.msix, from: 0, to: messages)
        function.enableBusMaster()
        function.enableMSIX()
        #expect(messages.drain() == [0, 0])
        #expect(!function.isPending(1))
    }

    @Test func `the bit that resets reads as zero`() {
        let function = TestFunction()
        let control = function.capability(.express) + 8
        function.configure(control, 2, 0x8000)
        #expect(function.configuration(control, 2) == 0x2810)
        #expect(function.model.takeTrace() == [.reset])
        function.configure(control + 1, 1, 0x80)
        #expect(function.model.takeTrace() == [.reset])
        function.configure(control, 4, 0x0000_8000)
        #expect(function.model.takeTrace() == [.reset])
    }

    @Test(arguments: [(8, 1), (8, 2), (9, 1), (10, 2)])
    func `writes around the bit do not reset`(offset: Int, byteCount: Int) {
        let function = TestFunction()
        let place = function.capability(.express) + offset
        function.configure(
            place, byteCount, byteCount == 1 && offset == 9 ? 0x7f : byteCount == 2 && offset == 8 ? 0x7fff : .max)
        #expect(function.model.takeTrace().isEmpty)
    }

    @Test func `a long write that resets goes on with the fresh function`() {
        let function = TestFunction()
        let control = function.capability(.express) + 8
        var bytes = [UInt8](repeating: 0, count: 44)
        bytes[1] = 0x80
        bytes[0x30 - 8] = 2
        function.write(PCIRegion.configuration, UInt64(control), bytes)
        #expect(function.model.takeTrace() == [.reset])
        #expect(function.configuration(function.capability(.express) + 0x30, 2) == 2)
    }
}
