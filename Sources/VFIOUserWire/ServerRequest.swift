/// What a server asks of a client: access to memory that the client did not share.
public enum ServerRequest: Hashable, Sendable {
    case readClientMemory(ClientMemoryAccess)
    case writeClientMemory(ClientMemoryAccess)

    public init(parsing payload: Span<UInt8>, command: Command) throws(WireError) {
        switch command {
        case .readClientMemory: self = .readClientMemory(try ClientMemoryAccess(parsingWithoutData: payload))
        case .writeClientMemory: self = .writeClientMemory(try ClientMemoryAccess(parsingWithData: payload))
        case .other(let number): throw .unknownCommand(number)
        case .version, .mapDMA, .unmapDMA, .getDeviceInfo, .getRegionInfo, .getRegionIODescriptors,
            .getInterruptInfo, .setInterrupts, .readRegion, .writeRegion, .resetDevice, .writeRegions,
            .deviceFeature, .readMigrationData, .writeMigrationData:
            throw .wrongDirection(command)
        }
    }

    public var command: Command {
        switch self {
        case .readClientMemory: .readClientMemory
        case .writeClientMemory: .writeClientMemory
        }
    }

    /// Writes the payload's fixed part; the data of a write follow.
    public func write(to writer: inout MessageWriter) {
        switch self {
        case .readClientMemory(let access), .writeClientMemory(let access): access.write(to: &writer)
        }
    }
}
