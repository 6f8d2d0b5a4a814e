import LinuxHost
import Testing
import VFIOUserCheck

/// The numbers of the states.
enum Migration {
    static let error: UInt32 = 0
    static let stop: UInt32 = 1
    static let running: UInt32 = 2
    static let stopCopy: UInt32 = 3
    static let resuming: UInt32 = 4
    static let preCopy: UInt32 = 6
}

private typealias Operation = Payload.FeatureOperation

/// Migration.
extension RawPeer {
    /// Asks for a state; the reply may be an error.
    func go(to state: UInt32) throws -> RawMessage {
        try call(
            Number.deviceFeature, Payload.feature(2, Operation.set, argsz: 16, bytes(.u32(state), .u32(0))))
    }

    func migrationState() throws -> UInt32 {
        try succeed(Number.deviceFeature, Payload.feature(2, Operation.get, argsz: 16)).payload.u32(at: 8)
    }

    func readState(_ count: UInt32) throws -> RawMessage {
        try call(Number.readMigrationData, bytes(.u32(8 + count), .u32(count)))
    }

    func writeState(_ data: [UInt8]) throws -> RawMessage {
        try call(Number.writeMigrationData, bytes(.u32(UInt32(8 + data.count)), .u32(UInt32(data.count)), .raw(data)))
    }

    /// The device's whole state, after which it is in stop-copy.
    func saveState() throws -> [UInt8] {
        #expect(try go(to: Migration.stopCopy).error == nil)
        return try readToEnd()
    }

    func readToEnd() throws -> [UInt8] {
        var stream: [UInt8] = []
        while true {
            let reply = try readState(100)
            #expect(reply.error == nil)
            let count = Int(reply.payload.u32(at: 4))
            #expect(reply.payload.u32(at: 0) == UInt32(8 + count) && reply.payload.count == 8 + count)
            stream += reply.payload[8...]
            if count < 100 { return stream }
        }
    }
}
