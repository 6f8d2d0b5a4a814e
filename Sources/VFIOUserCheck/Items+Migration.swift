import LinuxHost

extension CheckItem {
    /// S87 to S89: migration and the log of pages that the device has written.
    static let migration: [CheckItem] = [
        CheckItem(
            87, "Migration goes by the state machine; saved state is taken back, and only a reset ends ERROR.",
            in: "VFIO_USER_DEVICE_FEATURE, migration", for: [.specification], mayEndServer: true
        ) { (server) throws(Outcome) in
            guard server.survey.offersMigration else { throw .notApplicable("the server offers no migration") }
            let migration = try Migration(server)
            try migration.checkFlags()
            try migration.refuseWhileRunning()
            try migration.refuseArcs()
            let state = try migration.save()
            try migration.restore(state)
            if migration.hasPreCopy { try migration.copyBeforehand() }
            try migration.leaveError()
        },
        CheckItem(
            88,
            "The log of written pages has one bit for each, is cleared when it is read, and ends when it is stopped.",
            in: "VFIO_USER_DEVICE_FEATURE, DMA logging", for: [.specification]
        ) { (server) throws(Outcome) in
            guard server.survey.offersLogging else { throw .notApplicable("the server offers no DMA logging") }
            try CheckItem.checkLogging(server)
        },
        CheckItem(
            89, "A server without migration refuses its features and its data.", in: "VFIO_USER_DEVICE_FEATURE",
            for: [.specification]
        ) { (server) throws(Outcome) in
            guard !server.survey.offersMigration else { throw .notApplicable("the server offers migration") }
            let connection = try server.session()
            let logging = server.survey.offersLogging
            for feature in logging ? [1, 2] : [1, 2, 6, 7, 8] as [UInt32] {
                let data = [UInt8](repeating: 0, count: feature == 2 ? 8 : 24)
                for operation in [Feature.get, Feature.set, Feature.probe] {
                    try connection.refuse(
                        Number.deviceFeature, Payload.feature(feature, operation, argsz: 4096, data),
                        because: "a feature that is not offered")
                }
            }
            try connection.refuse(
                Number.readMigrationData, Payload.migrationData(size: 64), because: "migration, which is not offered")
            try connection.refuse(
                Number.writeMigrationData, Payload.migrationData(size: 4, [1, 2, 3, 4]),
                because: "migration, which is not offered")
        },
    ]

    private static func checkLogging(_ server: CheckedServer) throws(Outcome) {
        let connection = try server.session()
        let base = Place.first
        func report(_ first: UInt64, _ byteCount: UInt64) -> [UInt8] {
            Payload.feature(
                Feature.reportLogging, Feature.get, argsz: 4096, bytes(.u64(first), .u64(byteCount), .u64(4096)))
        }
        try connection.refuse(Number.deviceFeature, report(base, 0x4000), because: "a log that has not begun")
        let memory = try LocalMemory(byteCount: 0x8_0000)
        try connection.succeed(
            Number.mapDMA, Payload.map(at: base, size: 0x8_0000), [memory.rawDescriptor])
        let start = Payload.feature(
            Feature.startLogging, Feature.set, argsz: 40,
            bytes(.u64(4096), .u32(1), .u32(0), .u64(base), .u64(0x8_0000)))
        try connection.succeed(Number.deviceFeature, start, replying: start.count)
        if server.survey.isEdu {
            let edu = try EduDriver(server, connection)
            try edu.setCommand()
            try edu.store(to: base + 0x3ff0, count: 32)
        }
        // 66 pages take two words, and the bits past the last page are none.
        for round in 0..<2 {
            let reply = try connection.succeed(
                Number.deviceFeature, report(base, 66 * 4096), replying: 8 + 24 + 16, because: "a log of 66 pages")
            let bitmap = [reply.payload.u64(at: 32), reply.payload.u64(at: 40)]
            guard bitmap[1] >> 2 == 0 else { throw connection.fails("no bits past page 65", "\(reply)") }
            guard server.survey.isEdu else { continue }
            let expected: UInt64 = round == 0 ? 0b11000 : 0
            guard bitmap == [expected, 0] else {
                throw connection.fails(
                    "bits \(expected.hexadecimal)", "\(bitmap[0].hexadecimal), \(bitmap[1].hexadecimal)")
            }
        }
        try connection.succeed(
            Number.deviceFeature, Payload.feature(Feature.stopLogging, Feature.set), because: "a log that runs")
        try connection.refuse(Number.deviceFeature, report(base, 0x4000), because: "a log that has ended")
    }
}

/// A server's device on its way through the states of migration.
private struct Migration {
    let server: CheckedServer
    let connection: RawConnection
    private let flags: UInt64
    /// More than any device that takes a check's patience.
    private static let maximumState = 64 << 20
    private static let chunk: UInt32 = 65536

    init(_ server: CheckedServer) throws(Outcome) {
        self.server = server
        connection = try server.session()
        let reply = try connection.succeed(
            Number.deviceFeature, Payload.feature(Feature.migration, Feature.get, argsz: 16), replying: 16)
        flags = reply.payload.u64(at: 8)
    }

    var hasPreCopy: Bool { flags & 4 != 0 }

    func checkFlags() throws(Outcome) {
        guard flags & 1 != 0 else { throw connection.fails("the STOP_COPY flag", flags.hexadecimal) }
        try expect(DeviceState.running)
    }

    private func expect(_ state: UInt32) throws(Outcome) {
        let reply = try connection.succeed(
            Number.deviceFeature, Payload.feature(Feature.deviceState, Feature.get, argsz: 16), replying: 16)
        guard reply.payload.u32(at: 8) == state else {
            throw connection.fails(
                "the device in \(DeviceState.name(state))", DeviceState.name(reply.payload.u32(at: 8)))
        }
    }

    private func request(_ state: UInt32) -> [UInt8] {
        Payload.feature(Feature.deviceState, Feature.set, bytes(.u32(state), .u32(0)))
    }

    private func go(to state: UInt32) throws(Outcome) {
        let payload = request(state)
        let reply = try connection.succeed(
            Number.deviceFeature, payload, because: "the way to \(DeviceState.name(state))")
        guard reply.payload.count == payload.count, reply.payload.u32(at: 8) == state else {
            throw connection.fails("the request again", "\(reply)")
        }
        try expect(state)
    }

    func refuseWhileRunning() throws(Outcome) {
        try connection.refuse(
            Number.readMigrationData, Payload.migrationData(size: 64), because: "data of a device that runs")
        try connection.refuse(
            Number.writeMigrationData, Payload.migrationData(size: 4, [1, 2, 3, 4]),
            because: "data to a device that runs")
    }

    func refuseArcs() throws(Outcome) {
        for state in [DeviceState.error, 8, .max] {
            try connection.refuse(Number.deviceFeature, request(state), because: "a state that cannot be set")
        }
        try expect(DeviceState.running)
        try go(to: DeviceState.stopCopy)
        try connection.refuse(
            Number.deviceFeature, request(DeviceState.preCopy), because: "the way from STOP_COPY to PRE_COPY")
        try expect(DeviceState.stopCopy)
        try go(to: DeviceState.running)
    }

    /// Saves the device, by way of STOP, which a client need not name.
    func save() throws(Outcome) -> [UInt8] {
        try go(to: DeviceState.stopCopy)
        let state = try readAll()
        try go(to: DeviceState.stop)
        return state
    }

    private func readAll() throws(Outcome) -> [UInt8] {
        var state: [UInt8] = []
        while state.count < Self.maximumState {
            let reply = try connection.succeed(
                Number.readMigrationData, Payload.migrationData(size: Self.chunk), because: "a device in STOP_COPY")
            let count = reply.payload.u32(at: 4)
            guard count <= Self.chunk, reply.payload.count >= 8 + Int(count) else {
                throw connection.fails("as many bytes as the reply says, \(Self.chunk) at most", "\(reply)")
            }
            state += reply.payload[8..<8 + Int(count)]
            if count < Self.chunk { return state }
        }
        throw connection.fails("an end of the device's state", "\(state.count) bytes of it")
    }

    func restore(_ state: [UInt8]) throws(Outcome) {
        let configuration = try connection.read(Region.configuration, at: 0, count: 64)
        try go(to: DeviceState.resuming)
        var rest = state[...]
        while !rest.isEmpty {
            let part = Array(rest.prefix(Int(Self.chunk)))
            try connection.succeed(
                Number.writeMigrationData, Payload.migrationData(size: UInt32(part.count), part), replying: 0)
            rest = rest.dropFirst(part.count)
        }
        try go(to: DeviceState.stop)
        try go(to: DeviceState.running)
        let restored = try connection.read(Region.configuration, at: 0, count: 64)
        guard restored == configuration else {
            throw connection.fails("configuration space as it was saved", restored.hexadecimal(atMost: 64))
        }
    }

    func copyBeforehand() throws(Outcome) {
        try go(to: DeviceState.preCopy)
        let reply = try connection.succeed(
            Number.readMigrationData, Payload.migrationData(size: 4096), because: "a device in PRE_COPY")
        guard reply.payload.u32(at: 4) <= 4096 else { throw connection.fails("at most 4096 bytes", "\(reply)") }
        try go(to: DeviceState.stopCopy)
        _ = try readAll()
        try go(to: DeviceState.running)
    }

    /// Feeds the device what is no state. Whether it notices at once or when it has all, it must not run with that.
    func leaveError() throws(Outcome) {
        try go(to: DeviceState.resuming)
        let nonsense = [UInt8](repeating: 0xa5, count: 777)
        try connection.call(
            Number.writeMigrationData, Payload.migrationData(size: UInt32(nonsense.count), nonsense))
        try connection.call(Number.deviceFeature, request(DeviceState.stop))
        let reply = try connection.succeed(
            Number.deviceFeature, Payload.feature(Feature.deviceState, Feature.get, argsz: 16), replying: 16)
        if reply.payload.u32(at: 8) == DeviceState.error {
            for state in [DeviceState.running, DeviceState.stop] {
                try connection.refuse(Number.deviceFeature, request(state), because: "the state ERROR")
            }
        } else if reply.payload.u32(at: 8) == DeviceState.stop {
            throw connection.fails("777 bytes of nonsense to be refused", "a device in STOP, ready to run with them")
        }
        try connection.succeed(Number.resetDevice, replying: 0)
        try expect(DeviceState.running)
    }
}
