/// A feature that a host can get, and some of which it can set. Base specification 2.0, section 5.27
enum FeatureID: UInt8, CaseIterable {
    case arbitration = 0x01
    case powerManagement = 0x02
    case temperatureThreshold = 0x04
    case errorRecovery = 0x05
    case volatileWriteCache = 0x06
    case numberOfQueues = 0x07
    case interruptCoalescing = 0x08
    case interruptVectorConfiguration = 0x09
    case writeAtomicity = 0x0A
    case asynchronousEventConfiguration = 0x0B

    /// Whether the feature belongs to a namespace and not to the controller.
    var isNamespaceSpecific: Bool { self == .errorRecovery }

    /// Whether it has more than one value. The controller serves one command at a time from every queue and interrupts
    /// for each, so there is nothing to set in the bursts and delays of these three.
    var isChangeable: Bool {
        switch self {
        case .arbitration, .interruptCoalescing, .interruptVectorConfiguration: false
        case .powerManagement, .temperatureThreshold, .errorRecovery, .volatileWriteCache, .numberOfQueues,
            .writeAtomicity, .asynchronousEventConfiguration:
            true
        }
    }

    /// What Get Features tells of a feature's capabilities. Nothing is saved. Base specification 2.0, section 5.15
    var capabilities: UInt32 {
        (isNamespaceSpecific ? 1 << 1 : 0) | (isChangeable ? 1 << 2 : 0)
    }
}

/// How many I/O queues of each kind a host asks for, or gets. `NSQR`, `NCQR`, `NSQA`, `NCQA`
struct QueueCounts {
    let submissionQueues, completionQueues: Int

    /// `nil` for counts that the standard forbids.
    init?(parsing value: UInt32) {
        let (submission, completion) = (value & 0xffff, value >> 16)
        guard submission != 0xffff, completion != 0xffff else { return nil }
        submissionQueues = Int(submission) + 1
        completionQueues = Int(completion) + 1
    }

    init(submissionQueues: Int, completionQueues: Int) {
        self.submissionQueues = submissionQueues
        self.completionQueues = completionQueues
    }

    var value: UInt32 { UInt32(submissionQueues - 1) | UInt32(completionQueues - 1) << 16 }
}

/// Which threshold of which sensor a temperature feature command means. Base specification 2.0,
/// section 5.27, Temperature Threshold
struct TemperatureSelector {
    enum Threshold: UInt8 {
        case over = 0
        case under = 1
    }

    let kelvin: UInt16
    let threshold: Threshold
    /// Every sensor, as opposed to the composite temperature.
    let isForAll: Bool

    /// `nil` for a sensor that the controller lacks or a reserved value.
    init?(parsing value: UInt32) {
        let sensor = value >> 16 & 0b1111
        guard sensor == 0 || sensor == 0xf, let threshold = Threshold(rawValue: UInt8(value >> 20 & 0b11)) else {
            return nil
        }
        kelvin = UInt16(value & 0xffff)
        self.threshold = threshold
        isForAll = sensor == 0xf
    }
}
