/// What a message asks for, or answers.
///
/// A number without a meaning stays representable, because an error reply has to repeat it.
public enum Command: Hashable, Sendable {
    case version
    case mapDMA
    case unmapDMA
    case getDeviceInfo
    case getRegionInfo
    case getRegionIODescriptors
    case getInterruptInfo
    case setInterrupts
    case readRegion
    case writeRegion
    /// From server to client. `VFIO_USER_DMA_READ`
    case readClientMemory
    /// From server to client. `VFIO_USER_DMA_WRITE`
    case writeClientMemory
    case resetDevice
    case writeRegions
    case deviceFeature
    case readMigrationData
    case writeMigrationData
    /// A number that no request has, 14 (the withdrawn `VFIO_USER_DIRTY_PAGES`) among them.
    case other(UInt16)
}

extension Command: RawRepresentable {
    public init(rawValue: UInt16) {
        self =
            switch rawValue {
            case 1: .version
            case 2: .mapDMA
            case 3: .unmapDMA
            case 4: .getDeviceInfo
            case 5: .getRegionInfo
            case 6: .getRegionIODescriptors
            case 7: .getInterruptInfo
            case 8: .setInterrupts
            case 9: .readRegion
            case 10: .writeRegion
            case 11: .readClientMemory
            case 12: .writeClientMemory
            case 13: .resetDevice
            case 15: .writeRegions
            case 16: .deviceFeature
            case 17: .readMigrationData
            case 18: .writeMigrationData
            default: .other(rawValue)
            }
    }

    public var rawValue: UInt16 {
        switch self {
        case .version: 1
        case .mapDMA: 2
        case .unmapDMA: 3
        case .getDeviceInfo: 4
        case .getRegionInfo: 5
        case .getRegionIODescriptors: 6
        case .getInterruptInfo: 7
        case .setInterrupts: 8
        case .readRegion: 9
        case .writeRegion: 10
        case .readClientMemory: 11
        case .writeClientMemory: 12
        case .resetDevice: 13
        case .writeRegions: 15
        case .deviceFeature: 16
        case .readMigrationData: 17
        case .writeMigrationData: 18
        case .other(let number): number
        }
    }
}
