import DeviceModel
import LinuxHost

/// What the controller remembers of its life, across resets but not longer than its process.
struct History {
    private var health = HealthInformation()
    /// Newest first, at most `ControllerIdentity.errorLogEntryCount`.
    private var errors: [ErrorInformation] = []
    private let start = MonotonicInstant.now
    /// How long the controller had been on before, in a process that it has left.
    private var earlierNanoseconds: Int64 = 0

    /// Records an error, which is told of by its status or by an event.
    mutating func log(
        _ queue: QueueID, _ command: CommandID?, _ status: Status, block: UInt64, _ namespace: NamespaceID
    ) {
        health.errorLogEntries += 1
        if status.isMediaError { health.mediaErrors += 1 }
        errors.insert(
            ErrorInformation(
                number: health.errorLogEntries, submissionQueue: queue, commandID: command, status: status,
                block: block, namespace: namespace), at: 0)
        if errors.count > ControllerIdentity.errorLogEntryCount { errors.removeLast() }
    }

    mutating func countRead(byteCount: UInt64) {
        health.readCommands += 1
        health.unitsRead += byteCount / 512
    }

    mutating func countWrite(byteCount: UInt64) {
        health.writeCommands += 1
        health.unitsWritten += byteCount / 512
    }

    /// The health log page now.
    func healthBytes(hasTemperatureWarning: Bool) -> [UInt8] {
        var health = health
        health.hasTemperatureWarning = hasTemperatureWarning
        health.temperatureKelvin = ControllerIdentity.temperatureKelvin
        health.powerOnHours = UInt64(nanosecondsOn / (3600 * 1_000_000_000))
        return health.bytes
    }

    /// Neither part exceeds a quarter of what the sum can hold.
    private var nanosecondsOn: Int64 { earlierNanoseconds + start.elapsedNanoseconds }

    /// The error information log page: entries that were never used are zero.
    var errorBytes: [UInt8] {
        let unused = ControllerIdentity.errorLogEntryCount - errors.count
        return errors.flatMap(\.bytes) + [UInt8](repeating: 0, count: unused * ErrorInformation.byteCount)
    }
}

extension MonotonicInstant {
    fileprivate var elapsedNanoseconds: Int64 { MonotonicInstant.now.nanoseconds - nanoseconds }
}

extension History {
    /// Counters have room to count on for ever.
    private static let limit: UInt64 = 1 << 61

    func save(into writer: inout StateWriter) {
        for counter in counters { writer.append(health[keyPath: counter]) }
        writer.append(UInt64(nanosecondsOn))
        writer.append(count: errors.count)
        for error in errors {
            writer.append(error.number)
            writer.append(error.submissionQueue.rawValue)
            writer.append(error.commandID != nil)
            writer.append(error.commandID?.rawValue ?? 0)
            writer.append(error.status.rawValue)
            writer.append(error.block)
            writer.append(error.namespace.rawValue)
        }
    }

    init(from reader: inout StateReader) throws(StateError) {
        for counter in counters {
            health[keyPath: counter] = try reader.integer()
            try reader.require(health[keyPath: counter] < Self.limit, "health counter")
        }
        let nanoseconds = try reader.integer(UInt64.self)
        try reader.require(nanoseconds < Self.limit, "time of power")
        earlierNanoseconds = Int64(nanoseconds)
        for _ in 0..<(try reader.count(atMost: ControllerIdentity.errorLogEntryCount, "error log")) {
            errors.append(try Self.error(from: &reader))
        }
    }

    private var counters: [WritableKeyPath<HealthInformation, UInt64>] {
        [\.unitsRead, \.unitsWritten, \.readCommands, \.writeCommands, \.mediaErrors, \.errorLogEntries]
    }

    private static func error(from reader: inout StateReader) throws(StateError) -> ErrorInformation {
        let number = try reader.integer(UInt64.self)
        let queue = QueueID(rawValue: try reader.integer())
        let hasCommand = try reader.flag("error log")
        let command = CommandID(rawValue: try reader.integer())
        return ErrorInformation(
            number: number, submissionQueue: queue, commandID: hasCommand ? command : nil,
            status: try Status(from: &reader), block: try reader.integer(),
            namespace: NamespaceID(rawValue: try reader.integer()))
    }
}
