/// Identify's data structures that the controller returns, by their CNS value. Base specification 2.0, section 5.17
enum IdentifyStructure: UInt8 {
    case namespace = 0x00
    case controller = 0x01
    case activeNamespaces = 0x02
    case namespaceDescriptors = 0x03
    case commandSetNamespace = 0x05
    case commandSetController = 0x06
    case commandSetActiveNamespaces = 0x07
    case independentNamespace = 0x08
}

/// What the controller is. Base specification 2.0, section 5.17, Identify Controller data structure
struct IdentifyController {
    let vendorID, subsystemVendorID: UInt16
    let serial, model, firmware: PaddedText
    let controllerID: UInt16
    /// The largest transfer, as the power of two times the smallest memory page. `MDTS`
    let maximumTransferShift: UInt8
    let organization: [UInt8]
    let abortLimit, eventRequestLimit, errorLogEntryCount: Int
    /// Zero is not for controllers of version 1.2 or later. `WCTEMP`, `CCTEMP`
    let warningTemperatureKelvin, criticalTemperatureKelvin: UInt16
    let capacityByteCount: UInt64
    let qualifiedName: String

    var bytes: [UInt8] {
        var structure = StructureBytes(byteCount: 4096)
        structure.set(vendorID, at: 0)
        structure.set(subsystemVendorID, at: 2)
        structure.set(serial, at: 4)
        structure.set(model, at: 24)
        structure.set(firmware, at: 64)
        // The field is a little-endian number; the identifier is written most significant byte first.
        structure.set(Array(organization.reversed()), at: 73)
        structure.set(maximumTransferShift, at: 77)
        structure.set(controllerID, at: 78)
        structure.set(ControllerVersion.rawValue, at: 80)
        let ioController: UInt8 = 1
        structure.set(ioController, at: 111)
        structure.set(UInt8(abortLimit - 1), at: 258)
        structure.set(UInt8(eventRequestLimit - 1), at: 259)
        // One firmware slot, which cannot be written.
        structure.set(UInt8(0b11), at: 260)
        structure.set(LogPageAttributes.value, at: 261)
        structure.set(UInt8(errorLogEntryCount - 1), at: 262)
        structure.set(warningTemperatureKelvin, at: 266)
        structure.set(criticalTemperatureKelvin, at: 268)
        structure.set(capacityByteCount, at: 280)
        // Entries of 64 and 16 bytes, no others.
        structure.set(UInt8(0x66), at: 512)
        structure.set(UInt8(0x44), at: 513)
        let namespaceCount: UInt32 = 1
        structure.set(namespaceCount, at: 516)
        structure.set(OptionalCommands.value, at: 520)
        // A volatile write cache, and Flush takes the broadcast namespace.
        structure.set(UInt8(0b111), at: 525)
        structure.set(Array(qualifiedName.utf8), at: 768)
        // Power state 0, the only one, says nothing of its power: the fields of its descriptor may be zero.
        return structure.bytes
    }

    /// `ONCS`
    private enum OptionalCommands {
        static let compare: UInt16 = 1 << 0
        static let datasetManagement: UInt16 = 1 << 2
        static let writeZeroes: UInt16 = 1 << 3
        static let selectInGetFeatures: UInt16 = 1 << 4
        static let verify: UInt16 = 1 << 7
        static let value = compare | datasetManagement | writeZeroes | selectInGetFeatures | verify
    }

    /// `LPA`
    private enum LogPageAttributes {
        static let commandEffects: UInt8 = 1 << 1
        static let offsets: UInt8 = 1 << 2
        static let supportedPages: UInt8 = 1 << 5
        static let value = commandEffects | offsets | supportedPages
    }
}

/// What the namespace is.
struct IdentifyNamespace {
    let blockCount: UInt64
    /// As a power of two.
    let blockShift: UInt8
    let isWriteProtected: Bool
    let deallocatedBlocksReadZeroes: Bool
    /// Blocks in the unit of storage that is best written and deallocated whole.
    let preferredGranularity: UInt16
    let extendedIdentifier, globalIdentifier, uniqueIdentifier: [UInt8]

    /// NVM command set specification 1.0, Identify Namespace data structure
    var bytes: [UInt8] {
        var structure = StructureBytes(byteCount: 4096)
        for offset in [0, 8, 16] { structure.set(blockCount, at: offset) }
        let hasPreferredSizes: UInt8 = 1 << 4
        structure.set(hasPreferredSizes, at: 24)
        let zeroesSupportDeallocation: UInt8 = 1 << 3
        let readsZeroes: UInt8 = 0b001
        structure.set(deallocatedBlocksReadZeroes ? readsZeroes | zeroesSupportDeallocation : 0, at: 33)
        structure.set(blockCount << UInt64(blockShift), at: 48)
        for offset in [64, 66, 68, 70, 72] { structure.set(preferredGranularity - 1, at: offset) }
        structure.set(attributes, at: 99)
        structure.set(globalIdentifier, at: 104)
        structure.set(extendedIdentifier, at: 120)
        structure.set(UInt32(blockShift) << 16, at: 128)
        return structure.bytes
    }

    /// What does not depend on the command set. Base specification 2.0, section 5.17, I/O Command Set Independent
    /// Identify Namespace data structure
    var independentBytes: [UInt8] {
        var structure = StructureBytes(byteCount: 4096)
        structure.set(attributes, at: 8)
        let ready: UInt8 = 1
        structure.set(ready, at: 14)
        return structure.bytes
    }

    /// Base specification 2.0, section 5.17, Namespace Identification Descriptor
    var descriptorBytes: [UInt8] {
        var list: [UInt8] = []
        let nvmCommandSet: [UInt8] = [0]
        for (type, identifier): (UInt8, [UInt8]) in [
            (1, extendedIdentifier), (2, globalIdentifier), (3, uniqueIdentifier), (4, nvmCommandSet),
        ] {
            list += [type, UInt8(identifier.count), 0, 0] + identifier
        }
        var structure = StructureBytes(byteCount: 4096)
        structure.set(list, at: 0)
        return structure.bytes
    }

    /// `NSATTR`
    private var attributes: UInt8 { isWriteProtected ? 1 : 0 }
}
