import Edu
import LinuxHost
import ServedDevices
import Testing
import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserServer
import VFIOUserWire

@Suite struct Connecting {
    @Test func `a client and a server come to an agreement`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            try client.reset()
            #expect(client.agreement.version.major == 0 && client.agreement.version.minor == ServerOffer.minorVersion)
            #expect(client.agreement.sending.maximumMessageDescriptors == 16)
            #expect(client.agreement.writeMultiple)
        }
    }

    @Test func `a client connects to a path, and another after it`() throws {
        let directory = "/tmp/outboard-client-\(MonotonicInstant.now.nanoseconds)"
        let listener = try HeldListener(path: directory)
        let stop = try EventCounter()
        let device = try Edu.makeFunction()
        let thread = try OSThread(name: "server") {
            try? Server(device: device).run(listener.listener, until: stop)
        }
        defer {
            stop.signal()
            thread.join()
        }
        for value in 1...3 as ClosedRange<UInt32> {
            let client = try Client(path: directory)
            try client.writeRegister(value, region: 0, at: EduOffset.liveness)
            #expect(try client.readRegister(UInt32.self, region: 0, at: EduOffset.liveness) == ~value)
        }
    }

    private final class HeldListener: Sendable {
        let listener: UNIXSocketListener

        init(path: String) throws(Errno) { listener = try UNIXSocketListener(path: path) }
    }

    @Test func `a path where nobody listens is a failure of the system's`() {
        #expect(
            errorOf { () throws(ClientError) in _ = try Client(path: "/tmp/outboard-nobody-here") }
                == .system(.noSuchEntry))
    }

    @Test func `a server that closes at once is told from one that refuses`() throws {
        let (ours, theirs) = try UNIXSocket.pair()
        theirs.shutdown()
        #expect(errorOf { () throws(ClientError) in _ = try Client(ours) } == .closed)
        let (second, other) = try UNIXSocket.pair()
        let device = try Edu.makeFunction()
        let stop = try EventCounter()
        let thread = try OSThread(name: "server") { Server(device: device).serve(other, until: stop) }
        var proposal = ClientProposal()
        proposal.capabilities.maximumTransferSize = 0
        #expect(
            errorOf { () throws(ClientError) in _ = try Client(second, proposal: proposal) }
                == .refused(.version, errorNumber: 22))
        thread.join()
    }
}

@Suite struct Asking {
    @Test func `the device, its regions and its interrupts are described`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            let info = try client.deviceInfo()
            #expect(info == DeviceInfo(flags: [.reset, .pci], regionCount: 9, interruptIndexCount: 5))
            #expect(try client.regionInfo(0).size == 1 << 20)
            #expect(try client.regionInfo(7).size == 256)
            #expect(try client.regionInfo(6).size == 0)
            #expect(try client.interruptInfo(0).vectorCount == 1)
            #expect(try client.interruptInfo(1).flags == [.eventDescriptors, .cannotGrow])
        }
    }

    @Test func `a refusal names the command and the number, and the connection goes on`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            #expect(
                errorOf { () throws(ClientError) in _ = try client.regionInfo(9) }
                    == .refused(.getRegionInfo, errorNumber: 22))
            #expect(
                errorOf { () throws(ClientError) in
                    _ = try client.readRegion(0, at: 1 << 20, byteCount: 4)
                } == .refused(.readRegion, errorNumber: 22))
            let info = try client.deviceInfo()
            #expect(info.regionCount == 9)
        }
    }

    @Test func `a region that can be mapped is asked for again with the room that it needs, and mapped`() throws {
        try withClient(of: WindowDevice()) { client in
            let info = try client.regionInfo(0)
            #expect(
                info.mappableAreas == WindowDevice.areas.map { .init(offset: $0.lowerBound, size: UInt64($0.count)) })
            let region = try #require(try client.mapRegion(0))
            #expect(region.areas == [0x1000..<0x2000, 0x3000..<0x4000])
            #expect(region.isWritable)
            for number in 0..<2 {
                let bytes = unsafe region.bytes(ofArea: number)
                unsafe bytes.copyBytes(from: pattern(64, seed: number))
                let place = UInt64(region.areas[number].lowerBound)
                #expect(try client.readRegion(0, at: place, byteCount: 64) == pattern(64, seed: number))
                try client.writeRegion(0, at: place + 0x800, pattern(16))
                #expect(unsafe Array(bytes[0x800..<0x810]) == pattern(16))
            }
            #expect(try client.mapRegion(7) == nil)
        }
    }
}

@Suite struct Accessing {
    @Test func `registers of every width are read and written`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            #expect(try client.readRegister(UInt16.self, region: 7, at: 0) == 0x1234)
            #expect(try client.readRegister(UInt8.self, region: 7, at: 8) == 0x10)
            #expect(try client.readRegister(UInt32.self, region: 0, at: EduOffset.identification) == 0x0100_00ed)
            try client.writeRegister(0x0123_4567_89ab_cdef as UInt64, region: 0, at: EduOffset.dmaSource)
            #expect(try client.readRegister(UInt64.self, region: 0, at: EduOffset.dmaSource) == 0x0123_4567_89ab_cdef)
        }
    }

    @Test(arguments: [1, 100, 4096])
    func `an access longer than a message carries goes in several`(limit: Int) throws {
        var proposal = ClientProposal()
        proposal.capabilities.maximumTransferSize = limit
        try withClient(of: WindowDevice(), proposal: proposal) { client in
            let count = limit == 1 ? 300 : 0x4000
            try client.writeRegion(0, at: 0, pattern(count))
            #expect(try client.readRegion(0, at: 0, byteCount: count) == pattern(count))
        }
    }

    @Test func `a posted write is done before what is asked next`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            for value in 0..<1000 as Range<UInt32> {
                try client.writeRegister(value, region: 0, at: EduOffset.liveness, posted: true)
                if value % 10 == 0 {
                    #expect(try client.readRegister(UInt32.self, region: 0, at: EduOffset.liveness) == ~value)
                }
            }
        }
    }

    @Test func `several small writes go in one message`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            try client.writeRegions(
                (0..<100).map {
                    WriteRegions.Write(offset: EduOffset.liveness, region: 0, count: 4, data: UInt64($0))
                })
            #expect(try client.readRegister(UInt32.self, region: 0, at: EduOffset.liveness) == ~99)
        }
    }

    @Test func `a reset brings registers back`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            try client.writeRegister(UInt32(5), region: 0, at: EduOffset.liveness)
            try client.reset()
            #expect(try client.readRegister(UInt32.self, region: 0, at: EduOffset.liveness) == 0)
        }
    }

    @Test func `requests that are sent before any reply is collected are answered each`() throws {
        try withClient(of: Edu.makeFunction()) { client in
            // Far more than the sockets hold in either direction.
            let access = RegionAccess(offset: 0, region: 0, count: 1024)
            let ids = try (0..<5000).map { _ in try client.send(.readRegion(access)) }
            for id in ids.reversed() {
                #expect(try client.reply(to: id).payload.count == 16 + 1024)
            }
        }
    }
}
