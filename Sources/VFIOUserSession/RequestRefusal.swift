public import DMA
public import DeviceModel
public import LinuxHost
public import VFIOUserNegotiation
public import VFIOUserWire

/// Why a request got an error reply. Nothing about the device or its memory has changed.
public enum RequestRefusal: Error, Hashable, Sendable {
    /// The message is not what the standard says it is.
    case malformed(WireError)
    /// There is no agreement on version and capabilities.
    case negotiation(NegotiationError)
    /// The address space did not take it.
    case memory(DMAError)
    /// A descriptor that came along is not what it has to be, or could not be used.
    case descriptor(Errno)
    /// The kernel dropped descriptors of the message.
    case lostDescriptors
    /// More descriptors than were agreed on.
    case tooManyDescriptors
    case noSuchRegion(UInt32)
    case outsideRegion
    /// The region cannot be read, or not written.
    case forbiddenAccess
    case noSuchInterrupt(UInt32)
    /// A form of setting interrupts that the kind of interrupt does not have.
    case unsupportedInterruptChange
    case tooManyBytes
    case unsupportedFeature
    /// Anything but a version message at the start, or a second version message.
    case outOfOrder(Command)
    /// A command where only replies to the server's own come.
    case commandOnTwinSocket(Command)
    /// The range would cut a mapping in two.
    case splitsMapping
    /// No way leads from one state of migration to another.
    case noTransition(from: MigrationState, to: MigrationState)
    /// Something that the device does not do in its state of migration.
    case wrongState(MigrationState)
    /// The device could not be brought to rest, and goes on. The only refusals after which something may have changed are
    /// this one and the next: the device is in another state of migration, which the client can ask for.
    case notStopped(StopFailure)
    /// What was written is not a state that the device can take.
    case badState(StateError)
    case loggingIsOn
    case loggingIsOff

    /// The Linux error number for the reply, always positive.
    public var errorNumber: Int32 {
        switch self {
        case .malformed(let error): error.errno
        case .negotiation(let error): error.errno
        case .memory(let error): error.errno
        case .descriptor(let error): error.rawValue
        case .forbiddenAccess: Errno.notPermitted.rawValue
        case .notStopped(let failure): failure.errno.rawValue
        case .lostDescriptors, .tooManyDescriptors, .noSuchRegion, .outsideRegion, .noSuchInterrupt,
            .unsupportedInterruptChange, .tooManyBytes, .unsupportedFeature, .outOfOrder, .splitsMapping,
            .commandOnTwinSocket, .noTransition, .wrongState, .badState, .loggingIsOn, .loggingIsOff:
            Errno.invalidArgument.rawValue
        }
    }
}
