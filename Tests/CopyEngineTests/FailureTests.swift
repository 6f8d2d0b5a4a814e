import CopyEngine
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Descriptor = CopyEngineDriver.Descriptor
private typealias Register = CopyEngineDriver.Register

@Suite struct `Commands that change nothing` {
    @Test func `an unmap that would split a mapping leaves the others too`() throws {
        try withDriver { driver in
            try driver.command(.create(3))
            try driver.command(.map(3, at: 0x1000, to: driver.memoryPage(0)))
            try driver.command(.map(3, at: 0x2000, to: driver.memoryPage(1), length: 0x2000))
            #expect(
                try driver.command(.unmap(3, at: 0x1000, length: 0x2000))
                    == Completion(status: 6, operand: 2, error: 2, faultAddress: 0x1000))
            #expect(try driver.work(.fill(3, at: 0x1000, pattern: 1, length: 0x3000)) == Completion(bytes: 0x3000))
            #expect(try driver.command(.unmap(3, at: 0, length: 0x10000)) == Completion(bytes: 0x3000))
        }
    }
}

@Suite struct `What is told of failures` {
    @Test(arguments: [0, 2] as [UInt32], [true, false])
    func `memory that ends in the middle is named by the first byte that is not there`(
        pasid: UInt32, isSource: Bool
    ) throws {
        try withDriver { driver in
            let end = CopyEngineDriver.base + UInt64(driver.memory.byteCount)
            try driver.command(.create(2))
            try driver.command(.map(2, at: end - 0x10000, to: end - 0x10000, length: 0x20000))
            let (from, to) = isSource ? (pasid, 0) : (0, pasid)
            let good = driver.memoryPage(0)
            for before in [3, 0x2010, 0x8000] as [UInt64] {
                let bad = end - before
                let copy = Descriptor.copy(
                    (from, isSource ? bad : good), to: (to, isSource ? good : bad), length: 0xc000)
                #expect(
                    try driver.work(copy)
                        == Completion(
                            status: 11, operand: isSource ? 1 : 2, error: 14, bytes: before, faultAddress: end))
                let fill = try driver.work(.fill(pasid, at: bad, pattern: 0x8877_6655_4433_2211, length: 0x1_8003))
                #expect(fill == Completion(status: 11, operand: 2, error: 14, bytes: before, faultAddress: end))
                let bytes = driver.memory.read(driver.memory.byteCount - Int(before)..<driver.memory.byteCount)
                #expect(bytes.indices.allSatisfy { bytes[$0] == UInt8(0x11 * ($0 % 8 + 1)) })
            }
        }
    }

    @Test func `the longest work is of four gigabytes`() throws {
        try withDriver { driver in
            let length = UInt64(1) << 32
            let longest = try driver.work(.fill(0, at: 0x7000_0000, pattern: 1, length: length))
            #expect(longest == Completion(status: 11, operand: 2, error: 14, faultAddress: 0x7000_0000))
            let longer = try driver.work(.fill(0, at: 0x7000_0000, pattern: 1, length: length + 1))
            #expect(longer == Completion(status: 3, operand: 2))
        }
    }

    @Test func `nothing from before a reset is counted after it`() throws {
        try withDriver { driver in
            for _ in 0..<20 {
                try driver.command(.create(5, hasDemandPaging: true))
                for number in 0..<4 { driver.put(.fill(5, at: UInt64(number) << 16, pattern: 1, length: 8), .work) }
                try driver.ring(.work)
                _ = try driver.awaitGroup()
                try driver.client.reset()
                try driver.client.writeRegister(UInt16(6), region: 7, at: 4)
                try driver.enable()
                for register in [
                    Register.groupsAnswered, Register.groupsRefused, Register.waitTotal, Register.longestWait,
                ] {
                    #expect(try driver.readLong(register) == 0)
                }
            }
        }
    }
}
