import DeviceModel

/// The current values of the features that a host can set; a new value is the set of defaults.
struct Features {
    private let queuePairs: Int
    private var allocated: QueueCounts
    /// In kelvin; what the composite temperature is compared with. The defaults never warn.
    private var overTemperature = ControllerIdentity.warningTemperatureKelvin
    private var underTemperature: UInt16 = 0
    /// How long the host lets a command be retried. Kept for the host to read: nothing is retried here.
    private var errorRecoveryTime: UInt16 = 0
    /// Whether a completed write may be in a volatile cache. `WCE`
    private(set) var isWriteCacheEnabled = true
    /// Whether the host does without writes of several blocks being atomic, of which none are. `DN`
    private var disablesNormalAtomicity = false
    private var eventConfiguration: UInt32 = 0

    init(queuePairs: Int) {
        self.queuePairs = queuePairs
        allocated = QueueCounts(submissionQueues: queuePairs, completionQueues: queuePairs)
    }

    /// The critical warnings, which every host may ask for; only that of the temperature can come.
    private static let criticalWarnings: UInt32 = 0xff
    private static let temperatureWarning: UInt32 = 1 << 1

    /// Whether the temperature is beyond a threshold.
    var hasTemperatureWarning: Bool {
        let temperature = ControllerIdentity.temperatureKelvin
        return temperature >= overTemperature || temperature <= underTemperature
    }

    var wantsTemperatureEvents: Bool { eventConfiguration & Features.temperatureWarning != 0 }

    /// Dword 0 of a completed Get Features; `selector` is the command's dword 11.
    func value(of feature: FeatureID, _ selector: UInt32) throws(Status) -> UInt32 {
        switch feature {
        // One command at a time from each queue, no power state but the first, an interrupt for each completion.
        case .arbitration, .powerManagement, .interruptCoalescing: return 0
        case .temperatureThreshold:
            guard let selected = TemperatureSelector(parsing: selector), !selected.isForAll else { throw .invalidField }
            switch selected.threshold {
            case .over: return UInt32(overTemperature)
            case .under: return UInt32(underTemperature)
            }
        case .errorRecovery: return UInt32(errorRecoveryTime)
        case .volatileWriteCache: return isWriteCacheEnabled ? 1 : 0
        case .numberOfQueues: return allocated.value
        case .interruptVectorConfiguration:
            let vector = selector & 0xffff
            guard vector <= UInt32(queuePairs) else { throw .invalidField }
            let coalescingDisabled: UInt32 = 1 << 16
            return vector | coalescingDisabled
        case .writeAtomicity: return disablesNormalAtomicity ? 1 : 0
        case .asynchronousEventConfiguration: return eventConfiguration
        }
    }

    /// Sets a feature to the command's dword 11.
    ///
    /// - Parameter hasQueues: whether I/O queues exist, after which their number is settled.
    /// - Returns: dword 0 of the completion.
    mutating func set(_ feature: FeatureID, to value: UInt32, hasQueues: Bool) throws(Status) -> UInt32 {
        guard feature.isChangeable else { throw .featureNotChangeable }
        switch feature {
        case .powerManagement:
            let state = value & 0b11111
            guard state == 0 else { throw .invalidField }
        case .temperatureThreshold:
            guard let selected = TemperatureSelector(parsing: value) else { throw .invalidField }
            switch selected.threshold {
            case .over: overTemperature = selected.kelvin
            case .under: underTemperature = selected.kelvin
            }
        case .errorRecovery:
            // An error for reading what was deallocated (DULBE) is not on offer: it reads as zeroes.
            guard value >> 16 & 1 == 0 else { throw .invalidField }
            errorRecoveryTime = UInt16(value & 0xffff)
        case .volatileWriteCache: isWriteCacheEnabled = value & 1 != 0
        case .numberOfQueues:
            guard let wanted = QueueCounts(parsing: value) else { throw .invalidField }
            guard !hasQueues else { throw .commandSequenceError }
            allocated = QueueCounts(
                submissionQueues: min(wanted.submissionQueues, queuePairs),
                completionQueues: min(wanted.completionQueues, queuePairs))
            return allocated.value
        case .writeAtomicity: disablesNormalAtomicity = value & 1 != 0
        case .asynchronousEventConfiguration: eventConfiguration = value & Features.criticalWarnings
        case .arbitration, .interruptCoalescing, .interruptVectorConfiguration: throw .featureNotChangeable
        }
        return 0
    }

    /// How many queues of each kind the host may create.
    var queueCounts: QueueCounts { allocated }
}

extension Features {
    func save(into writer: inout StateWriter) {
        writer.append(count: allocated.submissionQueues)
        writer.append(count: allocated.completionQueues)
        writer.append(overTemperature)
        writer.append(underTemperature)
        writer.append(errorRecoveryTime)
        writer.append(isWriteCacheEnabled)
        writer.append(disablesNormalAtomicity)
        writer.append(eventConfiguration)
    }

    init(queuePairs: Int, from reader: inout StateReader) throws(StateError) {
        self.init(queuePairs: queuePairs)
        allocated = QueueCounts(
            submissionQueues: try reader.count(atMost: queuePairs, "number of queues"),
            completionQueues: try reader.count(atMost: queuePairs, "number of queues"))
        try reader.require(allocated.submissionQueues > 0 && allocated.completionQueues > 0, "number of queues")
        overTemperature = try reader.integer()
        underTemperature = try reader.integer()
        errorRecoveryTime = try reader.integer()
        isWriteCacheEnabled = try reader.flag("write cache")
        disablesNormalAtomicity = try reader.flag("write atomicity")
        eventConfiguration = try reader.integer()
        try reader.require(eventConfiguration & ~Features.criticalWarnings == 0, "event configuration")
    }
}
