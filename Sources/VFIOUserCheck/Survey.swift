import JSONText
import LinuxHost

/// What a server says of itself and its device, taken down once and believed by nobody: items that need to know what
/// there is look here, and those that judge an answer ask again.
struct Survey: Sendable {
    struct RegionSummary: Sendable {
        var flags: UInt32 = 0
        var size: UInt64 = 0
        /// Bytes of the full answer.
        var fullSize: UInt32 = 32

        var isReadable: Bool { flags & 1 != 0 }
        var isWritable: Bool { flags & 2 != 0 }
        var isMappable: Bool { flags & 4 != 0 }
    }

    /// What the server answered to QEMU's proposal.
    var capabilities: [JSONValue.Member] = []
    var deviceFlags: UInt32 = 0
    var regionCount = 0
    var interruptCount = 0
    /// By index, those that were described.
    var regions: [UInt32: RegionSummary] = [:]
    var vectorCounts: [UInt32: Int] = [:]
    var configuration: [UInt8] = []
    var offersMigration = false
    var offersLogging = false

    init() {}

    /// Asks everything once.
    init(_ connection: RawConnection, version: RawMessage) throws(Outcome) {
        capabilities = Survey.capabilities(in: version)
        let info = try connection.succeed(Number.getDeviceInfo, Payload.deviceInfo()).payload
        deviceFlags = info.u32(at: 4)
        regionCount = Int(info.u32(at: 8))
        interruptCount = Int(info.u32(at: 12))
        for index in 0..<UInt32(clamping: min(regionCount, 64)) {
            let reply = try connection.call(Number.getRegionInfo, Payload.regionInfo(index, argsz: 65536))
            guard reply.error == nil else { continue }
            regions[index] = RegionSummary(
                flags: reply.payload.u32(at: 4), size: reply.payload.u64(at: 16), fullSize: reply.payload.u32(at: 0))
        }
        for index in 0..<UInt32(clamping: min(interruptCount, 64)) {
            let reply = try connection.call(Number.getInterruptInfo, Payload.interruptInfo(index))
            guard reply.error == nil else { continue }
            vectorCounts[index] = Int(reply.payload.u32(at: 12))
        }
        if let region = regions[Region.configuration], region.size > 0 {
            let count = UInt32(clamping: min(region.size, 4096))
            let reply = try connection.call(
                Number.readRegion, Payload.read(Region.configuration, at: 0, count: count))
            if reply.error == nil { configuration = Array(reply.payload.dropFirst(16)) }
        }
        offersMigration = try Survey.offers(Feature.migration | Feature.get, connection)
        offersLogging = try Survey.offers(Feature.startLogging | Feature.set, connection)
    }

    private static func offers(_ feature: UInt32, _ connection: RawConnection) throws(Outcome) -> Bool {
        try connection.call(Number.deviceFeature, Payload.feature(feature, Feature.probe)).error == nil
    }

    /// The members of the reply's object of capabilities, if it is one.
    static func capabilities(in version: RawMessage) -> [JSONValue.Member] {
        var text = Array(version.payload.dropFirst(4))
        while text.last == 0 { text.removeLast() }
        let document = try? JSONValue(parsing: text)
        return document?.members?["capabilities"]?.members ?? []
    }

    var isPCI: Bool { deviceFlags & 2 != 0 }

    /// QEMU's educational device, whose registers are public, and which moves bytes when it is told to.
    var isEdu: Bool {
        configuration.u32(at: 0) == 0x11e8_1234 && (regions[0]?.size ?? 0) >= 0x100
    }

    /// Where in configuration space the first capability with an ID lies.
    func capability(_ id: UInt8) -> Int? {
        guard configuration.count >= 64, configuration.u16(at: 6) & 0x10 != 0 else { return nil }
        var offset = Int(configuration[0x34] & 0xfc)
        // A list that leads in circles visits no more places than there are.
        for _ in 0..<48 {
            guard offset >= 0x40, offset + 4 <= min(256, configuration.count) else { return nil }
            if configuration[offset] == id { return offset }
            offset = Int(configuration[offset + 1] & 0xfc)
        }
        return nil
    }

    func whole(_ name: String) -> Int128? { capabilities[name]?.wholeNumber }
}
