import Edu
import LinuxHost
import ServedDevices
import Testing
import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserWire

@Suite struct `Doorbells of a device` {
    private let address: UInt64 = 0x10000

    @Test func `are found, and edu's starts a transfer`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let doorbells = try client.doorbells(0)
            #expect(doorbells.count == 8)
            #expect(doorbells.allSatisfy { $0.offset == EduOffset.dmaCommand })
            let bell = try #require(doorbells.first { $0.standsFor(1, byteCount: 8, at: EduOffset.dmaCommand) })
            #expect(bell.value == 1 && bell.byteCount == 8)
            #expect(!doorbells.contains { $0.standsFor(2, byteCount: 8, at: EduOffset.dmaCommand) })
            let memory = try SharedMemory(byteCount: 0x1000)
            memory.write(pattern(64), at: 0)
            try client.map(memory, byteCount: 0x1000, at: address)
            let driver = EduDriver(client: client)
            try driver.enableBusMaster()
            for round in 0..<50 {
                memory.write(pattern(64, seed: round), at: 0)
                try client.writeRegister(address, region: 0, at: EduOffset.dmaSource, posted: true)
                try client.writeRegister(EduOffset.memory, region: 0, at: EduOffset.dmaDestination, posted: true)
                try client.writeRegister(UInt64(64), region: 0, at: EduOffset.dmaCount, posted: true)
                bell.ring()
                try driver.waitForTransfer()
                try driver.write(to: address + 0x800, byteCount: 64)
                #expect(memory.read(0x800..<0x840) == pattern(64, seed: round))
            }
        }
    }

    @Test func `are none where the device has none, and not a region's that it does not have`() throws {
        try withClient(of: WindowDevice()) { client in
            let doorbells = try client.doorbells(0)
            #expect(doorbells.isEmpty)
            // EINVAL
            #expect(errorOf { () throws(ClientError) in _ = try client.doorbells(1) } != nil)
            let info = try client.deviceInfo()
            #expect(info.regionCount == 9)
        }
    }

    @Test func `are as many as the client takes descriptors`() throws {
        var proposal = ClientProposal()
        proposal.capabilities.maximumMessageDescriptors = 1
        try withClient(of: Edu.makeFunction(), proposal: proposal) { client in
            let doorbells = try client.doorbells(0)
            #expect(doorbells.count == 2)
        }
    }
}
