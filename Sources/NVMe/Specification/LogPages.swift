/// A log page that the controller has. Base specification 2.0, section 5.16
enum LogPage: UInt8, CaseIterable {
    case supportedLogPages = 0x00
    case errorInformation = 0x01
    case health = 0x02
    case firmwareSlot = 0x03
    case commandEffects = 0x05
    case featureEffects = 0x12
    case managementCommandEffects = 0x13
}

/// One entry of the error information log. Base specification 2.0, section 5.16, Error Information
struct ErrorInformation {
    static let byteCount = 64

    let number: UInt64
    let submissionQueue: QueueID
    /// `nil` for an error that belongs to no command.
    let commandID: CommandID?
    let status: Status
    let block: UInt64
    let namespace: NamespaceID

    var bytes: [UInt8] {
        var structure = StructureBytes(byteCount: ErrorInformation.byteCount)
        let notSpecific: UInt16 = .max
        structure.set(number, at: 0)
        structure.set(submissionQueue.rawValue, at: 8)
        structure.set(commandID?.rawValue ?? notSpecific, at: 10)
        structure.set(status.field << 1, at: 12)
        structure.set(notSpecific, at: 14)
        structure.set(block, at: 16)
        structure.set(namespace.rawValue, at: 24)
        return structure.bytes
    }
}

/// What a controller counts of its life. Base specification 2.0, section 5.16, SMART / Health Information
struct HealthInformation {
    static let byteCount = 512

    var hasTemperatureWarning = false
    var temperatureKelvin: UInt16 = 0
    /// In units of 512 bytes.
    var unitsRead: UInt64 = 0
    var unitsWritten: UInt64 = 0
    var readCommands: UInt64 = 0
    var writeCommands: UInt64 = 0
    var powerOnHours: UInt64 = 0
    var mediaErrors: UInt64 = 0
    var errorLogEntries: UInt64 = 0

    var bytes: [UInt8] {
        var structure = StructureBytes(byteCount: HealthInformation.byteCount)
        structure.set(UInt8(hasTemperatureWarning ? 1 << 1 : 0), at: 0)
        structure.set(temperatureKelvin, at: 1)
        let (spare, spareThreshold): (UInt8, UInt8) = (100, 10)
        structure.set(spare, at: 3)
        structure.set(spareThreshold, at: 4)
        structure.set(HealthInformation.thousands(unitsRead), at: 32)
        structure.set(HealthInformation.thousands(unitsWritten), at: 48)
        structure.set(readCommands, at: 64)
        structure.set(writeCommands, at: 80)
        let powerCycles: UInt64 = 1
        structure.set(powerCycles, at: 112)
        structure.set(powerOnHours, at: 128)
        structure.set(mediaErrors, at: 160)
        structure.set(errorLogEntries, at: 176)
        return structure.bytes
    }

    /// Data units are told in thousands, rounded up.
    private static func thousands(_ units: UInt64) -> UInt64 { units / 1000 + (units % 1000 == 0 ? 0 : 1) }
}

/// Log pages whose contents never change.
enum ConstantLogPages {
    /// Supported Log Pages
    static let supportedLogPages: [UInt8] = {
        var structure = StructureBytes(byteCount: 1024)
        let isSupported: UInt32 = 1
        for page in LogPage.allCases { structure.set(isSupported, at: Int(page.rawValue) * 4) }
        return structure.bytes
    }()

    /// Firmware Slot Information
    static func firmwareSlot(_ firmware: PaddedText) -> [UInt8] {
        var structure = StructureBytes(byteCount: 512)
        let firstSlotIsActive: UInt8 = 1
        structure.set(firstSlotIsActive, at: 0)
        structure.set(firmware, at: 8)
        return structure.bytes
    }

    /// Commands Supported and Effects
    static let commandEffects: [UInt8] = {
        var structure = StructureBytes(byteCount: 4096)
        let isSupported: UInt32 = 1 << 0
        let changesContents: UInt32 = 1 << 1
        for opcode in AdminCommand.Opcode.allCases { structure.set(isSupported, at: Int(opcode.rawValue) * 4) }
        for opcode in NVMCommand.Opcode.allCases {
            let effects = opcode.changesBlocks ? isSupported | changesContents : isSupported
            structure.set(effects, at: 1024 + Int(opcode.rawValue) * 4)
        }
        return structure.bytes
    }()

    /// Feature Identifiers Supported and Effects
    static let featureEffects: [UInt8] = {
        var structure = StructureBytes(byteCount: 1024)
        let isSupported: UInt32 = 1 << 0
        let (namespaceScope, controllerScope): (UInt32, UInt32) = (1 << 20, 1 << 21)
        for feature in FeatureID.allCases {
            let scope = feature.isNamespaceSpecific ? namespaceScope : controllerScope
            structure.set(isSupported | scope, at: Int(feature.rawValue) * 4)
        }
        return structure.bytes
    }()

    /// NVMe-MI Commands Supported and Effects: none.
    static let managementCommandEffects = [UInt8](repeating: 0, count: 1024)
}

/// Something the host asked to be told of. Base specification 2.0, section 5.2
enum AsynchronousEvent: UInt8, CaseIterable {
    case invalidDoorbellRegister
    case invalidDoorbellValue
    case temperatureThreshold

    /// Events of one type are masked together until the host has read their log page.
    var type: UInt8 { self == .temperatureThreshold ? 1 : 0 }

    var logPage: LogPage { self == .temperatureThreshold ? .health : .errorInformation }

    /// Dword 0 of the completed Asynchronous Event Request.
    var result: UInt32 {
        let information: UInt32 =
            switch self {
            case .invalidDoorbellRegister: 0
            case .invalidDoorbellValue, .temperatureThreshold: 1
            }
        return UInt32(type) | information << 8 | UInt32(logPage.rawValue) << 16
    }
}
