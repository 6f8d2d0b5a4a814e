import Edu
import LinuxHost
import ServedDevices
import Testing
import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserWire

@Suite struct Sharing {
    @Test(arguments: [Client.Sharing.descriptor, .messages])
    func `the device reads and writes memory, however it is shared`(sharing: Client.Sharing) throws {
        try withClient(of: Edu.makeFunction()) { client in
            let edu = EduDriver(client: client)
            let memory = try SharedMemory(byteCount: 0x4000)
            try client.map(memory, offset: 0x1000, byteCount: 0x2000, at: 0x10_0000, sharing: sharing)
            try edu.enableBusMaster()
            memory.write(pattern(4096), at: 0x1000)
            try edu.read(from: 0x10_0000, byteCount: 4096)
            try edu.write(to: 0x10_1000, byteCount: 4096)
            #expect(memory.read(0x2000..<0x3000) == pattern(4096))
            try client.unmap(at: 0x10_0000, byteCount: 0x2000)
            try edu.write(to: 0x10_0000, byteCount: 16)
            #expect(memory.read(0x1000..<0x1010) == pattern(16))
        }
    }

    @Test func `a transfer crosses from memory that is mapped into memory that messages reach`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let edu = EduDriver(client: client)
            let first = try SharedMemory(byteCount: 0x1000)
            let second = try SharedMemory(byteCount: 0x1000)
            let third = try SharedMemory(byteCount: 0x1000)
            try client.map(first, byteCount: 0x1000, at: 0x1000)
            try client.map(second, byteCount: 0x1000, at: 0x2000, sharing: .messages)
            try client.map(third, byteCount: 0x1000, at: 0x3000, sharing: .messages)
            try edu.enableBusMaster()
            first.write(pattern(64), at: 0xfc0)
            second.write(pattern(64, seed: 50), at: 0)
            try edu.read(from: 0x1fc0, byteCount: 128)
            try edu.write(to: 0x2fc0, byteCount: 128)
            #expect(second.read(0xfc0..<0x1000) == pattern(64))
            #expect(third.read(0..<64) == pattern(64, seed: 50))
        }
    }

    @Test func `the device does not write what it may only read, nor the other way round`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let edu = EduDriver(client: client)
            let memory = try SharedMemory(byteCount: 0x2000)
            try client.map(memory, byteCount: 0x1000, at: 0x1000, rights: .read, sharing: .messages)
            try client.map(memory, offset: 0x1000, byteCount: 0x1000, at: 0x2000, rights: .write, sharing: .messages)
            try edu.enableBusMaster()
            memory.write(pattern(64), at: 0)
            memory.write(pattern(64, seed: 50), at: 0x1000)
            try edu.read(from: 0x1000, byteCount: 64)
            try edu.read(from: 0x2000, byteCount: 64)
            try edu.write(to: 0x1800, byteCount: 64)
            try edu.write(to: 0x2800, byteCount: 64)
            #expect(memory.read(0x800..<0x840) == [UInt8](repeating: 0, count: 64))
            #expect(memory.read(0x1800..<0x1840) == pattern(64))
        }
    }

    @Test func `memory beyond what this client takes in one message is moved in several`() throws {
        var proposal = ClientProposal()
        proposal.capabilities.maximumTransferSize = 100
        try withClient(of: Edu.makeFunction(), proposal: proposal) { client in
            let edu = EduDriver(client: client)
            let memory = try SharedMemory(byteCount: 0x2000)
            try client.map(memory, byteCount: 0x2000, at: 0, sharing: .messages)
            try edu.enableBusMaster()
            memory.write(pattern(4096), at: 0)
            try edu.read(from: 0, byteCount: 4096)
            try edu.write(to: 0x1000, byteCount: 4096)
            #expect(memory.read(0x1000..<0x2000) == pattern(4096))
        }
    }

    @Test func `a map that overlaps another is refused, and after an unmap of everything it is not`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let memory = try SharedMemory(byteCount: 0x4000)
            try client.map(memory, byteCount: 0x2000, at: 0x1000)
            let map = { () throws(ClientError) in try client.map(memory, byteCount: 0x2000, at: 0x2000) }
            #expect(errorOf(map) == .refused(.mapDMA, errorNumber: 17))
            try client.unmapEverything()
            #expect(errorOf(map) == nil)
        }
    }
}

@Suite struct Interrupting {
    @Test func `a vector that is raised reaches its counter, while the client serves the device's requests`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let edu = EduDriver(client: client)
            let memory = try SharedMemory(byteCount: 0x1000)
            let counter = try EventCounter()
            try client.map(memory, byteCount: 0x1000, at: 0, sharing: .messages)
            try client.connectInterrupts(1, to: [counter])
            try edu.enableBusMaster()
            memory.write(pattern(256), at: 0)
            // An interrupt at the end of a transfer that needs this client's answers.
            try edu.transfer(source: 0, destination: EduOffset.memory, 256, command: 5)
            #expect(try client.wait(for: counter, atMost: .seconds(120)) == 1)
            try edu.transfer(source: EduOffset.memory, destination: 0x800, 256, command: 7)
            #expect(try client.wait(for: counter, atMost: .seconds(120)) == 1)
            #expect(memory.read(0x800..<0x900) == pattern(256))
            #expect(try client.wait(for: counter, atMost: .milliseconds(1)) == 0)
        }
    }

    @Test func `a line is masked, unmasked by message and by counter, and switched off`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let counter = try EventCounter()
            let unmask = try EventCounter()
            try client.connectInterrupts(0, to: [counter])
            try client.connectInterrupts(0, to: [unmask], action: .unmask)
            try client.writeRegister(UInt32(1), region: 0, at: EduOffset.interruptRaise)
            #expect(counter.drain() == 1)
            try client.setInterrupts(.unmask, 0, vectors: 0..<1)
            #expect(counter.drain() == 1)
            unmask.signal()
            #expect(try client.wait(for: counter, atMost: .seconds(120)) == 1)
            try client.disconnectInterrupts(0, vectors: 0..<1, action: .unmask)
            try client.disableInterrupts(0)
            try client.writeRegister(UInt32(2), region: 0, at: EduOffset.interruptRaise)
            #expect(counter.drain() == 0)
        }
    }

    @Test func `more vectors than one message carries are connected in several`() throws {
        try withClient(of: ManyVectors()) { client in
            let counters = try (0..<50).map { _ in try EventCounter() }
            try client.connectInterrupts(2, from: 10, to: counters)
            try client.setInterrupts(.trigger, 2, vectors: 10..<60)
            #expect(counters.allSatisfy { $0.drain() == 1 })
            try client.disconnectInterrupts(2, vectors: 20..<30)
            try client.setInterrupts(.trigger, 2, vectors: 10..<60)
            #expect(counters.enumerated().allSatisfy { $1.drain() == ((10..<20).contains($0) ? 0 : 1) })
        }
    }
}
