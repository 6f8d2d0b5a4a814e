import VFIOUserWire

extension WireProperties {
    /// A request as the server reads it, and as the client does.
    static func checkRequest(_ payload: [UInt8], _ command: Command) throws(Finding) {
        if let request = parsed(payload, { (bytes) throws(WireError) in try Request(parsing: bytes, command: command) })
        {
            try require(request.command == command, "\(command) was read as \(request)")
            let copy = written { request.write(to: &$0) } + data(of: request, in: payload)
            let again = parsed(copy) { (bytes) throws(WireError) in try Request(parsing: bytes, command: command) }
            try require(again == request, "\(request) was written as \(copy) and read as \(String(describing: again))")
            for count in [0, 1, 2, 16, 17] {
                _ = parsed([]) { _ throws(WireError) in try request.validate(descriptorCount: count) }
            }
        }
        if let request = parsed(
            payload, { (bytes) throws(WireError) in try ServerRequest(parsing: bytes, command: command) })
        {
            try require(request.command == command, "\(command) was read as \(request)")
            var copy = written { request.write(to: &$0) }
            if case .writeClientMemory(let access) = request {
                copy += try data(at: ClientMemoryAccess.dataOffset, count: access.count, in: payload)
            }
            let again = parsed(copy) { (bytes) throws(WireError) in
                try ServerRequest(parsing: bytes, command: command)
            }
            try require(again == request, "\(request) was written as \(copy)")
        }
    }

    /// The bulk data that follow a request's fixed part. Traps when they are not all there.
    private static func data(of request: Request, in payload: [UInt8]) -> ArraySlice<UInt8> {
        switch request {
        case .version: payload[VersionMessage.capabilitiesOffset...]
        case .setInterrupts(let message) where message.data == .booleans:
            payload[SetInterrupts.booleansOffset..<SetInterrupts.booleansOffset + Int(message.count)]
        case .writeRegion(let message):
            payload[RegionAccess.dataOffset..<RegionAccess.dataOffset + message.count]
        case .writeRegions(let message): payload[WriteRegions.writesOffset..<WriteRegions.offset(of: message.count)]
        case .deviceFeature: payload[DeviceFeature.dataOffset...]
        case .writeMigrationData(let message):
            payload[MigrationData.dataOffset..<MigrationData.dataOffset + message.count]
        case .mapDMA, .unmapDMA, .getDeviceInfo, .getRegionInfo, .getRegionIODescriptors, .getInterruptInfo,
            .setInterrupts, .readRegion, .resetDevice, .readMigrationData:
            []
        }
    }

    private static func data(at offset: Int, count: Int, in payload: [UInt8]) throws(Finding) -> ArraySlice<UInt8> {
        try require(count >= 0 && count <= payload.count - offset, "\(count) bytes of data in \(payload.count)")
        return payload[offset..<offset + count]
    }

    /// Everything that a client reads.
    static func checkReplies(_ payload: [UInt8]) throws(Finding) {
        try roundTrip(payload, { (bytes) throws(WireError) in try DeviceInfo(parsing: bytes) }) { $0.write(to: &$1) }
        try roundTrip(payload, { (bytes) throws(WireError) in try InterruptInfo(parsing: bytes) }) {
            $0.write(to: &$1)
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try VersionMessage(parsing: bytes) }) {
            $0.write(to: &$1)
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try RegionInfo(parsing: bytes) }) {
            $0.write(to: &$1, maximumReplySize: $0.requiredReplySize)
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try RegionIODescriptors(parsing: bytes) }) {
            $0.write(to: &$1, maximumReplySize: $0.requiredReplySize)
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try WriteRegions(parsingReply: bytes) }) {
            $0.write(to: &$1)
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try DeviceFeature(parsingReply: bytes) }) {
            $0.write(to: &$1)
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try MigrationData(parsingReply: bytes) }) {
            $0.write(to: &$1)
            $1.append(contentsOf: payload[MigrationData.dataOffset..<MigrationData.dataOffset + $0.count])
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try RegionAccess(parsingWithData: bytes) }) {
            $0.write(to: &$1)
            $1.append(contentsOf: payload[RegionAccess.dataOffset..<RegionAccess.dataOffset + $0.count])
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try ClientMemoryAccess(parsingWithData: bytes) }) {
            $0.write(to: &$1)
            $1.append(contentsOf: payload[ClientMemoryAccess.dataOffset..<ClientMemoryAccess.dataOffset + $0.count])
        }
        try roundTrip(payload, { (bytes) throws(WireError) in try LegacyClientMemoryAccess(parsingWithData: bytes) }) {
            let start = LegacyClientMemoryAccess.dataOffset
            $0.write(to: &$1)
            $1.append(contentsOf: payload[start..<start + $0.count])
            LegacyClientMemoryAccess.writePadding(to: &$1)
        }
        if let info = parsed(payload, { (bytes) throws(WireError) in try RegionInfo(parsing: bytes) }) {
            // Or a message would take more memory than it has bytes.
            let isWithin = info.capabilities.isEmpty || info.requiredReplySize <= payload.count
            try require(isWithin, "\(info.requiredReplySize) bytes of region info in \(payload.count)")
        }
        if let writes = parsed(payload, { (bytes) throws(WireError) in try WriteRegions(parsing: bytes) }) {
            for index in 0..<writes.count {
                let write = parsed(payload) { (bytes) throws(WireError) in try writes.write(at: index, in: bytes) }
                guard let write else { throw Finding("write \(index) of \(writes.count) cannot be read") }
                let start = WriteRegions.offset(of: index)
                let original = Array(payload[start..<start + WriteRegions.Write.byteCount])
                try require(written { write.write(to: &$0) } == original, "write \(index) became \(write)")
            }
        }
    }

    private static func roundTrip<Value: Equatable>(
        _ payload: [UInt8], _ read: (Span<UInt8>) throws(WireError) -> Value,
        _ write: (Value, inout MessageWriter) -> Void
    ) throws(Finding) {
        guard let value = parsed(payload, read) else { return }
        let copy = written { write(value, &$0) }
        let again = parsed(copy, read)
        try require(again == value, "\(value) was written as \(copy) and read as \(String(describing: again))")
    }
}
