import LinuxHost

/// What the controller remembers of its life, across resets but not longer than its process.
struct History {
    private var health = HealthInformation()
    /// Newest first, at most `ControllerIdentity.errorLogEntryCount`.
    private var errors: [ErrorInformation] = []
    private let start = MonotonicInstant.now

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
        health.powerOnHours = UInt64(start.elapsedNanoseconds / (3600 * 1_000_000_000))
        return health.bytes
    }

    /// The error information log page: entries that were never used are zero.
    var errorBytes: [UInt8] {
        let unused = ControllerIdentity.errorLogEntryCount - errors.count
        return errors.flatMap(\.bytes) + [UInt8](repeating: 0, count: unused * ErrorInformation.byteCount)
    }
}

extension MonotonicInstant {
    fileprivate var elapsedNanoseconds: Int64 { MonotonicInstant.now.nanoseconds - nanoseconds }
}
