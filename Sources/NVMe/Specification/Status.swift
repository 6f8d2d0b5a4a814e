/// How a command ended: the status code type in the high byte, the status code in the low one.
///
/// Base specification 2.0, section 3.3.3, Status Field Definition; NVM command set specification 1.0, Status Values
enum Status: UInt16, Error {
    case success = 0x000
    case invalidOpcode = 0x001
    case invalidField = 0x002
    case dataTransferError = 0x004
    case internalError = 0x006
    case abortRequested = 0x007
    case invalidNamespaceOrFormat = 0x00B
    case commandSequenceError = 0x00C
    case invalidPRPOffset = 0x013
    case namespaceWriteProtected = 0x020
    case blockOutOfRange = 0x080
    case capacityExceeded = 0x081

    case completionQueueInvalid = 0x100
    case invalidQueueIdentifier = 0x101
    case invalidQueueSize = 0x102
    case asynchronousEventRequestLimitExceeded = 0x105
    case invalidInterruptVector = 0x108
    case invalidLogPage = 0x109
    case invalidQueueDeletion = 0x10C
    case featureNotSaveable = 0x10D
    case featureNotChangeable = 0x10E
    case featureNotNamespaceSpecific = 0x10F

    case writeFault = 0x280
    case unrecoveredReadError = 0x281
    case compareFailure = 0x285

    /// Whether the same command would fail again, so that the host need not try. `DNR`
    var isFinal: Bool {
        switch self {
        case .success, .dataTransferError, .internalError, .abortRequested, .capacityExceeded,
            .asynchronousEventRequestLimitExceeded, .writeFault, .unrecoveredReadError:
            false
        case .invalidOpcode, .invalidField, .invalidNamespaceOrFormat, .commandSequenceError, .invalidPRPOffset,
            .namespaceWriteProtected, .blockOutOfRange, .completionQueueInvalid, .invalidQueueIdentifier,
            .invalidQueueSize, .invalidInterruptVector, .invalidLogPage, .invalidQueueDeletion, .featureNotSaveable,
            .featureNotChangeable, .featureNotNamespaceSpecific, .compareFailure:
            true
        }
    }

    /// Whether the storage failed, rather than the host.
    var isMediaError: Bool { self == .writeFault || self == .unrecoveredReadError }

    /// Whether the command gets an entry in the error information log: what failed is not evident from the command.
    var isLogged: Bool { isMediaError || self == .dataTransferError || self == .internalError }

    /// The 15-bit status field. `SF`
    var field: UInt16 { rawValue | (isLogged ? 1 << 13 : 0) | (isFinal ? 1 << 14 : 0) }
}
