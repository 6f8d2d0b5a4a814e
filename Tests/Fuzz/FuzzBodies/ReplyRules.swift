import VFIOUserCheck

/// What a reply that is no error may look like, by the request it answers.
enum ReplyRules {
    /// The rules that need no knowledge of the device.
    static func check(
        _ reply: [UInt8], to request: StreamModel.Message, _ descriptorCount: Int
    ) throws(Finding) {
        let payload = reply.count - headerSize
        let maximumDescriptors: Int
        switch request.command {
        case Number.getRegionInfo: maximumDescriptors = 1
        case Number.getRegionIODescriptors: maximumDescriptors = 16
        case Number.version: maximumDescriptors = 1
        default: maximumDescriptors = 0
        }
        try require(descriptorCount <= maximumDescriptors, "\(descriptorCount) descriptors with \(request)")
        func requirePayload(_ count: Int) throws(Finding) {
            try require(payload == count, "a reply of \(payload) bytes instead of \(count) to \(request)")
        }
        switch request.command {
        case Number.version: try require(payload >= 5, "a version without capabilities")
        case Number.mapDMA, Number.setInterrupts, Number.resetDevice, Number.writeMigrationData:
            try requirePayload(0)
        case Number.unmapDMA:
            try require(payload >= 24, "an unmap's reply of \(payload) bytes")
            try require(
                Array(reply[(headerSize + 8)..<(headerSize + 24)]) == Array(request.payload[8..<24]),
                "an unmap's reply that does not repeat it")
        case Number.getDeviceInfo, Number.getInterruptInfo: try requirePayload(16)
        case Number.getRegionInfo, Number.getRegionIODescriptors, Number.deviceFeature, Number.readMigrationData:
            let room = Int(request.payload.u32(at: 0))
            try require(payload <= room, "\(payload) bytes for a client that takes \(room)")
        case Number.readRegion: try requirePayload(16 + Int(request.payload.u32(at: 12)))
        case Number.writeRegion: try requirePayload(16)
        case Number.writeRegions: try requirePayload(8)
        default: throw Finding("a command that does not exist is accepted: \(request)")
        }
    }
}
