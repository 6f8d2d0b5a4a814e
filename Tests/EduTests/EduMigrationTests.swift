import DMA
import DeviceModel
import Edu
import LinuxHost
import PCI
import Testing

@Suite struct `Edu migration` {
    private func saved(_ device: PCIFunction<Edu>) -> [UInt8] {
        var writer = StateWriter()
        device.saveState(into: &writer)
        return writer.bytes
    }

    private func stop(_ device: PCIFunction<Edu>) throws {
        device.beginStop()
        try device.finishStop(by: .after(.seconds(60)))
    }

    /// A driver of another device that has taken the state of a stopped one, and still stands.
    private func moved(_ driver: EduDriver) throws -> EduDriver {
        let other = try EduDriver()
        try stop(other.device)
        var reader = StateReader(saved(driver.device))
        try other.device.restoreState(from: &reader)
        return other
    }

    @Test func `registers, memory and configuration space go along`() throws {
        let driver = try EduDriver()
        driver[0..<64] = (0..<64).map { UInt8($0) }
        driver.transfer(from: 0, to: deviceMemory + 100, count: 64, command: Command.toDevice)
        driver.write(0x04, 5)
        driver.write(0x60, 0x30)
        driver.configure(0x10, 4, 0xfee0_0000)
        #expect(driver.factorial(of: 5) == 120)
        try stop(driver.device)
        let other = try moved(driver)
        other.device.resume()
        #expect(other.read(0x04) == 0xffff_fffa)
        #expect(other.read(0x08) == 120)
        #expect(other.read(0x24) == 0x30)
        #expect(other.configuration(0x10, 4) == 0xfee0_0000)
        #expect(other.configuration(0x06, 2) & 1 << 3 != 0, "the line is asserted")
        other.transfer(from: deviceMemory + 100, to: 0x1000, count: 64, command: Command.fromDevice)
        #expect(other[0x1000..<0x1040] == (0..<64).map { UInt8($0) })
        #expect(saved(driver.device) == saved(try moved(driver).device), "the same state makes the same bytes")
    }

    @Test func `what is begun while the device stands still is done when it goes on, there or here`() throws {
        let driver = try EduDriver()
        driver[0..<8] = [1, 2, 3, 4, 5, 6, 7, 8]
        try stop(driver.device)
        driver.write(0x20, 0x80)
        driver.write(0x08, 6)
        driver.startTransfer(from: 0, to: deviceMemory, count: 8, command: Command.toDevice | Command.raiseInterrupt)
        #expect(driver.read(0x20) == 0x81 && driver.read(0x98) & 1 == 1)
        for device in [driver, try moved(driver)] {
            device[0..<8] = [1, 2, 3, 4, 5, 6, 7, 8]
            device.device.resume()
            device.wait { device.read(0x20) == 0x80 && device.read(0x98) & 1 == 0 }
            #expect(device.read(0x08) == 720)
            #expect(device.read(0x24) == 0x101)
            device.transfer(from: deviceMemory, to: 0x100, count: 8, command: Command.fromDevice)
            #expect(device[0x100..<0x108] == [1, 2, 3, 4, 5, 6, 7, 8])
        }
    }

    @Test func `a stop waits for a transfer that memory holds up, and gives up in time`() throws {
        let driver = try EduDriver()
        let slow = SlowMemory()
        try driver.space.map(.remote(slow), at: IOVA(0x10_0000), byteCount: 4096, rights: [.read, .write])
        driver.startTransfer(from: 0x10_0000, to: deviceMemory, count: 8, command: Command.toDevice)
        slow.waitUntilUsed()
        driver.device.beginStop()
        #expect(throws: StopFailure.tookTooLong) {
            try driver.device.finishStop(by: .after(.milliseconds(20)))
        }
        driver.device.resume()
        slow.open()
        driver.waitForTransfer()
        driver.transfer(from: deviceMemory, to: 0x100, count: 8, command: Command.fromDevice)
        #expect(driver[0x100..<0x108] == [UInt8](repeating: 0x5a, count: 8))
    }

    @Test(arguments: [InterruptKind.intx, .msi])
    func `an interrupt that is raised while the device stands still is told when it goes on`(kind: InterruptKind) throws
    {
        let driver = try EduDriver()
        let counter = try driver.connect(kind)
        try stop(driver.device)
        driver.write(0x60, 1)
        #expect(counter.drain() == 0)
        let other = try moved(driver)
        let second = try EventCounter()
        other.device.interrupts.connect(kind, from: 0, to: [second])
        #expect(second.drain() == 0)
        other.device.resume()
        #expect(second.drain() == 1)
        driver.device.resume()
        #expect(counter.drain() == 1)
    }

    @Test func `a message that nobody was there to hear is told elsewhere`() throws {
        let driver = try EduDriver()
        _ = try driver.connect(.msi)
        driver.device.interrupts.connect(.msi, from: 0, to: [nil])
        driver.write(0x60, 1)
        try stop(driver.device)
        let other = try moved(driver)
        let counter = try EventCounter()
        other.device.interrupts.connect(.msi, from: 0, to: [counter])
        other.device.resume()
        #expect(counter.drain() == 1)
    }

    @Test func `a reset of a stopped device leaves it stopped and empty`() throws {
        let driver = try EduDriver()
        try stop(driver.device)
        driver.write(0x08, 6)
        driver.device.reset()
        driver.configure(0x04, 2, 0x0006)
        driver.startTransfer(from: 0, to: deviceMemory, count: 8, command: Command.toDevice)
        #expect(driver.read(0x20) == 0)
        #expect(driver.read(0x98) == 1)
        driver.device.resume()
        driver.waitForTransfer()
    }

    @Test func `a device with other address bits refuses the state`() throws {
        let driver = try EduDriver(dmaMaskBits: 32)
        try stop(driver.device)
        let opening = StateStream.opening(of: driver.device)
        var incoming = StateStream.Incoming(for: try Edu.makeFunction())
        #expect(throws: StateError.otherProperty("DMA address bits", here: "28", there: "32")) {
            try incoming.append(opening.span)
        }
    }

    /// Without the checksum, which stops nobody who means harm.
    @Test func `a state that was made up is refused with nothing changed, or makes a device that works`() throws {
        let driver = try EduDriver()
        driver.write(0x60, 0x55)
        try stop(driver.device)
        let state = saved(driver.device)
        var (taken, refused) = (0, 0)
        // Of the 4 KiB of memory at the end, some bytes will do.
        for place in state.indices where place < 600 || place % 89 == 0 {
            for value in [0x00, 0x01, 0xff, state[place] ^ 0x40] as [UInt8] {
                var changed = state
                changed[place] = value
                let before = saved(driver.device)
                var reader = StateReader(changed)
                do throws(StateError) {
                    try driver.device.restoreState(from: &reader)
                    taken += 1
                    // The level of the line follows from the interrupt status, whatever the state says.
                    let now = saved(driver.device)
                    #expect(zip(now, changed).filter { $0 != $1 }.count <= 1)
                } catch {
                    refused += 1
                    #expect(saved(driver.device) == before)
                }
            }
        }
        #expect(taken > 400 && refused > 100)
        driver.device.reset()
        driver.device.resume()
        #expect(driver.factorial(of: 4) == 24)
    }
}
