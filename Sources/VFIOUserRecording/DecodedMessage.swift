public import VFIOUserWire

/// A message taken apart, for people and for other programs.
///
/// Fields bear the names that the Wireshark dissector in `schemas/vfio-user.lua` has for them, without its prefix. A
/// message that breaks the rules keeps the fields that could be read, and says what is wrong.
public struct DecodedMessage: Hashable, Sendable {
    public struct Field: Hashable, Sendable {
        public let name: String
        public let value: Value
    }

    public enum Value: Hashable, Sendable {
        case number(UInt64)
        /// A number that is told in hexadecimal.
        case bits(UInt64)
        case text(String)
        case bytes([UInt8])
    }

    /// `nil` for bytes that begin with no header.
    public let header: MessageHeader?
    public private(set) var fields: [Field] = []
    public private(set) var error: WireError?
    /// Where the fields of a command's kind begin, behind those of the header.
    public private(set) var payloadFields = 0

    public init(_ bytes: [UInt8], direction: RecordedDirection) {
        do throws(WireError) {
            header = try MessageHeader(parsing: bytes.span)
        } catch {
            header = nil
            self.error = error
        }
        guard let header else { return }
        do throws(WireError) {
            add(header)
            payloadFields = fields.count
            guard header.byteCount == bytes.count else {
                throw .sizeMismatch(stated: UInt64(header.byteCount), actual: bytes.count)
            }
            try header.validate()
            try decode(header, bytes.span.extracting(MessageHeader.byteCount..<bytes.count), direction)
        } catch {
            self.error = error
        }
    }

    private mutating func add(_ header: MessageHeader) {
        number("id", UInt64(header.id.rawValue))
        number("command", UInt64(header.command.rawValue))
        number("size", UInt64(header.byteCount))
        number("type", header.kind == .reply ? 1 : 0)
        number("no_reply", header.expectsNoReply ? 1 : 0)
        number("is_error", header.isError ? 1 : 0)
        if header.isError { number("errno", UInt64(UInt32(bitPattern: header.errorNumber))) }
    }

    private mutating func decode(
        _ header: MessageHeader, _ payload: Span<UInt8>, _ direction: RecordedDirection
    ) throws(WireError) {
        switch (header.kind, direction) {
        case (.reply, _) where header.isError:
            if payload.count > 0 { throw .trailingBytes(expected: 0, actual: payload.count) }
        case (.command, .toServer): try decode(Request(parsing: payload, command: header.command), payload)
        case (.command, .toClient):
            switch try ServerRequest(parsing: payload, command: header.command) {
            case .readClientMemory(let access): add(access)
            case .writeClientMemory(let access):
                add(access)
                data(payload, from: ClientMemoryAccess.dataOffset)
            }
        case (.reply, .toServer): try decodeReplyOfClient(header.command, payload)
        case (.reply, .toClient): try decodeReplyOfServer(header.command, payload)
        }
    }

    private mutating func decode(_ request: Request, _ payload: Span<UInt8>) throws(WireError) {
        switch request {
        case .version(let version): add(version, payload)
        case .mapDMA(let map):
            number("argsz", UInt64(MapDMA.byteCount))
            bits("map.flags", UInt64(map.flags.rawValue))
            bits("map.offset", map.fileOffset)
            bits("map.address", map.address)
            bits("map.size", map.size)
        case .unmapDMA(let unmap): add(unmap)
        case .getDeviceInfo(let info): number("argsz", UInt64(info.maximumReplySize))
        case .getRegionInfo(let info):
            number("argsz", UInt64(info.maximumReplySize))
            number("region.index", UInt64(info.index))
        case .getRegionIODescriptors(let request):
            number("argsz", UInt64(request.maximumReplySize))
            number("io_fds.index", UInt64(request.index))
        case .getInterruptInfo(let info):
            number("argsz", UInt64(info.maximumReplySize))
            number("irq.index", UInt64(info.index))
        case .setInterrupts(let request):
            add(request)
            if request.data == .booleans { data(payload, from: SetInterrupts.booleansOffset) }
        case .readRegion(let access): add(access)
        case .writeRegion(let access):
            add(access)
            data(payload, from: RegionAccess.dataOffset)
        case .resetDevice: break
        case .writeRegions(let writes):
            number("multi.count", UInt64(writes.count))
            for index in 0..<writes.count {
                let write = try writes.write(at: index, in: payload)
                add(RegionAccess(offset: write.offset, region: write.region, count: write.count))
                bits("multi.data", write.data)
            }
        case .deviceFeature(let feature): add(feature, payload)
        case .readMigrationData(let request):
            number("argsz", UInt64(request.maximumReplySize))
            number("migration.size", UInt64(request.count))
        case .writeMigrationData(let piece):
            number("migration.size", UInt64(piece.count))
            data(payload, from: MigrationData.dataOffset)
        }
    }

    private mutating func decodeReplyOfServer(_ command: Command, _ payload: Span<UInt8>) throws(WireError) {
        switch command {
        case .version: add(try VersionMessage(parsing: payload), payload)
        case .unmapDMA: add(try UnmapDMA(parsing: payload))
        case .getDeviceInfo:
            let info = try DeviceInfo(parsing: payload)
            bits("device.flags", UInt64(info.flags.rawValue))
            number("device.regions", UInt64(info.regionCount))
            number("device.irqs", UInt64(info.interruptIndexCount))
        case .getRegionInfo: add(try RegionInfo(parsing: payload))
        case .getRegionIODescriptors: add(try RegionIODescriptors(parsing: payload))
        case .getInterruptInfo:
            let info = try InterruptInfo(parsing: payload)
            bits("irq.flags", UInt64(info.flags.rawValue))
            number("irq.index", UInt64(info.index))
            number("irq.count", UInt64(info.vectorCount))
        case .readRegion:
            add(try RegionAccess(parsingWithData: payload))
            data(payload, from: RegionAccess.dataOffset)
        case .writeRegion: add(try RegionAccess(parsingWithoutData: payload))
        case .writeRegions: number("multi.count", UInt64(try WriteRegions(parsingReply: payload).count))
        case .deviceFeature: add(try DeviceFeature(parsingReply: payload), payload)
        case .readMigrationData:
            number("migration.size", UInt64(try MigrationData(parsingReply: payload).count))
            data(payload, from: MigrationData.dataOffset)
        case .mapDMA, .setInterrupts, .resetDevice, .writeMigrationData:
            if payload.count > 0 { throw .trailingBytes(expected: 0, actual: payload.count) }
        case .readClientMemory, .writeClientMemory: throw .wrongDirection(command)
        case .other(let number): throw .unknownCommand(number)
        }
    }

    private mutating func decodeReplyOfClient(_ command: Command, _ payload: Span<UInt8>) throws(WireError) {
        switch command {
        case .readClientMemory:
            add(try ClientMemoryAccess(parsingWithData: payload))
            data(payload, from: ClientMemoryAccess.dataOffset)
        case .writeClientMemory:
            // QEMU up to 11.0 answers with a header alone.
            if ClientMemoryAccess.isLegacyWriteReply(payload) { return }
            add(try ClientMemoryAccess(parsingWithoutData: payload))
        case .other(let number): throw .unknownCommand(number)
        case .version, .mapDMA, .unmapDMA, .getDeviceInfo, .getRegionInfo, .getRegionIODescriptors,
            .getInterruptInfo, .setInterrupts, .readRegion, .writeRegion, .resetDevice, .writeRegions,
            .deviceFeature, .readMigrationData, .writeMigrationData:
            throw .wrongDirection(command)
        }
    }
}

/// The values of the wire as fields.
extension DecodedMessage {
    private mutating func add(_ version: VersionMessage, _ payload: Span<UInt8>) {
        number("version.major", UInt64(version.major))
        number("version.minor", UInt64(version.minor))
        var text: [UInt8] = []
        for index in VersionMessage.capabilitiesOffset..<payload.count { text.append(payload[index]) }
        // A text that lacks its end, or that is none, is shown as it is; negotiation refuses it.
        if text.last == 0 { text.removeLast() }
        if !text.isEmpty {
            fields.append(Field(name: "version.capabilities", value: .text(String(decoding: text, as: UTF8.self))))
        }
    }

    private mutating func add(_ unmap: UnmapDMA) {
        number("argsz", UInt64(unmap.maximumReplySize))
        switch unmap.scope {
        case .addresses(let range):
            bits("unmap.flags", unmap.dirtyBitmap == nil ? 0 : 1)
            bits("unmap.address", range.lowerBound)
            bits("unmap.size", range.upperBound - range.lowerBound &+ 1)
        case .everything:
            bits("unmap.address", 0)
            bits("unmap.size", 0)
        }
        if let bitmap = unmap.dirtyBitmap {
            bits("unmap.bitmap.pgsize", bitmap.pageSize)
            number("unmap.bitmap.size", bitmap.size)
        }
    }

    private mutating func add(_ info: RegionInfo) {
        bits("region.flags", UInt64((info.capabilities.isEmpty ? 0 : 8) | info.flags.rawValue))
        number("region.index", UInt64(info.index))
        bits("region.size", info.size)
        bits("region.offset", info.mappingOffset)
        for capability in info.capabilities {
            switch capability {
            case .mappableAreas(let areas):
                number("region.cap.id", 1)
                for area in areas {
                    bits("region.area.offset", area.offset)
                    bits("region.area.size", area.size)
                }
            case .type(let type, let subtype):
                number("region.cap.id", 2)
                bits("region.cap.type", UInt64(type))
                bits("region.cap.subtype", UInt64(subtype))
            case .mappableMSIX: number("region.cap.id", 3)
            case .other(let kind, _): number("region.cap.id", UInt64(kind))
            }
        }
    }

    private mutating func add(_ descriptors: RegionIODescriptors) {
        number("io_fds.index", UInt64(descriptors.index))
        for entry in descriptors.entries {
            bits("io_fds.offset", entry.offset)
            number("io_fds.size", entry.size)
            number("io_fds.fd_index", UInt64(entry.descriptorIndex))
            switch entry.kind {
            case .event(let value):
                number("io_fds.type", 0)
                bits("io_fds.value", value)
            case .region(let value):
                number("io_fds.type", 1)
                bits("io_fds.value", value)
            case .other(let kind): number("io_fds.type", UInt64(kind))
            }
        }
    }

    private mutating func add(_ request: SetInterrupts) {
        let data: UInt64 =
            switch request.data {
            case .none: 1
            case .booleans: 2
            case .descriptors: 4
            }
        let action: UInt64 =
            switch request.action {
            case .mask: 8
            case .unmask: 16
            case .trigger: 32
            }
        bits("set_irqs.flags", data | action)
        number("set_irqs.index", UInt64(request.index))
        number("set_irqs.start", UInt64(request.start))
        number("set_irqs.count", UInt64(request.count))
    }

    private mutating func add(_ access: RegionAccess) {
        bits("access.offset", access.offset)
        number("access.region", UInt64(access.region))
        number("access.count", UInt64(access.count))
    }

    private mutating func add(_ access: ClientMemoryAccess) {
        bits("dma.address", access.address)
        number("dma.count", UInt64(access.count))
    }

    private mutating func add(_ feature: DeviceFeature, _ payload: Span<UInt8>) {
        number("argsz", UInt64(feature.argumentSize))
        bits("feature.flags", UInt64(feature.operations.rawValue) | UInt64(feature.feature.rawValue))
        data(payload, from: DeviceFeature.dataOffset)
    }

    private mutating func number(_ name: String, _ value: UInt64) {
        fields.append(Field(name: name, value: .number(value)))
    }

    private mutating func bits(_ name: String, _ value: UInt64) {
        fields.append(Field(name: name, value: .bits(value)))
    }

    private mutating func data(_ payload: Span<UInt8>, from offset: Int) {
        guard payload.count > offset else { return }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(payload.count - offset)
        for index in offset..<payload.count { bytes.append(payload[index]) }
        fields.append(Field(name: "data", value: .bytes(bytes)))
    }
}
