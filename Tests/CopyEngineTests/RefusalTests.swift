import CopyEngine
import Testing
import VFIOUserClient

private typealias Completion = CopyEngineDriver.Completion
private typealias Descriptor = CopyEngineDriver.Descriptor

@Suite struct `Descriptors that make no sense` {
    @Test func `are refused, and the next one is carried out`() throws {
        try withDriver { driver in
            var work: [(Descriptor, Completion)] = []
            for opcode in [0x03, 0x11, 0x12, 0xff] as [UInt8] {
                work.append((Descriptor(opcode: opcode), Completion(status: 2)))
            }
            work += [
                (Descriptor(flags: 0x08), Completion(status: 2)), (Descriptor(options: 1), Completion(status: 2)),
                (Descriptor(pasid: 1), Completion(status: 2)), (Descriptor(zero: 1), Completion(status: 2)),
                (Descriptor(source: 1), Completion(status: 2)), (Descriptor(lastZero: 1 << 63), Completion(status: 2)),
                (.copy((0, 0), to: (0, 0x1000), length: 0), Completion(status: 3, operand: 1)),
                (.copy((0, 0), to: (0, 1 << 40), length: 1 << 32 + 1), Completion(status: 3, operand: 1)),
                (.copy((0, .max), to: (0, 0), length: 2), Completion(status: 3, operand: 1)),
                (.copy((0, 0), to: (0, .max), length: 2), Completion(status: 3, operand: 2)),
                (.fill(0, at: 0, pattern: 1, length: .max), Completion(status: 3, operand: 2)),
                (.copy((0, 0x1000), to: (0, 0x1fff), length: 0x1000), Completion(status: 4)),
                (.copy((7, 0x1fff), to: (7, 0x1000), length: 0x1000), Completion(status: 4)),
                (.copy((1, 0), to: (0, 0), length: 1), Completion(status: 5, operand: 1)),
                (.copy((0, 0), to: (1024, 0), length: 1), Completion(status: 5, operand: 2)),
                (.fill(.max, at: 0, pattern: 0, length: 1), Completion(status: 5, operand: 2)),
            ]
            for (descriptor, expected) in work {
                let completion = try driver.work(descriptor)
                #expect(completion == expected, "\(descriptor)")
                #expect(try driver.work(Descriptor()) == Completion())
            }
        }
    }

    @Test func `are refused among commands too`() throws {
        try withDriver { driver in
            try driver.command(.create(1))
            let commands: [(Descriptor, Completion)] = [
                (Descriptor(opcode: 0x01), Completion(status: 2)),
                (Descriptor(opcode: 0x10), Completion(status: 2)),
                (Descriptor(opcode: 0x16), Completion(status: 2)),
                (Descriptor(flags: Descriptor.fence), Completion(status: 2)),
                (Descriptor(opcode: 0x11, options: 2, pasid: 2), Completion(status: 2)),
                (.map(1, at: 0, to: 0, rights: 0), Completion(status: 2)),
                (.map(1, at: 0, to: 0, rights: 4), Completion(status: 2)),
                (.create(0), Completion(status: 5)), (.create(1024), Completion(status: 5)),
                (.create(.max), Completion(status: 5)), (.destroy(2), Completion(status: 5)),
                (.map(2, at: 0, to: 0), Completion(status: 5)), (.unmap(0, at: 0), Completion(status: 5)),
                (.create(1), Completion(status: 6, error: 17)),
                (.map(1, at: 1, to: 0), Completion(status: 3, operand: 2)),
                (.map(1, at: 0, to: 1), Completion(status: 3, operand: 1)),
                (.map(1, at: 0, to: 0, length: 4095), Completion(status: 3, operand: 2)),
                (.map(1, at: 0, to: 0, length: 0), Completion(status: 3, operand: 2)),
                (.map(1, at: 0xffff_ffff_ffff_f000, to: 0, length: 8192), Completion(status: 3, operand: 2)),
                (.map(1, at: 0, to: 0xffff_ffff_ffff_f000, length: 8192), Completion(status: 3, operand: 1)),
                (.unmap(1, at: 0), Completion(status: 6, operand: 2, error: 2)),
                (.answer(1), Completion(status: 6, operand: 1, error: 22)),
                (Descriptor(opcode: 0x15, source: 1 << 32), Completion(status: 6, operand: 1, error: 22)),
            ]
            for (descriptor, expected) in commands {
                let completion = try driver.command(descriptor)
                #expect(completion == expected, "\(descriptor)")
                #expect(try driver.command(Descriptor()) == Completion())
            }
        }
    }
}

@Suite struct `Address spaces` {
    @Test func `are mapped and unmapped as a whole, and what is not mapped stops work there`() throws {
        try withDriver { driver in
            try driver.command(.create(3))
            try driver.command(.map(3, at: 0x10000, to: driver.memoryPage(0), length: 0x4000))
            #expect(
                try driver.command(.map(3, at: 0x13000, to: driver.memoryPage(9)))
                    == Completion(status: 6, operand: 2, error: 17, faultAddress: 0x13000))
            #expect(
                try driver.command(.unmap(3, at: 0x10000))
                    == Completion(status: 6, operand: 2, error: 2, faultAddress: 0x10000))
            driver.fill(0, count: 4) { _ in 9 }
            #expect(
                try driver.work(.copy((3, 0x11000), to: (0, driver.memoryPage(20)), length: 0x4000))
                    == Completion(status: 7, operand: 1, error: 2, faultAddress: 0x14000))
            #expect(try driver.command(.unmap(3, at: 0x10000, length: 0x4000)) == Completion(bytes: 0x4000))
            #expect(
                try driver.work(.fill(3, at: 0x10000, pattern: 1, length: 8))
                    == Completion(status: 7, operand: 2, error: 2, faultAddress: 0x10000))
            #expect(driver.contents(0) == [UInt8](repeating: 9, count: 4096))
        }
    }

    @Test func `a page that may not be written is not`() throws {
        try withDriver { driver in
            try driver.command(.create(3))
            try driver.command(.map(3, at: 0, to: driver.memoryPage(0), rights: 1))
            try driver.command(.map(3, at: 0x1000, to: driver.memoryPage(1), rights: 2))
            #expect(
                try driver.work(.fill(3, at: 0, pattern: 1, length: 8))
                    == Completion(status: 7, operand: 2, error: 1, faultAddress: 0))
            #expect(
                try driver.work(.copy((3, 0x1000), to: (3, 0), length: 8))
                    == Completion(status: 7, operand: 1, error: 1, faultAddress: 0x1000))
            #expect(try driver.work(.copy((3, 0), to: (3, 0x1000), length: 8)) == Completion(bytes: 8))
        }
    }

    @Test func `memory behind a page that is not there is told from a page that is not there`() throws {
        try withDriver { driver in
            try driver.command(.create(3, hasDemandPaging: true))
            try driver.command(.map(3, at: 0, to: 0x5000_0000))
            #expect(
                try driver.work(.fill(3, at: 0, pattern: 1, length: 8))
                    == Completion(status: 11, operand: 2, error: 14, faultAddress: 0))
            #expect(
                try driver.work(.copy((0, 0x5000_0000), to: (0, driver.memoryPage(0)), length: 8))
                    == Completion(status: 11, operand: 1, error: 14, faultAddress: 0x5000_0000))
        }
    }

    @Test func `a space that is gone can be made again and has nothing`() throws {
        try withDriver { driver in
            for round in 0..<50 {
                try driver.command(.create(3, hasDemandPaging: round % 2 == 0))
                try driver.command(.map(3, at: 0, to: driver.memoryPage(round)))
                #expect(try driver.work(.fill(3, at: 0, pattern: 1, length: 8)) == Completion(bytes: 8))
                try driver.command(.destroy(3))
                #expect(
                    try driver.work(.fill(3, at: 0, pattern: 1, length: 8)) == Completion(status: 5, operand: 2))
            }
        }
    }

    @Test func `there are as many mappings as there may be, and room again after an unmap or a destruction`() throws {
        try withDriver({ $0.maximumMappings = 10 }) { driver in
            for pasid in [1, 2] as [UInt32] {
                try driver.command(.create(pasid))
                for page in 0..<5 as Range<UInt64> {
                    #expect(try driver.command(.map(pasid, at: page * 4096, to: driver.memoryPage(0))) == Completion())
                }
            }
            let full = Completion(status: 6, operand: 2, error: 28, faultAddress: 0x8000)
            #expect(try driver.command(.map(1, at: 0x8000, to: 0)) == full)
            // Nothing was counted for what could not be mapped.
            #expect(try driver.command(.map(1, at: 0, to: 0)).error == 28)
            #expect(try driver.command(.unmap(1, at: 0)) == Completion(bytes: 4096))
            #expect(try driver.command(.map(1, at: 0x1000, to: 0)).error == 17)
            #expect(try driver.command(.map(1, at: 0x8000, to: 0)) == Completion())
            #expect(try driver.command(.map(1, at: 0x9000, to: 0)).error == 28)
            #expect(try driver.command(.destroy(2)) == Completion())
            for page in 0x10..<0x15 as Range<UInt64> {
                #expect(try driver.command(.map(1, at: page * 4096, to: 0)) == Completion())
            }
            #expect(try driver.command(.map(1, at: 0x9000, to: 0)).error == 28)
        }
    }
}
