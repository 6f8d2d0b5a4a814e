import Edu
import Testing
import VFIOUserCheck

private typealias Operation = Payload.FeatureOperation

@Suite struct Features {
    @Test func `S84 the feature of shared buffers is never granted, for its success would be taken for a descriptor`()
        throws
    {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(
                Number.deviceFeature,
                Payload.feature(
                    11, Operation.get, argsz: 40, bytes(.u32(0), .u32(0), .u32(0), .u32(1), .u64(0), .u64(4096))))
            #expect(reply.error == invalid && reply.size == 16)
        }
    }

    @Test(arguments: [
        Payload.feature(99, Operation.get), Payload.feature(1, 0), Payload.feature(2, Operation.get | Operation.set),
        Payload.feature(1, Operation.get, argsz: 7), Array(Payload.feature(1, Operation.get).prefix(7)),
        Payload.feature(1, Operation.probe | Operation.get, argsz: 8, bytes(.u64(0))),
        Payload.feature(1, Operation.set, argsz: 8, bytes(.u64(0))), Payload.feature(1, 1 << 19 | Operation.get),
    ])
    func `S85 a question for a feature that makes no sense is refused`(payload: [UInt8]) throws {
        try withPeer(of: Edu.makeFunction()) { peer in
            let reply = try peer.call(Number.deviceFeature, payload)
            #expect(reply.error == invalid)
            try peer.succeed(Number.getDeviceInfo, Payload.deviceInfo())
        }
    }

    @Test(arguments: 0..<16 as Range<UInt32>)
    func `S86 S89 a device that cannot migrate has no feature, whether it is asked for, set or only probed`(
        feature: UInt32
    ) throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            for operation in [
                Operation.get, Operation.set, Operation.probe, Operation.probe | Operation.get,
                Operation.probe | Operation.set, Operation.probe | Operation.get | Operation.set,
            ] {
                let reply = try peer.call(
                    Number.deviceFeature, Payload.feature(feature, operation, argsz: 32, bytes(.zeros(24))))
                #expect(reply.error == invalid)
            }
        }
    }

    @Test(arguments: 0..<16 as Range<UInt32>)
    func `S84 S86 a device that migrates has the features of migration, and repeats the question for them`(
        feature: UInt32
    ) throws {
        let (get, set) = (Operation.get, Operation.set)
        let supported: [UInt32: [UInt32]] = [1: [get], 2: [get, set, get | set], 6: [set], 7: [set], 8: [get]]
        try withPeer(of: Edu.makeFunction()) { peer in
            for operations in [0, get, set, get | set] {
                let payload = Payload.feature(feature, Operation.probe | operations, argsz: 40, bytes(.zeros(24)))
                let reply = try peer.call(Number.deviceFeature, payload)
                let isSupported = supported[feature].map { operations == 0 || $0.contains(operations) } ?? false
                #expect(reply.error == (isSupported ? nil : invalid))
                if isSupported { #expect(reply.payload == payload) }
            }
            // What a feature does not do is refused, too, when it is asked for.
            for operation in [get, set] where supported[feature]?.contains(operation) != true {
                let reply = try peer.call(
                    Number.deviceFeature, Payload.feature(feature, operation, argsz: 40, bytes(.zeros(24))))
                #expect(reply.error == invalid)
            }
        }
    }

    @Test func `S89 a device that cannot migrate neither gives nor takes migration data`() throws {
        try withPeer(of: VectorDevice.makeFunction()) { peer in
            let read = try peer.call(Number.readMigrationData, bytes(.u32(4096), .u32(1024)))
            #expect(read.error == invalid)
            let write = try peer.call(Number.writeMigrationData, bytes(.u32(12), .u32(4), .u32(0)))
            #expect(write.error == invalid)
        }
    }
}
