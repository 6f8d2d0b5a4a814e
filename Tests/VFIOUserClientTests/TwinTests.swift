import Edu
import LinuxHost
import ServedDevices
import Testing
import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserTransport
import VFIOUserWire

private func proposal() -> ClientProposal {
    var proposal = ClientProposal()
    proposal.capabilities.twinSocket = .init(isSupported: true)
    return proposal
}

@Suite struct `A second socket` {
    @Test func `a client that asks for one serves the device's requests over it`() throws {
        try withClient(of: Edu.makeFunction(), proposal: proposal()) { client in
            #expect(client.agreement.twinSocketDescriptorIndex == 0)
            let edu = EduDriver(client: client)
            let memory = try SharedMemory(byteCount: 0x2000)
            try client.map(memory, byteCount: 0x2000, at: 0x10_0000, sharing: .messages)
            try edu.enableBusMaster()
            for seed in 0..<20 {
                memory.write(pattern(4096, seed: seed), at: 0)
                try edu.read(from: 0x10_0000, byteCount: 4096)
                try edu.write(to: 0x10_1000, byteCount: 4096)
                #expect(memory.read(0x1000..<0x2000) == pattern(4096, seed: seed))
            }
            try client.unmap(at: 0x10_0000, byteCount: 0x2000)
        }
    }

    @Test func `a client that does not ask has none`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            #expect(client.agreement.twinSocketDescriptorIndex == nil)
        }
    }

    @Test func `what stands before the second socket sees the server's requests and nothing else`() throws {
        try withServedSocket(of: Edu.makeFunction()) { socket in
            let (mainCount, twinCount) = (Monitor(0), Monitor(0))
            let main = CountingTransport(socket, mainCount)
            let client = try Client(main, proposal: proposal()) { CountingTransport($0, twinCount) }
            #expect(twinCount.withLock { $0 } == 0)
            let edu = EduDriver(client: client)
            let memory = try SharedMemory(byteCount: 0x1000)
            try client.map(memory, byteCount: 0x1000, at: 0x10_0000, sharing: .messages)
            try edu.enableBusMaster()
            try edu.read(from: 0x10_0000, byteCount: 64)
            // The probe of the layout, and the read.
            #expect(twinCount.withLock { $0 } == 32 + 32)
            #expect(mainCount.withLock { $0 } > 0)
        }
    }

    @Test(
        arguments: [
            "seed=1,short-reads=30%,short-writes=30%,interruptions=10%,refusals=10%",
            "seed=2,short-reads=90%,short-writes=90%", "seed=3,delay=100us",
        ])
    func `a client works over a transport that splits and delays`(faults: String) throws {
        let plan = try FaultPlan(parsing: faults)
        try withServedSocket(of: Edu.makeFunction()) { socket in
            let client = try Client(FaultyTransport(socket, plan), proposal: proposal()) {
                FaultyTransport($0, plan, number: 1)
            }
            let edu = EduDriver(client: client)
            let shared = try SharedMemory(byteCount: 0x2000)
            try client.map(shared, byteCount: 0x1000, at: 0x10_0000, sharing: .messages)
            try client.map(shared, offset: 0x1000, byteCount: 0x1000, at: 0x20_0000)
            try edu.enableBusMaster()
            shared.write(pattern(2000), at: 0)
            try edu.read(from: 0x10_0000, byteCount: 2000)
            try edu.write(to: 0x20_0000, byteCount: 2000)
            #expect(shared.read(0x1000..<0x1000 + 2000) == pattern(2000))
        }
    }
}

/// Counts the bytes that come.
private final class CountingTransport: Transport {
    private let inner: UNIXSocket
    private let count: Monitor<Int>

    init(_ inner: UNIXSocket, _ count: Monitor<Int>) {
        self.inner = inner
        self.count = count
    }

    var pollDescriptor: Int32 { inner.pollDescriptor }

    func receive(into buffer: UnsafeMutableRawBufferPointer, waiting: Bool) throws(Errno) -> ReceivedBytes {
        let received = unsafe try inner.receive(into: buffer, waiting: waiting)
        let byteCount = received.count
        count.withLock { $0 += byteCount }
        return received
    }

    func send(
        _ bytes: UnsafeRawBufferPointer, descriptors: borrowing DescriptorBundle, waiting: Bool
    ) throws(Errno) -> Int {
        unsafe try inner.send(bytes, descriptors: descriptors, waiting: waiting)
    }

    func shutdown() { inner.shutdown() }
}
