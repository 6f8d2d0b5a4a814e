import DeviceModel
import Edu
import LinuxHost
import Testing
import VFIOUserCheck

private typealias Operation = Payload.FeatureOperation

@Suite struct MigrationTests {
    /// What a device is told on the way from one state to another, by the kernel's documentation of the states; written
    /// without a look at how the ways are found. `nil` where there is none.
    private static let ways: [UInt32: [UInt32: [String]?]] = [
        Migration.stop: [
            Migration.stop: [], Migration.running: ["resume"], Migration.stopCopy: ["save"], Migration.resuming: [],
            Migration.preCopy: ["resume"],
        ],
        Migration.running: [
            Migration.stop: ["begin", "stop"], Migration.running: [], Migration.stopCopy: ["begin", "stop", "save"],
            Migration.resuming: ["begin", "stop"], Migration.preCopy: [],
        ],
        Migration.stopCopy: [
            Migration.stop: [], Migration.running: ["resume"], Migration.stopCopy: [], Migration.resuming: [],
            Migration.preCopy: nil,
        ],
        Migration.resuming: [
            Migration.stop: ["restore"], Migration.running: ["restore", "resume"],
            Migration.stopCopy: ["restore", "save"], Migration.resuming: [], Migration.preCopy: ["restore", "resume"],
        ],
        Migration.preCopy: [
            Migration.stop: ["begin", "stop"], Migration.running: [], Migration.stopCopy: ["begin", "stop", "save"],
            Migration.resuming: ["begin", "stop"], Migration.preCopy: [],
        ],
        Migration.error: [:],
    ]

    /// Brings a new device to a state, where a state to take in has been written already if it awaits one.
    private func bring(_ peer: RawPeer, _ device: MigratingDevice, to state: UInt32) throws {
        if state == Migration.error {
            #expect(try peer.go(to: Migration.resuming).error == nil)
            #expect(try peer.go(to: Migration.stop).error == invalid)
        } else if state == Migration.resuming {
            let saved = try peer.saveState()
            #expect(try peer.go(to: state).error == nil)
            #expect(try peer.writeState(saved).error == nil)
        } else {
            #expect(try peer.go(to: state).error == nil)
        }
        #expect(try peer.migrationState() == state)
        _ = device.takeCalls()
    }

    @Test(arguments: Array(ways.keys).sorted(), 0..<9 as Range<UInt32>)
    func `S87 from every state every other is reached by the shortest way, or refused with nothing changed`(
        from: UInt32, to: UInt32
    ) throws {
        let device = MigratingDevice()
        try withPeer(of: device) { peer in
            try bring(peer, device, to: from)
            let reply = try peer.go(to: to)
            if let way = Self.ways[from]?[to] ?? nil {
                #expect(reply.error == nil && reply.payload.u32(at: 8) == to)
                #expect(device.takeCalls() == way)
                #expect(try peer.migrationState() == to)
            } else {
                #expect(reply.error == invalid)
                #expect(device.takeCalls().isEmpty)
                #expect(try peer.migrationState() == from)
            }
        }
    }

    @Test(arguments: Array(ways.keys).sorted())
    func `S87 S99 a reset leads from every state to running`(from: UInt32) throws {
        let device = MigratingDevice()
        try withPeer(of: device) { peer in
            try bring(peer, device, to: from)
            try peer.succeed(Number.resetDevice)
            #expect(try peer.migrationState() == Migration.running)
            let wasRunning = from == Migration.running || from == Migration.preCopy
            #expect(device.takeCalls() == (wasRunning ? ["reset"] : ["reset", "resume"]))
            #expect(try peer.readState(10).error == invalid)
            try peer.write(0, at: 0, bytes(.u64(1)))
            #expect(try peer.saveState().count > 0)
        }
    }

    @Test(arguments: Array(ways.keys).sorted())
    func `S87 state is read while it is being copied, written while it is awaited, and regions answer otherwise`(
        state: UInt32
    ) throws {
        let device = MigratingDevice()
        try withPeer(of: device) { peer in
            try bring(peer, device, to: state)
            let isCopying = state == Migration.stopCopy || state == Migration.preCopy
            #expect(try peer.readState(16).error == (isCopying ? nil : invalid))
            #expect(try peer.writeState([]).error == (state == Migration.resuming ? nil : invalid))
            let isOpen = state != Migration.stopCopy && state != Migration.error
            #expect(
                try peer.call(Number.readRegion, Payload.read(0, at: 0, count: 8)).error == (isOpen ? nil : invalid))
            let write = Payload.write(0, at: 0, bytes(.u64(5)))
            #expect(try peer.call(Number.writeRegion, write).error == (isOpen ? nil : invalid))
            let entry = bytes(.u64(1), .u64(0), .u32(0), .u32(8), .u64(6))
            #expect(try peer.call(Number.writeRegions, entry).error == (isOpen ? nil : invalid))
            // Everything else goes on as ever.
            try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo())
            try peer.succeed(Number.mapDMA, Payload.map(at: 0x1000, size: 0x1000))
            try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0x1000, size: 0x1000))
            #expect(try peer.migrationState() == state)
        }
    }

    @Test func `S87 what is saved in one device goes on in another`() throws {
        var saved: [UInt8] = []
        try withPeer(of: MigratingDevice()) { peer in
            try peer.write(0, at: 0, bytes(.u64(0x0123_4567_89ab_cdef)))
            saved = try peer.saveState()
            // There is nothing more, however often it is asked for.
            #expect(try peer.readState(100).payload == bytes(.u32(8), .u32(0)))
        }
        try withPeer(of: MigratingDevice()) { (peer) throws in
            #expect(try peer.go(to: Migration.resuming).error == nil)
            for part in saved.map({ [$0] }) { #expect(try peer.writeState(part).error == nil) }
            #expect(try peer.go(to: Migration.running).error == nil)
            #expect(try peer.read(0, at: 0, count: 8).number == 0x0123_4567_89ab_cdef)
        }
    }

    @Test(arguments: [0, 5, 100] as [UInt32])
    func `S87 what is read before the device stops and what is read after make one state`(early: UInt32) throws {
        var saved: [UInt8] = []
        try withPeer(of: MigratingDevice()) { peer in
            #expect(try peer.go(to: Migration.preCopy).error == nil)
            let first = try peer.readState(early)
            saved += first.payload[8...]
            if first.payload.u32(at: 4) < early {
                // The end for now; it may be asked again.
                #expect(try peer.readState(early).payload == bytes(.u32(8), .u32(0)))
            }
            // It runs, and what it does is in the state.
            try peer.write(0, at: 0, bytes(.u64(77)))
            #expect(try peer.go(to: Migration.stopCopy).error == nil)
            saved += try peer.readToEnd()
        }
        try withPeer(of: MigratingDevice()) { (peer) throws in
            #expect(try peer.go(to: Migration.resuming).error == nil)
            #expect(try peer.writeState(saved).error == nil)
            #expect(try peer.go(to: Migration.running).error == nil)
            #expect(try peer.read(0, at: 0, count: 8).number == 77)
        }
    }

    @Test func `S87 a state that is asked for in too large a piece, or that does not fit the reply, is not given`()
        throws
    {
        try withPeer(of: MigratingDevice(), negotiated: false) { peer in
            try peer.negotiate(#"{"capabilities":{"max_data_xfer_size":4096}}"#)
            #expect(try peer.go(to: Migration.stopCopy).error == nil)
            #expect(try peer.readState(4097).error == invalid)
            #expect(try peer.readState(.max - 8).error == invalid)
            #expect(try peer.call(Number.readMigrationData, bytes(.u32(23), .u32(16))).error == invalid)
            #expect(try peer.readState(4096).error == nil)
        }
    }

    @Test(arguments: [(StopFailure.tookTooLong, 16), (.storageFailed, 5)] as [(StopFailure, UInt32)])
    func `S87 a device that cannot be stopped goes on, and can be stopped later`(failure: StopFailure, error: UInt32)
        throws
    {
        let device = MigratingDevice()
        try withPeer(of: device) { (peer) throws in
            device.failStops(with: failure)
            #expect(try peer.go(to: Migration.stopCopy).error == error)
            #expect(device.takeCalls() == ["begin", "stop", "resume"])
            #expect(try peer.migrationState() == Migration.running)
            #expect(try peer.go(to: Migration.preCopy).error == nil)
            #expect(try peer.go(to: Migration.stopCopy).error == error)
            #expect(try peer.migrationState() == Migration.preCopy)
            device.failStops(with: nil)
            #expect(try peer.go(to: Migration.stopCopy).error == nil)
        }
    }

    @Test func `S87 a state that does not fit is refused as soon as that is known, and ends in error`() throws {
        var other: [UInt8] = []
        try withPeer(of: MigratingDevice(name: "another")) { other = try $0.saveState() }
        try withPeer(of: MigratingDevice()) { peer in
            try peer.write(0, at: 0, bytes(.u64(3)))
            #expect(try peer.go(to: Migration.resuming).error == nil)
            // Nothing can be known of the first bytes yet.
            #expect(try peer.writeState(Array(other.prefix(16))).error == nil)
            #expect(try peer.writeState(Array(other[16...])).error == invalid)
            #expect(try peer.writeState([]).error == invalid)
            #expect(try peer.migrationState() == Migration.resuming)
            #expect(try peer.read(0, at: 0, count: 8).number == 3)
            #expect(try peer.go(to: Migration.stop).error == invalid)
            #expect(try peer.migrationState() == Migration.error)
            try peer.succeed(Number.resetDevice)
            #expect(try peer.migrationState() == Migration.running)
        }
    }

    @Test func `S87 S100 a client that leaves a stopped device leaves a reset one, and the next finds it running`()
        throws
    {
        let device = MigratingDevice()
        try withServer(of: device) { server in
            for (number, state) in [Migration.stop, Migration.stopCopy, Migration.resuming].enumerated() {
                let peer = try server.connect()
                try peer.write(0, at: 0, bytes(.u64(9)))
                #expect(try peer.go(to: state).error == nil)
                _ = device.takeCalls()
                peer.close()
                server.waitForGoneClients(number + 1)
                #expect(device.takeCalls() == ["reset", "resume"])
            }
            let peer = try server.connect()
            #expect(try peer.migrationState() == Migration.running)
            #expect(try peer.read(0, at: 0, count: 8).number == 0)
            try peer.write(0, at: 0, bytes(.u64(9)))
            #expect(try peer.go(to: Migration.preCopy).error == nil)
            peer.close()
            server.waitForGoneClients(4)
            #expect(device.takeCalls().isEmpty)
        }
    }

    @Test func `S87 the abilities are to stop and copy and to copy in advance, and need room in the reply`() throws {
        try withPeer(of: MigratingDevice()) { peer in
            let reply = try peer.succeed(Number.deviceFeature, Payload.feature(1, Operation.get, argsz: 16))
            #expect(reply.payload == bytes(.u32(16), .u32(1 | Operation.get), .u64(0b101)))
            for feature in [1, 2] as [UInt32] {
                let short = Payload.feature(feature, Operation.get, argsz: 15)
                #expect(try peer.call(Number.deviceFeature, short).error == invalid)
            }
            let noState = Payload.feature(2, Operation.set, argsz: 16, bytes(.u32(1)))
            #expect(try peer.call(Number.deviceFeature, noState).error == invalid)
        }
    }
}
