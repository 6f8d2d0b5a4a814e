import DMA
import PCI

/// The controller's registers in BAR 0. Base specification 2.0, section 3.1.3
///
/// Optional ones that this controller lacks (boot partitions, memory buffer, subsystem reset, persistent memory region)
/// read as zero, as reserved ones do.
enum NVMeRegister: Hashable, Sendable {
    case capabilities, version, interruptMaskSet, interruptMaskClear, configuration, status
    case adminQueueAttributes, adminSubmissionQueueBase, adminCompletionQueueBase, readyTimeouts

    static func map(_ capabilities: ControllerCapabilities) -> RegisterMap<NVMeRegister> {
        RegisterMap([
            .init(
                .capabilities, "Controller Capabilities (CAP)", at: 0x00, byteCount: 8, reset: capabilities.rawValue,
                fields: [
                    .init("Maximum Queue Entries Supported (MQES)", 0...15, .readOnly),
                    .init("Contiguous Queues Required (CQR)", 16, .readOnly),
                    .init("Arbitration Mechanism Supported (AMS)", 17...18, .readOnly),
                    .init("Timeout (TO)", 24...31, .readOnly), .init("Doorbell Stride (DSTRD)", 32...35, .readOnly),
                    .init("NVM Subsystem Reset Supported (NSSRS)", 36, .readOnly),
                    .init("Command Sets Supported (CSS)", 37...44, .readOnly),
                    .init("Boot Partition Support (BPS)", 45, .readOnly),
                    .init("Controller Power Scope (CPS)", 46...47, .readOnly),
                    .init("Memory Page Size Minimum (MPSMIN)", 48...51, .readOnly),
                    .init("Memory Page Size Maximum (MPSMAX)", 52...55, .readOnly),
                    .init("Persistent Memory Region Supported (PMRS)", 56, .readOnly),
                    .init("Controller Memory Buffer Supported (CMBS)", 57, .readOnly),
                    .init("NVM Subsystem Shutdown Supported (NSSS)", 58, .readOnly),
                    .init("Controller Ready Modes Supported (CRMS)", 59...60, .readOnly),
                ]),
            .init(
                .version, "Version (VS)", at: 0x08, byteCount: 4, reset: UInt64(ControllerVersion.rawValue), .readOnly),
            .init(
                .interruptMaskSet, "Interrupt Mask Set (INTMS)", at: 0x0c, byteCount: 4, .readWrite,
                hooks: [.read, .write]),
            .init(
                .interruptMaskClear, "Interrupt Mask Clear (INTMC)", at: 0x10, byteCount: 4, .readWrite,
                hooks: [.read, .write]),
            .init(
                .configuration, "Controller Configuration (CC)", at: 0x14, byteCount: 4,
                fields: [
                    .init("Enable (EN)", 0, .readWrite), .init("I/O Command Set Selected (CSS)", 4...6, .readWrite),
                    .init("Memory Page Size (MPS)", 7...10, .readWrite),
                    .init("Arbitration Mechanism Selected (AMS)", 11...13, .readWrite),
                    .init("Shutdown Notification (SHN)", 14...15, .readWrite),
                    .init("I/O Submission Queue Entry Size (IOSQES)", 16...19, .readWrite),
                    .init("I/O Completion Queue Entry Size (IOCQES)", 20...23, .readWrite),
                    .init("Controller Ready Independent of Media Enable (CRIME)", 24, .readOnly),
                ], hooks: .write),
            .init(
                .status, "Controller Status (CSTS)", at: 0x1c, byteCount: 4,
                fields: [
                    .init("Ready (RDY)", 0, .readOnly), .init("Controller Fatal Status (CFS)", 1, .readOnly),
                    .init("Shutdown Status (SHST)", 2...3, .readOnly),
                    .init("NVM Subsystem Reset Occurred (NSSRO)", 4, .readOnly),
                    .init("Processing Paused (PP)", 5, .readOnly), .init("Shutdown Type (ST)", 6, .readOnly),
                ], hooks: .read),
            .init(
                .adminQueueAttributes, "Admin Queue Attributes (AQA)", at: 0x24, byteCount: 4,
                fields: [
                    .init("Admin Submission Queue Size (ASQS)", 0...11, .readWrite),
                    .init("Admin Completion Queue Size (ACQS)", 16...27, .readWrite),
                ]),
            .init(
                .adminSubmissionQueueBase, "Admin Submission Queue Base Address (ASQ)", at: 0x28, byteCount: 8,
                fields: [.init("ASQB", 12...63, .readWrite)]),
            .init(
                .adminCompletionQueueBase, "Admin Completion Queue Base Address (ACQ)", at: 0x30, byteCount: 8,
                fields: [.init("ACQB", 12...63, .readWrite)]),
            .init(
                .readyTimeouts, "Controller Ready Timeouts (CRTO)", at: 0x68, byteCount: 4,
                reset: UInt64(ControllerCapabilities.readyTimeout),
                fields: [
                    .init("Controller Ready With Media Timeout (CRWMT)", 0...15, .readOnly),
                    .init("Controller Ready Independent of Media Timeout (CRIMT)", 16...31, .readOnly),
                ]),
        ])
    }
}

/// The version of the base specification that the controller follows: 2.0.0. `VS`
enum ControllerVersion {
    static let rawValue: UInt32 = 2 << 16
}

/// What the controller can do, as its first register says. `CAP`
struct ControllerCapabilities {
    let maximumQueueEntries: Int

    /// How long until the controller is ready, at most, in units of 500 ms; it has to wait for commands that it had
    /// begun before a reset. `CAP.TO`, `CRTO.CRWMT`
    static let readyTimeout: UInt32 = 20
    /// The largest memory page, as the power of two times 4 KiB. `CAP.MPSMAX`
    static let maximumPageShift = 4

    var rawValue: UInt64 {
        let contiguousQueuesRequired: UInt64 = 1 << 16
        let nvmCommandSet: UInt64 = 1 << 37
        let readyWithMedia: UInt64 = 1 << 59
        return UInt64(maximumQueueEntries - 1) | contiguousQueuesRequired
            | UInt64(ControllerCapabilities.readyTimeout) << 24 | nvmCommandSet
            | UInt64(ControllerCapabilities.maximumPageShift) << 52 | readyWithMedia
    }
}

/// What the host wants of the controller. `CC`
struct ControllerConfiguration {
    let isEnabled: Bool
    let commandSet: UInt8
    let memoryPageByteCount: UInt64
    let arbitration: UInt8
    /// Whether the host is about to cut the power, normally or abruptly. `SHN`
    let wantsShutdown: Bool
    /// As powers of two. `IOSQES`, `IOCQES`
    let submissionEntryShift, completionEntryShift: UInt8

    init(_ value: UInt64) {
        isEnabled = value & 1 != 0
        commandSet = UInt8(value >> 4 & 0b111)
        memoryPageByteCount = 4096 << (value >> 7 & 0b1111)
        arbitration = UInt8(value >> 11 & 0b111)
        wantsShutdown = value >> 14 & 0b11 != 0
        submissionEntryShift = UInt8(value >> 16 & 0b1111)
        completionEntryShift = UInt8(value >> 20 & 0b1111)
    }

    /// Whether the controller supports what the host chose: the NVM command set, its page sizes, round robin.
    var isSupported: Bool {
        commandSet == 0 && arbitration == 0
            && memoryPageByteCount <= 4096 << UInt64(ControllerCapabilities.maximumPageShift)
    }

    /// Entry sizes of 64 and 16 bytes, which I/O queues need.
    var hasSupportedEntrySizes: Bool { submissionEntryShift == 6 && completionEntryShift == 4 }
}

/// How the controller is. `CSTS`
struct ControllerStatus: OptionSet {
    let rawValue: UInt64

    static let ready = ControllerStatus(rawValue: 1 << 0)
    static let fatal = ControllerStatus(rawValue: 1 << 1)
    static let shutdownUnderWay = ControllerStatus(rawValue: 1 << 2)
    static let shutdownComplete = ControllerStatus(rawValue: 1 << 3)
}

/// The sizes of the admin queues. `AQA`
struct AdminQueueAttributes {
    static let maximumEntryCount = 4096

    let submissionEntryCount, completionEntryCount: Int

    init(_ value: UInt64) {
        submissionEntryCount = Int(value & 0xfff) + 1
        completionEntryCount = Int(value >> 16 & 0xfff) + 1
    }
}

/// Where a queue's doorbell is. PCIe transport specification 1.0, section 3.1.2
enum Doorbell: Equatable {
    case submissionTail(QueueID)
    case completionHead(QueueID)

    static let firstOffset: UInt64 = 0x1000
    static let byteCount = 4

    /// The doorbell at an offset of BAR 0; `nil` below the first and past the last that a queue identifier can name.
    init?(at offset: UInt64) {
        guard offset >= Doorbell.firstOffset, offset % UInt64(Doorbell.byteCount) == 0 else { return nil }
        let number = (offset - Doorbell.firstOffset) / UInt64(Doorbell.byteCount)
        guard let queue = UInt16(exactly: number / 2) else { return nil }
        self =
            number % 2 == 0
            ? .submissionTail(QueueID(rawValue: queue)) : .completionHead(QueueID(rawValue: queue))
    }
}
