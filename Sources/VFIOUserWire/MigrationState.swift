/// Whether a device runs, stands still, or is being copied. `enum vfio_device_mig_state`
public enum MigrationState: UInt32, CaseIterable, Hashable, Sendable {
    /// A transition failed half-way, and only a reset helps. `VFIO_DEVICE_STATE_ERROR`
    case error = 0
    /// `VFIO_DEVICE_STATE_STOP`
    case stop = 1
    /// `VFIO_DEVICE_STATE_RUNNING`
    case running = 2
    /// Stopped, with its state to be read. `VFIO_DEVICE_STATE_STOP_COPY`
    case stopCopy = 3
    /// Stopped, with a state to be written. `VFIO_DEVICE_STATE_RESUMING`
    case resuming = 4
    /// Running without reaching other devices. `VFIO_DEVICE_STATE_RUNNING_P2P`
    case runningPeerToPeer = 5
    /// Running, with what can be copied in advance to be read. `VFIO_DEVICE_STATE_PRE_COPY`
    case preCopy = 6
    /// `VFIO_DEVICE_STATE_PRE_COPY_P2P`
    case preCopyPeerToPeer = 7
}

/// The ways to migrate that a device offers: the data of the migration feature.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | flags: bit 0 stop and copy, bit 1 peer-to-peer states, bit 2 copying in advance |
///
/// `VFIO_DEVICE_FEATURE_MIGRATION`
public struct MigrationAbilities: OptionSet, Hashable, Sendable {
    public let rawValue: UInt64

    public init(rawValue: UInt64) {
        self.rawValue = rawValue
    }

    /// Every device that can migrate at all has it. `VFIO_MIGRATION_STOP_COPY`
    public static let stopCopy = MigrationAbilities(rawValue: 1 << 0)
    /// `VFIO_MIGRATION_P2P`
    public static let peerToPeer = MigrationAbilities(rawValue: 1 << 1)
    /// `VFIO_MIGRATION_PRE_COPY`
    public static let preCopy = MigrationAbilities(rawValue: 1 << 2)

    public static let byteCount = 8

    /// Reads the feature's data. Bits of later editions are kept.
    public init(parsing data: Span<UInt8>) throws(WireError) {
        try data.requireCount(atLeast: MigrationAbilities.byteCount)
        rawValue = data.integer(at: 0)
        if !contains(.stopCopy) { throw .unknownValue(rawValue) }
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(rawValue)
    }
}

/// The state that a device is in or is to go to: the data of the device state feature.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | state |
/// | 4 | 4 | descriptor for the device's data, which only the kernel's interface has; here messages carry them |
///
/// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE`
public struct MigrationDeviceState: Hashable, Sendable {
    public static let byteCount = 8

    public var state: MigrationState
    /// Without a meaning; a reply repeats it.
    public var descriptor: UInt32

    public init(_ state: MigrationState, descriptor: UInt32 = 0) {
        self.state = state
        self.descriptor = descriptor
    }

    public init(parsing data: Span<UInt8>) throws(WireError) {
        try data.requireCount(atLeast: MigrationDeviceState.byteCount)
        let number: UInt32 = data.integer(at: 0)
        guard let state = MigrationState(rawValue: number) else { throw .unknownValue(UInt64(number)) }
        self.state = state
        descriptor = data.integer(at: 4)
    }

    public func write(to writer: inout MessageWriter) {
        writer.append(state.rawValue)
        writer.append(descriptor)
    }
}
