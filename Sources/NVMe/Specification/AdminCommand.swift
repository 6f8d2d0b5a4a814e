import DMA

/// A command for the admin submission queue. Base specification 2.0, section 5
enum AdminCommand {
    case deleteSubmissionQueue(QueueID)
    case createSubmissionQueue(CreateSubmissionQueue)
    case getLogPage(GetLogPage)
    case deleteCompletionQueue(QueueID)
    case createCompletionQueue(CreateCompletionQueue)
    case identify(Identify)
    case abort(queue: QueueID, command: CommandID)
    case setFeatures(SetFeatures)
    case getFeatures(GetFeatures)
    case asynchronousEventRequest

    enum Opcode: UInt8, CaseIterable {
        case deleteSubmissionQueue = 0x00
        case createSubmissionQueue = 0x01
        case getLogPage = 0x02
        case deleteCompletionQueue = 0x04
        case createCompletionQueue = 0x05
        case identify = 0x06
        case abort = 0x08
        case setFeatures = 0x09
        case getFeatures = 0x0A
        case asynchronousEventRequest = 0x0C
    }

    /// `nil` for an opcode that the controller does not support.
    init?(parsing entry: SubmissionEntry) {
        guard let opcode = Opcode(rawValue: entry.opcode) else { return nil }
        let queue = QueueID(rawValue: UInt16(entry.dword(10) & 0xffff))
        switch opcode {
        case .deleteSubmissionQueue: self = .deleteSubmissionQueue(queue)
        case .createSubmissionQueue: self = .createSubmissionQueue(CreateSubmissionQueue(parsing: entry))
        case .getLogPage: self = .getLogPage(GetLogPage(parsing: entry))
        case .deleteCompletionQueue: self = .deleteCompletionQueue(queue)
        case .createCompletionQueue: self = .createCompletionQueue(CreateCompletionQueue(parsing: entry))
        case .identify: self = .identify(Identify(parsing: entry))
        case .abort: self = .abort(queue: queue, command: CommandID(rawValue: UInt16(entry.dword(10) >> 16)))
        case .setFeatures: self = .setFeatures(SetFeatures(parsing: entry))
        case .getFeatures: self = .getFeatures(GetFeatures(parsing: entry))
        case .asynchronousEventRequest: self = .asynchronousEventRequest
        }
    }
}

/// Create I/O Submission Queue, base specification 2.0, section 5.5.
struct CreateSubmissionQueue {
    let queue: QueueID
    let entryCount: Int
    let isContiguous: Bool
    let completionQueue: QueueID
    let base: IOVA

    init(parsing entry: SubmissionEntry) {
        queue = QueueID(rawValue: UInt16(entry.dword(10) & 0xffff))
        entryCount = Int(entry.dword(10) >> 16) + 1
        isContiguous = entry.dword(11) & 1 != 0
        completionQueue = QueueID(rawValue: UInt16(entry.dword(11) >> 16))
        base = entry.dataPointer.prp1
    }
}

/// Create I/O Completion Queue, base specification 2.0, section 5.4.
struct CreateCompletionQueue {
    let queue: QueueID
    let entryCount: Int
    let isContiguous: Bool
    let isInterruptEnabled: Bool
    let vector: Int
    let base: IOVA

    init(parsing entry: SubmissionEntry) {
        queue = QueueID(rawValue: UInt16(entry.dword(10) & 0xffff))
        entryCount = Int(entry.dword(10) >> 16) + 1
        isContiguous = entry.dword(11) & 1 != 0
        isInterruptEnabled = entry.dword(11) & 2 != 0
        vector = Int(entry.dword(11) >> 16)
        base = entry.dataPointer.prp1
    }
}

/// Get Log Page, base specification 2.0, section 5.16.
struct GetLogPage {
    let page: UInt8
    let namespace: NamespaceID
    /// Whether events that the page tells of stay masked. `RAE`
    let retainsEvent: Bool
    let byteCount: UInt64
    let offset: UInt64
    /// Whether `offset` counts entries of the page instead of bytes.
    let usesIndexOffset: Bool
    let dataPointer: DataPointer

    init(parsing entry: SubmissionEntry) {
        page = UInt8(entry.dword(10) & 0xff)
        namespace = entry.namespaceID
        retainsEvent = entry.dword(10) >> 15 & 1 != 0
        byteCount = (UInt64(entry.dword(11) & 0xffff) << 16 | UInt64(entry.dword(10) >> 16)) * 4 + 4
        offset = UInt64(entry.dword(13)) << 32 | UInt64(entry.dword(12))
        usesIndexOffset = entry.dword(14) >> 23 & 1 != 0
        dataPointer = entry.dataPointer
    }
}

/// Identify, base specification 2.0, section 5.17.
struct Identify {
    static let byteCount = 4096

    /// `CNS`
    let structure: UInt8
    let namespace: NamespaceID
    /// `CSI`
    let commandSet: UInt8
    let dataPointer: DataPointer

    init(parsing entry: SubmissionEntry) {
        structure = UInt8(entry.dword(10) & 0xff)
        namespace = entry.namespaceID
        commandSet = UInt8(entry.dword(11) >> 24)
        dataPointer = entry.dataPointer
    }
}

/// Set Features, base specification 2.0, section 5.27.
struct SetFeatures {
    let feature: UInt8
    let namespace: NamespaceID
    /// Whether the value is to survive resets. `SV`
    let isSaved: Bool
    /// Dword 11.
    let value: UInt32

    init(parsing entry: SubmissionEntry) {
        feature = UInt8(entry.dword(10) & 0xff)
        namespace = entry.namespaceID
        isSaved = entry.dword(10) >> 31 != 0
        value = entry.dword(11)
    }
}

/// Get Features, base specification 2.0, section 5.15.
struct GetFeatures {
    enum Selection: UInt8 {
        case current = 0
        case initial = 1
        case saved = 2
        case capabilities = 3
    }

    let feature: UInt8
    let namespace: NamespaceID
    /// `nil` for a reserved value.
    let selection: Selection?
    /// Dword 11, by which some features choose among several values.
    let selector: UInt32

    init(parsing entry: SubmissionEntry) {
        feature = UInt8(entry.dword(10) & 0xff)
        namespace = entry.namespaceID
        selection = Selection(rawValue: UInt8(entry.dword(10) >> 8 & 0b111))
        selector = entry.dword(11)
    }
}
