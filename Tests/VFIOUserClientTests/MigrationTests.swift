import DeviceModel
import Edu
import LinuxHost
import PCI
import ServedDevices
import Testing
import VFIOUserClient
import VFIOUserWire

@Suite struct `Migration by the client` {
    @Test func `a device is saved here and goes on there`() throws {
        let memory = try SharedMemory(byteCount: 0x4000)
        memory.write(pattern(256), at: 0)
        var state: [UInt8] = []
        try withClient(of: try Edu.makeFunction()) { client in
            #expect(try client.migrationAbilities() == [.stopCopy, .preCopy])
            try client.map(memory, byteCount: 0x4000, at: 0x1000)
            let driver = EduDriver(client: client)
            try driver.enableBusMaster()
            try driver.read(from: 0x1000, byteCount: 256)
            try client.setMigrationState(.preCopy)
            state = try client.readAllMigrationData()
            try client.writeRegister(UInt32(7), region: 0, at: EduOffset.liveness)
            state += try client.saveState()
            #expect(try client.migrationState() == .stopCopy)
            #expect(try client.readMigrationData(atMost: 100).isEmpty)
        }
        try withClient(of: try Edu.makeFunction()) { client in
            try client.map(memory, byteCount: 0x4000, at: 0x1000)
            try client.restoreState(state)
            #expect(try client.migrationState() == .stop)
            try client.setMigrationState(.running)
            #expect(try client.readRegister(UInt32.self, region: 0, at: EduOffset.liveness) == ~7)
            try EduDriver(client: client).write(to: 0x3000, byteCount: 256)
            #expect(memory.read(0x2000..<0x2100) == pattern(256))
        }
    }

    @Test func `a state that does not fit is refused, and a reset makes a device of it again`() throws {
        var state: [UInt8] = []
        try withClient(of: try Edu.makeFunction(dmaMaskBits: 40)) { state = try $0.saveState() }
        try withClient(of: try Edu.makeFunction()) { client in
            let refusal = ClientError.refused(.writeMigrationData, errorNumber: 22)
            #expect(errorOf { () throws(ClientError) in try client.restoreState(state) } == refusal)
            #expect(try client.migrationState() == .error)
            let late = ClientError.refused(.deviceFeature, errorNumber: 22)
            #expect(errorOf { () throws(ClientError) in try client.setMigrationState(.running) } == late)
            try client.reset()
            #expect(try client.migrationState() == .running)
        }
    }

    @Test func `features are probed`() throws {
        try withClient(of: try Edu.makeFunction()) { client in
            #expect(try client.hasFeature(.migration, .get))
            #expect(try client.hasFeature(.startDMALogging, .set))
            #expect(try !client.hasFeature(.startDMALogging, .get))
            #expect(try !client.hasFeature(.sharedBuffer))
            try client.reset()
        }
    }

    @Test func `the pages that the device writes to are told`() throws {
        let memory = try SharedMemory(byteCount: 0x10000)
        try withClient(of: try Edu.makeFunction()) { client in
            try client.map(memory, byteCount: 0x8000, at: 0x10000)
            try client.map(memory, offset: 0x8000, byteCount: 0x8000, at: 0x20000, sharing: .messages)
            let driver = EduDriver(client: client)
            try driver.enableBusMaster()
            #expect(try client.startDMALogging(ranges: [0x10000...0x13fff, 0x20000...0x27fff]) == 4096)
            for address in [0x11ffc, 0x15000, 0x20000] as [UInt64] { try driver.write(to: address, byteCount: 8) }
            #expect(try client.readDirtyPages(at: 0x10000, byteCount: 0x18000) == [0x11000, 0x12000, 0x20000])
            #expect(try client.readDirtyPages(at: 0x10000, byteCount: 0x18000).isEmpty)
            let tooLong = errorOf { () throws(ClientError) in
                _ = try client.readDirtyPages(at: 0, byteCount: 1 << 40)
            }
            #expect(tooLong == .notAgreed)
            try client.stopDMALogging()
            let off = errorOf { () throws(ClientError) in
                _ = try client.readDirtyPages(at: 0x10000, byteCount: 0x1000)
            }
            #expect(off == .refused(.deviceFeature, errorNumber: 22))
        }
    }
}
