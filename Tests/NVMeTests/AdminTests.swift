import BlockStorage
import NVMe
import Testing

@Suite struct AdminTests {
    private func started(
        _ store: TestStore? = nil, options: (inout NVMeController.Options) -> Void = { _ in }
    ) throws -> (NVMeTestDriver, page: UInt64) {
        let driver = try NVMeTestDriver(store: store, options: options)
        driver.enable()
        return (driver, driver.ram.allocate(4096))
    }

    private func identify(
        _ driver: NVMeTestDriver, _ page: UInt64, _ structure: UInt32, namespace: UInt32 = 0, commandSet: UInt32 = 0
    ) throws -> [UInt8] {
        let command = Command(
            Opcode.identify, namespace: namespace, prp1: page, [10: structure, 11: commandSet << 24])
        #expect(try driver.run(command).status == 0)
        return driver.ram.read(page, 4096)
    }

    @Test func `identify controller has its names and limits`() throws {
        let (driver, page) = try started()
        let bytes = try identify(driver, page, 1)
        #expect(String(decoding: bytes[4..<24], as: UTF8.self) == "OBTEST1             ")
        #expect(String(decoding: bytes[24..<64], as: UTF8.self).hasPrefix("Outboard NVMe Disk  "))
        #expect(bytes[24..<64].last == 0x20)
        #expect(bytes[77] == 8, "transfers of 1 MiB")
        #expect(bytes[80..<84].elementsEqual([0, 0, 2, 0]))
        #expect(bytes[111] == 1, "an I/O controller")
        #expect(bytes[266..<270].elementsEqual([0x57, 0x01, 0x75, 0x01]), "thresholds, which must not be zero")
        #expect(bytes[512] == 0x66 && bytes[513] == 0x44)
        #expect(bytes[516..<520].elementsEqual([1, 0, 0, 0]))
        #expect(bytes[520] == 0x9d && bytes[521] == 0, "compare, dataset management, write zeroes, select, verify")
        #expect(bytes[525] == 0b111)
        let name = String(decoding: bytes[768..<1024].prefix { $0 != 0 }, as: UTF8.self)
        #expect(name.hasPrefix("nqn.2014-08.org.nvmexpress:uuid:") && name.utf8.count == 68)
    }

    @Test(arguments: [BlockSize.bytes512, .bytes4096]) func `identify namespace has its size`(blockSize: BlockSize)
        throws
    {
        let (driver, page) = try started(TestStore(blockSize: blockSize, byteCount: 48 << 20))
        let bytes = try identify(driver, page, 0, namespace: 1)
        let count = (0..<8).reduce(0) { $0 | UInt64(bytes[$1]) << UInt64($1 * 8) }
        #expect(count == UInt64((48 << 20) / blockSize.rawValue))
        #expect(Array(bytes[8..<16]) == Array(bytes[0..<8]) && Array(bytes[16..<24]) == Array(bytes[0..<8]))
        #expect(bytes[25] == 0 && bytes[26] == 0, "one format")
        #expect(bytes[33] == 0b1001, "deallocated blocks read as zeroes")
        #expect(bytes[130] == UInt8(blockSize.rawValue.trailingZeroBitCount))
        #expect(bytes[99] == 0)
    }

    @Test func `identifiers follow the serial number`() throws {
        func identifiers(_ serial: String) throws -> [[UInt8]] {
            let number = try #require(NVMeController.SerialNumber(serial))
            let (driver, page) = try started { $0.serial = number }
            let name = try identify(driver, page, 1)[768..<1024]
            let namespace = try identify(driver, page, 0, namespace: 1)
            let descriptors = try identify(driver, page, 3, namespace: 1)
            #expect(Array(descriptors[0..<4]) == [1, 8, 0, 0])
            #expect(descriptors[4..<12].elementsEqual(namespace[120..<128]))
            #expect(Array(descriptors[12..<16]) == [2, 16, 0, 0])
            #expect(descriptors[16..<32].elementsEqual(namespace[104..<120]))
            #expect(Array(descriptors[32..<36]) == [3, 16, 0, 0])
            #expect(descriptors[42] >> 4 == 8 && descriptors[44] >> 6 == 0b10, "a UUID of version 8")
            #expect(Array(descriptors[52..<58]) == [4, 1, 0, 0, 0, 0])
            return [
                Array(name), Array(namespace[104..<120]), Array(namespace[120..<128]), Array(descriptors[36..<52]),
            ]
        }
        let (first, again, other) = try (identifiers("A1"), identifiers("A1"), identifiers("A2"))
        #expect(first == again)
        for (left, right) in zip(first, other) { #expect(left != right) }
    }

    @Test func `lists of namespaces begin above the number asked for`() throws {
        let (driver, page) = try started()
        for structure in [2, 7] as [UInt32] {
            #expect(try identify(driver, page, structure) == [1] + [UInt8](repeating: 0, count: 4095))
            #expect(try identify(driver, page, structure, namespace: 1) == [UInt8](repeating: 0, count: 4096))
            for namespace in [.max, .max - 1] as [UInt32] {
                let end = try driver.run(Command(Opcode.identify, namespace: namespace, prp1: page, [10: structure]))
                #expect(end.status == 0x00b)
            }
        }
    }

    @Test func `structures of the command set are there for the NVM command set only`() throws {
        let (driver, page) = try started()
        #expect(try identify(driver, page, 8, namespace: 1)[14] == 1, "ready")
        for structure in [5, 6, 7] as [UInt32] {
            let namespace: UInt32 = structure == 5 ? 1 : 0
            _ = try identify(driver, page, structure, namespace: namespace)
            let end = try driver.run(
                Command(Opcode.identify, namespace: namespace, prp1: page, [10: structure, 11: 2 << 24]))
            #expect(end.status == 0x002)
        }
    }

    @Test func `what identify does not know is refused`() throws {
        let (driver, page) = try started()
        for structure in [4, 9, 0x10, 0x14, 0x1c, 0xff] as [UInt32] {
            #expect(try driver.run(Command(Opcode.identify, prp1: page, [10: structure])).status == 0x002)
        }
        for (structure, namespace) in [(0, 0), (0, 2), (0, .max), (3, 0), (3, 2), (8, 0), (5, 7)] as [(UInt32, UInt32)]
        {
            let end = try driver.run(Command(Opcode.identify, namespace: namespace, prp1: page, [10: structure]))
            #expect(end.status == 0x00b)
        }
    }

    @Test(arguments: [(0, 1024), (1, 4096), (2, 512), (3, 512), (5, 4096), (0x12, 1024), (0x13, 1024)])
    func `log pages can be read in one piece, in parts, and past their end`(page: Int, byteCount: Int) throws {
        let (driver, _) = try started()
        let buffer = driver.ram.allocate(byteCount + 8192)
        func read(_ offset: Int, _ count: Int) throws -> [UInt8] {
            driver.ram.write([UInt8](repeating: 0xee, count: count + 4), at: buffer)
            let command = Command(
                Opcode.getLogPage, namespace: .max, prp1: buffer, prp2: buffer + 4096,
                [10: UInt32(page) | UInt32(count / 4 - 1) << 16, 12: UInt32(offset)])
            #expect(try driver.run(command).status == 0)
            #expect(driver.ram.read(buffer + UInt64(count), 4) == [0xee, 0xee, 0xee, 0xee])
            return driver.ram.read(buffer, count)
        }
        let whole = try read(0, byteCount)
        #expect(try read(byteCount / 2, byteCount / 2) == Array(whole[(byteCount / 2)...]))
        #expect(try read(4, 8) == Array(whole[4..<12]))
        #expect(try read(0, byteCount + 64) == whole + [UInt8](repeating: 0, count: 64))
        for offset in [2, byteCount + 4] {
            let command = Command(
                Opcode.getLogPage, namespace: .max, prp1: buffer, [10: UInt32(page), 12: UInt32(offset)])
            #expect(try driver.run(command).status == 0x002)
        }
    }

    @Test func `the health log counts what was done`() throws {
        let (driver, page) = try started()
        try driver.createPair(1)
        for _ in 0..<3 { _ = try driver.run(.blocks(Opcode.read, 0, 8, prp1: page), on: 1) }
        _ = try driver.run(.blocks(Opcode.write, 0, 8, prp1: page), on: 1)
        #expect(try driver.run(Command(Opcode.getLogPage, prp1: page, [10: 2 | 127 << 16])).status == 0)
        let health = driver.ram.read(page, 512)
        #expect(health[0] == 0)
        #expect(UInt16(health[1]) | UInt16(health[2]) << 8 == 298)
        #expect(health[32] == 1 && health[48] == 1, "thousands of units, rounded up")
        #expect(health[64] == 3 && health[80] == 1)
        #expect(try driver.run(Command(Opcode.getLogPage, namespace: 1, prp1: page, [10: 2])).status == 0x002)
    }

    @Test func `log pages that are not there are refused, and so are sizes past the limit`() throws {
        let (driver, page) = try started()
        for log in [4, 6, 7, 0x0d, 0x80, 0xff] as [UInt32] {
            #expect(try driver.run(Command(Opcode.getLogPage, prp1: page, [10: log])).status == 0x109)
        }
        #expect(
            try driver.run(Command(Opcode.getLogPage, prp1: page, [10: 0xffff_0001, 11: 0xffff])).status == 0x002)
    }

    @Test func `features can be read and set as their capabilities say`() throws {
        let (driver, _) = try started()
        let changeable: Set<UInt32> = [2, 4, 5, 6, 7, 0x0a, 0x0b]
        for feature in [1, 2, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b] as [UInt32] {
            let namespace: UInt32 = feature == 5 ? 1 : 0
            func get(_ selection: UInt32) throws -> NVMeTestDriver.Completion {
                try driver.run(Command(Opcode.getFeatures, namespace: namespace, [10: feature | selection << 8]))
            }
            #expect(try get(0).status == 0)
            #expect(try get(0).result == get(1).result, "the current value is the default so far")
            #expect(try get(2).result == get(1).result, "nothing is saved")
            #expect(try get(3).result == (changeable.contains(feature) ? 4 : 0) + (feature == 5 ? 2 : 0))
            #expect(try get(5).status == 0x002)
            let set = try driver.run(Command(Opcode.setFeatures, namespace: namespace, [10: feature, 11: 0]))
            #expect(set.status == (changeable.contains(feature) ? 0 : 0x10e))
            let saved = try driver.run(Command(Opcode.setFeatures, namespace: namespace, [10: feature | 1 << 31]))
            #expect(saved.status == 0x10d)
        }
        for feature in [0, 3, 0x0c, 0x0d, 0x0f, 0x10, 0x16, 0x80, 0xff] as [UInt32] {
            #expect(try driver.run(Command(Opcode.getFeatures, [10: feature])).status == 0x002)
            #expect(try driver.run(Command(Opcode.setFeatures, [10: feature])).status == 0x002)
        }
    }

    @Test func `features keep what they are set to until the reset`() throws {
        let (driver, _) = try started()
        for (feature, value) in [(4, 320), (4, 250 | 1 << 20), (6, 0), (0x0a, 1), (0x0b, 0x3f)] as [(UInt32, UInt32)] {
            #expect(try driver.run(Command(Opcode.setFeatures, [10: feature, 11: value])).status == 0)
            let selector = value & 0xffff_0000
            let got = try driver.run(Command(Opcode.getFeatures, [10: feature, 11: selector]))
            #expect(got.result == value & 0xffff)
        }
        driver.disable()
        driver.enable()
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 4])).result == 0x157, "what Identify says")
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 6])).result == 1)
    }

    @Test func `values that a feature does not have are refused`() throws {
        let (driver, _) = try started()
        for (feature, value) in [
            (2, 1), (4, 1 << 16), (4, 2 << 20), (7, 0xffff), (7, 0xffff << 16),
        ] as [(UInt32, UInt32)] {
            #expect(try driver.run(Command(Opcode.setFeatures, [10: feature, 11: value])).status == 0x002)
        }
        #expect(try driver.run(Command(Opcode.setFeatures, namespace: 1, [10: 5, 11: 1 << 16])).status == 0x002)
        #expect(try driver.run(Command(Opcode.setFeatures, namespace: 1, [10: 6, 11: 0])).status == 0x10f)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 9, 11: 65])).status == 0x002)
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 9, 11: 64])).result == 64 | 1 << 16)
    }

    @Test func `the number of queues is what is asked for, what there is, and settled by the first queue`() throws {
        let (driver, _) = try started { $0.queuePairs = 8 }
        #expect(try driver.run(Command(Opcode.getFeatures, [10: 7])).result == 7 | 7 << 16)
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 7, 11: 0x00ff_00ff])).result == 7 | 7 << 16)
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 7, 11: 1 | 2 << 16])).result == 1 | 2 << 16)
        try driver.createPair(2)
        let page = driver.ram.allocate(4096)
        #expect(
            try driver.run(Command(0x05, prp1: page, [10: 7 << 16 | 4, 11: 1])).status == 0x101,
            "more queues than were granted")
        #expect(try driver.run(Command(Opcode.setFeatures, [10: 7, 11: 0])).status == 0x00c)
    }
}
