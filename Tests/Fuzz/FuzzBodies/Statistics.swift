import VFIOUserCheck

/// What many sessions did, so that one sees what they reached.
public struct Statistics: Sendable {
    public struct Answers: Sendable {
        public var accepted = 0
        public var refused = 0

        public init() {}
    }

    public var sessions = 0
    public var messages = 0
    public var replies = 0
    /// By command.
    public var answers: [UInt16: Answers] = [:]
    /// Error replies by Linux error number.
    public var errors: [UInt32: Int] = [:]
    /// What the server asked of the client, and how often it was answered as it should be.
    public var memoryReads = 0
    public var memoryWrites = 0
    public var memoryAnswers = 0
    /// What of it came over a second socket.
    public var twinRequests = 0
    /// States that were read to their end and given back.
    public var restoredStates = 0
    public var descriptorsSent = 0
    public var descriptorsReceived = 0
    public var rings = 0
    /// Why requests were refused, in the server's words.
    public var refusals: [String: Int] = [:]
    /// How connections ended, in the server's words.
    public var endings: [String: Int] = [:]

    public init() {}

    /// The commands that a client sends; what else arrives must be refused.
    public static let clientCommands: [(number: UInt16, name: String)] = [
        (Number.version, "VERSION"), (Number.mapDMA, "DMA_MAP"), (Number.unmapDMA, "DMA_UNMAP"),
        (Number.getDeviceInfo, "DEVICE_GET_INFO"), (Number.getRegionInfo, "DEVICE_GET_REGION_INFO"),
        (Number.getRegionIODescriptors, "DEVICE_GET_REGION_IO_FDS"), (Number.getInterruptInfo, "DEVICE_GET_IRQ_INFO"),
        (Number.setInterrupts, "DEVICE_SET_IRQS"), (Number.readRegion, "REGION_READ"),
        (Number.writeRegion, "REGION_WRITE"), (Number.resetDevice, "DEVICE_RESET"),
        (Number.writeRegions, "REGION_WRITE_MULTI"), (Number.deviceFeature, "DEVICE_FEATURE"),
        (Number.readMigrationData, "MIG_DATA_READ"), (Number.writeMigrationData, "MIG_DATA_WRITE"),
    ]

    mutating func count(answerTo command: UInt16, error: UInt32?) {
        replies += 1
        if let error {
            answers[command, default: Answers()].refused += 1
            errors[error, default: 0] += 1
        } else {
            answers[command, default: Answers()].accepted += 1
        }
    }
}
