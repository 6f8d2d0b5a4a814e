import DMA
import DeviceModel
import LinuxHost
import PCI
import Randomness
import Testing

/// PCI Local Bus 3.0, 6.2.2, 6.2.3 and 6.2.4
@Suite struct `Legacy interrupt` {
    let function = TestFunction()
    private var port: PCIPort { function.model.port }
    private var status: UInt64 { function.configuration(0x06, 2) >> 3 & 1 }

    @Test func `the line reaches the client and shows in the status register`() throws {
        let counters = try function.interrupts.connectCounters(.intx)
        #expect(status == 0)
        port.setInterruptLine(asserted: true)
        #expect(counters.drain() == [1])
        #expect(status == 1)
        port.setInterruptLine(asserted: false)
        #expect(status == 0)
    }

    @Test func `Interrupt Disable holds the line back and leaves the status alone`() throws {
        let counters = try function.interrupts.connectCounters(.intx)
        function.command(set: CommandBits.interruptDisable)
        port.setInterruptLine(asserted: true)
        #expect(counters.drain() == [0])
        #expect(status == 1)
        function.command(clear: CommandBits.interruptDisable)
        #expect(counters.drain() == [1])
    }

    @Test func `the line needs no bus master bit`() throws {
        let counters = try function.interrupts.connectCounters(.intx)
        #expect(!port.isBusMaster)
        port.setInterruptLine(asserted: true)
        #expect(counters.drain() == [1])
    }

    @Test func `messages are not heard while neither MSI nor MSI-X is on`() throws {
        let counters = try function.interrupts.connectCounters(.intx)
        function.enableBusMaster()
        port.notify(0)
        #expect(counters.drain() == [0])
        #expect(!port.usesMessages)
        function.enableMSIX()
        let messages = try function.interrupts.connectCounters(.msix, 1)
        #expect(messages.drain() == [0])
    }

    @Test func `a function without the pin shows no interrupt status`() {
        let function = TestFunction(.everything.with { $0.hasInterruptPin = false })
        function.model.port.setInterruptLine(asserted: true)
        #expect(function.configuration(0x06, 2) >> 3 & 1 == 0)
    }
}

/// PCI Local Bus 3.0, 6.8.1
@Suite struct `MSI` {
    let function = TestFunction()
    private var port: PCIPort { function.model.port }

    @Test func `a vector signals its own counter`() throws {
        function.enableBusMaster()
        function.enableMSI(grant: 3)
        let counters = try function.interrupts.connectCounters(.msi, 8)
        for vector in [0, 5, 5, 7] { port.notify(vector) }
        #expect(counters.drain() == [1, 0, 0, 0, 0, 2, 0, 1])
    }

    @Test(arguments: 0...3)
    func `with fewer vectors granted, vectors share`(grant: Int) throws {
        let granted = 1 << grant
        function.enableBusMaster()
        function.enableMSI(grant: UInt64(grant))
        let counters = try function.interrupts.connectCounters(.msi, granted)
        for vector in 0..<8 { port.notify(vector) }
        #expect(counters.drain() == [UInt64](repeating: UInt64(8 / granted), count: granted))
    }

    @Test(arguments: 4...7)
    func `a grant of more than was asked for is taken as what was asked for`(grant: Int) throws {
        function.enableBusMaster()
        function.enableMSI(grant: UInt64(grant))
        let counters = try function.interrupts.connectCounters(.msi, 8)
        for vector in 0..<8 { port.notify(vector) }
        #expect(counters.drain() == [UInt64](repeating: 1, count: 8))
    }

    @Test func `a client that keeps the capability to itself says by connecting how many vectors it grants`() throws {
        function.enableBusMaster()
        let two = try function.interrupts.connectCounters(.msi, 2)
        for vector in 0..<8 { port.notify(vector) }
        #expect(two.drain() == [4, 4])
        let eight = try function.interrupts.connectCounters(.msi, 8)
        for vector in 0..<8 { port.notify(vector) }
        #expect(eight.drain() == [UInt64](repeating: 1, count: 8))
    }

    @Test func `a masked vector is pending until it is unmasked, and is then told once`() throws {
        function.enableBusMaster()
        function.enableMSI(grant: 3)
        let counters = try function.interrupts.connectCounters(.msi, 8)
        function.maskMSI(0b0110)
        for vector in [1, 1, 2, 3] { port.notify(vector) }
        #expect(counters.drain() == [0, 0, 0, 1, 0, 0, 0, 0])
        #expect(function.pendingMSI == 0b0110)
        function.maskMSI(0b0100)
        #expect(counters.drain() == [0, 1, 0, 0, 0, 0, 0, 0])
        #expect(function.pendingMSI == 0b0100)
        function.maskMSI(0)
        function.maskMSI(0)
        #expect(counters.drain() == [0, 0, 1, 0, 0, 0, 0, 0])
        #expect(function.pendingMSI == 0)
    }

    @Test func `without the bus master bit messages wait`() throws {
        function.enableMSI()
        let counters = try function.interrupts.connectCounters(.msi)
        port.notify(0)
        #expect(counters.drain() == [0])
        function.enableBusMaster()
        #expect(counters.drain() == [1])
    }

    @Test func `a function that cannot mask sends at once`() throws {
        let function = TestFunction(.everything.with { $0.msi = MSIDescription(vectorCount: 32, hasMasking: false) })
        function.enableBusMaster()
        function.enableMSI(grant: 5)
        let counters = try function.interrupts.connectCounters(.msi, 32)
        for vector in 0..<32 { function.model.port.notify(vector) }
        #expect(counters.drain() == [UInt64](repeating: 1, count: 32))
    }
}

/// PCI Local Bus 3.0, 6.8.2
@Suite struct `MSI-X` {
    let function = TestFunction()
    private var port: PCIPort { function.model.port }

    private func unmaskEverything() {
        for vector in 0..<70 { function.maskVector(vector, false) }
    }

    @Test func `every vector signals its own counter`() throws {
        function.enableBusMaster()
        function.enableMSIX()
        unmaskEverything()
        let counters = try function.interrupts.connectCounters(.msix, 70)
        for vector in 0..<70 { port.notify(vector) }
        #expect(counters.drain() == [UInt64](repeating: 1, count: 70))
    }

    @Test func `vectors that do not exist are nobody's`() throws {
        function.enableBusMaster()
        function.enableMSIX()
        let counters = try function.interrupts.connectCounters(.msix, 70)
        port.notify(70)
        port.notify(.max)
        #expect(counters.drain() == [UInt64](repeating: 0, count: 70))
    }

    @Test func `entries keep address, data and mask, and nothing in their reserved bits`() {
        #expect(function.value(0, 0x2000 + 69 * 16 + 12, 4) == 1)
        for entry in [0, 33, 69] {
            let offset = 0x2000 + UInt64(entry) * 16
            function.write(0, offset, [UInt8](repeating: 0xff, count: 16))
            #expect(function.value(0, offset, 8) == 0xffff_ffff_ffff_fffc)
            #expect(function.value(0, offset + 8, 8) == 0x0000_0001_ffff_ffff)
        }
    }

    @Test(arguments: 1...12 as ClosedRange<UInt64>)
    func `the table is memory at any width and offset, but for its reserved bits`(seed: UInt64) {
        var numbers = SeededNumbers(seed: seed)
        var reference = [UInt8](repeating: 0, count: 70 * 16)
        for vector in 0..<70 { reference[vector * 16 + 12] = 1 }
        let writable: [UInt8] = [0xfc] + [UInt8](repeating: 0xff, count: 11) + [1, 0, 0, 0]
        for _ in 0..<300 {
            let offset = numbers.below(70 * 16)
            let count = min(1 + numbers.below(24), 70 * 16 - offset)
            let bytes = numbers.bytes(count)
            function.write(0, 0x2000 + UInt64(offset), bytes)
            for (number, byte) in bytes.enumerated() {
                let place = offset + number
                let mask = writable[place % 16]
                reference[place] = reference[place] & ~mask | byte & mask
            }
            let start = numbers.below(70 * 16 - 32)
            #expect(function.read(0, 0x2000 + UInt64(start), 32) == Array(reference[start..<start + 32]))
        }
        #expect(function.model.takeTrace().isEmpty)
    }

    @Test func `a masked vector is pending until it is unmasked, and is then told once`() throws {
        function.enableBusMaster()
        function.enableMSIX()
        unmaskEverything()
        let counters = try function.interrupts.connectCounters(.msix, 70)
        for vector in [0, 63, 64, 69] {
            function.maskVector(vector, true)
            port.notify(vector)
            port.notify(vector)
            #expect(function.isPending(vector))
            #expect(counters[vector].drain() == 0)
        }
        #expect(function.read(0, 0x3000, 16) == [1, 0, 0, 0, 0, 0, 0, 0x80, 0x21, 0, 0, 0, 0, 0, 0, 0])
        for vector in [0, 63, 64, 69] {
            function.maskVector(vector, false)
            #expect(!function.isPending(vector))
            function.maskVector(vector, true)
            function.maskVector(vector, false)
            #expect(counters[vector].drain() == 1)
        }
    }

    @Test func `the function mask holds every vector back`() throws {
        function.enableBusMaster()
        function.enableMSIX(functionMask: true)
        unmaskEverything()
        let counters = try function.interrupts.connectCounters(.msix, 70)
        function.maskVector(2, true)
        for vector in 0..<4 { port.notify(vector) }
        #expect(counters.drain().allSatisfy { $0 == 0 })
        #expect(function.value(0, 0x3000, 8) == 0b1111)
        function.enableMSIX()
        #expect(counters.prefix(4).map { $0.drain() } == [1, 1, 0, 1])
        #expect(function.value(0, 0x3000, 8) == 0b0100)
    }

    @Test func `the pending bits cannot be written`() {
        function.write(0, 0x3000, [UInt8](repeating: 0xff, count: 16))
        #expect(function.read(0, 0x3000, 16).allSatisfy { $0 == 0 })
    }

    @Test func `S97 where the client keeps the table, vectors count as unmasked`() throws {
        function.enableBusMaster()
        function.interrupts.connect(.msix, from: 0, to: [nil])
        let counters = try function.interrupts.connectCounters(.msix, 2, from: 3)
        port.notify(3)
        port.notify(4)
        #expect(counters.drain() == [1, 1])
    }

    @Test func `a reset masks every vector of a table that the client has written to`() throws {
        let counters = try function.interrupts.connectCounters(.msix, 1)
        function.enableMSIX()
        unmaskEverything()
        function.reset()
        function.enableBusMaster()
        function.enableMSIX()
        port.notify(0)
        #expect(counters.drain() == [0])
        function.maskVector(0, false)
        #expect(counters.drain() == [1])

        function.reset()
        function.detach()
        function.enableBusMaster()
        function.enableMSIX()
        port.notify(0)
        #expect(counters.drain() == [1])
    }

    @Test func `S97 a vector that the client masks or has not connected is pending`() throws {
        function.enableBusMaster()
        let counters = try function.interrupts.connectCounters(.msix, 2)
        function.interrupts.mask(.msix, 1)
        port.notify(0)
        port.notify(1)
        port.notify(2)
        #expect(function.value(0, 0x3000, 8) == 0b110)
        function.interrupts.unmask(.msix, 1)
        #expect(counters.drain() == [1, 1])
        let late = try function.interrupts.connectCounters(.msix, 1, from: 2)
        #expect(late.drain() == [1])
        #expect(function.value(0, 0x3000, 8) == 0)
    }

    @Test func `without the bus master bit messages wait and show as pending`() throws {
        function.enableMSIX()
        let counters = try function.interrupts.connectCounters(.msix, 1)
        port.notify(0)
        #expect(counters.drain() == [0])
        #expect(function.isPending(0))
        function.enableBusMaster()
        #expect(counters.drain() == [1])
        #expect(!function.isPending(0))
    }

    @Test func `the structures may lie in windows of their own`() throws {
        let function = TestFunction(
            .everything.with {
                $0.bars.append(BaseAddressRegister(4, .memory32, byteCount: 0x1000))
                $0.msix = MSIXDescription(
                    vectorCount: 3, tableBar: 2, tableOffset: 0x800, pendingBar: 4, pendingOffset: 0x10)
            })
        let capability = function.capability(.msix)
        #expect(function.configuration(capability + 4) == 0x802)
        #expect(function.configuration(capability + 8) == 0x14)
        function.enableMSIX()
        function.model.port.notify(2)
        #expect(function.value(4, 0x10, 8) == 0b100)
        #expect(function.value(2, 0x80c, 4) == 1)
        #expect(function.model.takeTrace().isEmpty)
    }

    @Test func `structures that overlap, or reach past their window, trap`() async {
        for (table, pending) in [(0x2000, 0x2008), (0x3ff0, 0), (0, 0x3ff9), (0, 0x4000)] as [(UInt64, UInt64)] {
            await #expect(processExitsWith: .failure) { [table = table as UInt64, pending = pending as UInt64] in
                _ = TestFunction(
                    .everything.with {
                        $0.msix = MSIXDescription(vectorCount: 70, bar: 0, tableOffset: table, pendingOffset: pending)
                    })
            }
        }
    }
}

@Suite struct `Switching between kinds of interrupts` {
    let function = TestFunction()
    private var port: PCIPort { function.model.port }

    @Test func `MSI-X goes before MSI, and both before the line`() throws {
        function.enableBusMaster()
        let line = try function.interrupts.connectCounters(.intx)
        function.enableMSI()
        port.setInterruptLine(asserted: true)
        #expect(line.drain() == [0])
        let msi = try function.interrupts.connectCounters(.msi)
        port.notify(0)
        #expect(msi.drain() == [1])
        function.enableMSIX()
        let msix = try function.interrupts.connectCounters(.msix)
        port.notify(0)
        #expect(msi.drain() == [0])
        #expect(msix.drain() == [1])
    }

    @Test func `an asserted line is heard again when the guest switches messages off`() throws {
        let line = try function.interrupts.connectCounters(.intx)
        function.enableMSIX()
        port.setInterruptLine(asserted: true)
        #expect(line.drain() == [0])
        function.enableMSIX(false)
        #expect(line.drain() == [1])
    }

    @Test(arguments: [InterruptKind.msi, .msix])
    func `an asserted line is heard again when the client disconnects the messages last`(kind: InterruptKind) throws {
        if kind == .msi { function.enableMSI() } else { function.enableMSIX() }
        _ = try function.interrupts.connectCounters(kind)
        port.setInterruptLine(asserted: true)
        if kind == .msi { function.enableMSI(false) } else { function.enableMSIX(false) }
        function.interrupts.disable(kind)
        let line = try function.interrupts.connectCounters(.intx)
        #expect(line.drain() == [1])
    }

    @Test(arguments: [InterruptKind.msi, .msix])
    func `an asserted line is silent from the moment the client connects messages`(kind: InterruptKind) throws {
        port.setInterruptLine(asserted: true)
        _ = try function.interrupts.connectCounters(kind)
        let line = try function.interrupts.connectCounters(.intx)
        #expect(line.drain() == [0])
        #expect(port.usesMessages)
    }

    @Test func `S74 messages survive the client that goes and comes back`() throws {
        function.enableBusMaster()
        function.enableMSIX()
        _ = try function.interrupts.connectCounters(.msix, 4)
        function.interrupts.disconnectAll()
        port.notify(3)
        #expect(function.isPending(3))
        let counters = try function.interrupts.connectCounters(.msix, 4)
        #expect(counters.drain() == [0, 0, 0, 1])
    }

    @Test func `raising and switching on several threads loses nothing that is asserted`() throws {
        let function = TestFunction()
        function.enableBusMaster()
        let counter = try EventCounter()
        let device = try OSThread(name: "device") {
            for number in 0..<3_000 {
                function.model.port.notify(number % 70)
                function.model.port.setInterruptLine(asserted: number % 2 == 0)
            }
            function.model.port.setInterruptLine(asserted: true)
        }
        for _ in 0..<300 {
            function.enableMSIX()
            function.interrupts.connect(.msix, from: 0, to: [EventCounter?](repeating: counter, count: 70))
            function.enableMSIX(false)
            function.interrupts.disable(.msix)
            function.interrupts.connect(.intx, from: 0, to: [counter])
            function.interrupts.disable(.intx)
        }
        device.join()
        let line = try function.interrupts.connectCounters(.intx)
        #expect(line.drain() == [1])
    }
}
