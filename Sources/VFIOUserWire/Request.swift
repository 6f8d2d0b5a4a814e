/// What a client asks of a server: the payload of a command, read into a value.
///
/// The messages of vfio-user as values: bytes become a value once, here, and every length, flag and count in it has been
/// checked as far as that is possible without knowing the device. This module does no I/O and holds no state. Data in
/// bulk are not copied: a value says where in the payload they lie (`dataOffset`) and that they are all there.
///
/// Payloads that open with `argsz` may be longer than their layout, because clients send as many bytes as they expect
/// back; what follows the fields is ignored there, and refused elsewhere. All integers are little-endian.
public enum Request: Hashable, Sendable {
    case version(VersionMessage)
    case mapDMA(MapDMA)
    case unmapDMA(UnmapDMA)
    case getDeviceInfo(DeviceInfoRequest)
    case getRegionInfo(RegionInfoRequest)
    case getRegionIODescriptors(RegionIODescriptorsRequest)
    case getInterruptInfo(InterruptInfoRequest)
    case setInterrupts(SetInterrupts)
    case readRegion(RegionAccess)
    case writeRegion(RegionAccess)
    case resetDevice
    case writeRegions(WriteRegions)
    case deviceFeature(DeviceFeature)
    case readMigrationData(MigrationDataRequest)
    case writeMigrationData(MigrationData)
}

extension Request {
    public init(parsing payload: Span<UInt8>, command: Command) throws(WireError) {
        switch command {
        case .version: self = .version(try VersionMessage(parsing: payload))
        case .mapDMA: self = .mapDMA(try MapDMA(parsing: payload))
        case .unmapDMA: self = .unmapDMA(try UnmapDMA(parsing: payload))
        case .getDeviceInfo: self = .getDeviceInfo(try DeviceInfoRequest(parsing: payload))
        case .getRegionInfo: self = .getRegionInfo(try RegionInfoRequest(parsing: payload))
        case .getRegionIODescriptors:
            self = .getRegionIODescriptors(try RegionIODescriptorsRequest(parsing: payload))
        case .getInterruptInfo: self = .getInterruptInfo(try InterruptInfoRequest(parsing: payload))
        case .setInterrupts: self = .setInterrupts(try SetInterrupts(parsing: payload))
        case .readRegion: self = .readRegion(try RegionAccess(parsingWithoutData: payload))
        case .writeRegion: self = .writeRegion(try RegionAccess(parsingWithData: payload))
        // The reference server tolerates a payload here.
        case .resetDevice: self = .resetDevice
        case .writeRegions: self = .writeRegions(try WriteRegions(parsing: payload))
        case .deviceFeature: self = .deviceFeature(try DeviceFeature(parsing: payload))
        case .readMigrationData: self = .readMigrationData(try MigrationDataRequest(parsing: payload))
        case .writeMigrationData: self = .writeMigrationData(try MigrationData(parsing: payload))
        case .readClientMemory, .writeClientMemory: throw .wrongDirection(command)
        case .other(let number): throw .unknownCommand(number)
        }
    }

    public var command: Command {
        switch self {
        case .version: .version
        case .mapDMA: .mapDMA
        case .unmapDMA: .unmapDMA
        case .getDeviceInfo: .getDeviceInfo
        case .getRegionInfo: .getRegionInfo
        case .getRegionIODescriptors: .getRegionIODescriptors
        case .getInterruptInfo: .getInterruptInfo
        case .setInterrupts: .setInterrupts
        case .readRegion: .readRegion
        case .writeRegion: .writeRegion
        case .resetDevice: .resetDevice
        case .writeRegions: .writeRegions
        case .deviceFeature: .deviceFeature
        case .readMigrationData: .readMigrationData
        case .writeMigrationData: .writeMigrationData
        }
    }

    /// Writes the payload's fixed part; bulk data follow where the message has them.
    public func write(to writer: inout MessageWriter) {
        switch self {
        case .version(let message): message.write(to: &writer)
        case .mapDMA(let message): message.write(to: &writer)
        case .unmapDMA(let message): message.write(to: &writer)
        case .getDeviceInfo(let message): message.write(to: &writer)
        case .getRegionInfo(let message): message.write(to: &writer)
        case .getRegionIODescriptors(let message): message.write(to: &writer)
        case .getInterruptInfo(let message): message.write(to: &writer)
        case .setInterrupts(let message): message.write(to: &writer)
        case .readRegion(let message): message.write(to: &writer)
        case .writeRegion(let message): message.write(to: &writer)
        case .resetDevice: break
        case .writeRegions(let message): message.write(to: &writer)
        case .deviceFeature(let message): message.write(to: &writer)
        case .readMigrationData(let message): message.write(to: &writer)
        case .writeMigrationData(let message): message.write(to: &writer)
        }
    }

    /// Refuses a number of descriptors that does not belong to this request.
    ///
    /// The descriptors themselves are the caller's to close.
    public func validate(descriptorCount: Int) throws(WireError) {
        switch self {
        case .mapDMA(let message):
            let needsDescriptor = !message.flags.isDisjoint(with: [.accessByMapping, .accessByFileIO])
            if descriptorCount > 1 || (needsDescriptor && descriptorCount == 0) {
                throw .wrongDescriptorCount(expected: 1, actual: descriptorCount)
            }
        case .setInterrupts(let message) where message.data == .descriptors:
            if descriptorCount != 0 && descriptorCount != Int(message.count) {
                throw .wrongDescriptorCount(expected: Int(message.count), actual: descriptorCount)
            }
        case .version, .unmapDMA, .getDeviceInfo, .getRegionInfo, .getRegionIODescriptors, .getInterruptInfo,
            .setInterrupts, .readRegion, .writeRegion, .resetDevice, .writeRegions, .deviceFeature,
            .readMigrationData, .writeMigrationData:
            if descriptorCount != 0 { throw .wrongDescriptorCount(expected: 0, actual: descriptorCount) }
        }
    }
}
