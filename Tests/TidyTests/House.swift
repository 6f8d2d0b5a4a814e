/// The house as data: which target may use which, and where the dangerous things may stand.
enum House {
    /// What a target may import besides Swift's own modules.
    struct Rule {
        let targets: Set<String>
        /// Modules of the system and of other packages.
        let others: Set<String>
        /// Whether every target named has to be imported by some file; not so for one that may use everything.
        var isExact = true

        init(_ targets: Set<String> = [], others: Set<String> = []) {
            self.targets = targets
            self.others = others
        }

        static let everything: Rule = {
            var rule = Rule(others: ["ArgumentParser", "Glibc", "Logging"])
            rule.isExact = false
            return rule
        }()
    }

    static let graph: [String: Rule] = [
        "CJSONC": Rule(),
        "CLinuxShims": Rule(),
        "LinuxHost": Rule(["CLinuxShims"], others: ["Glibc", "Synchronization"]),
        "JSONText": Rule(["CJSONC"]),
        "PCITopology": Rule(),
        "Configuration": Rule(["JSONText", "PCITopology"]),
        "VFIOUserWire": Rule(),
        "VFIOUserNegotiation": Rule(["JSONText", "VFIOUserWire"]),
        "VFIOUserTransport": Rule(["LinuxHost", "VFIOUserWire"]),
        "DMA": Rule(["LinuxHost"], others: ["Glibc", "Synchronization"]),
        "SVA": Rule(["DMA", "LinuxHost"], others: ["Synchronization"]),
        "DeviceModel": Rule(["DMA", "LinuxHost"]),
        "PCI": Rule(["DMA", "DeviceModel", "LinuxHost"], others: ["Synchronization"]),
        "VFIOUserSession": Rule(["DMA", "DeviceModel", "LinuxHost", "VFIOUserNegotiation", "VFIOUserWire"]),
        "VFIOUserServer": Rule([
            "DMA", "DeviceModel", "LinuxHost", "VFIOUserNegotiation", "VFIOUserSession", "VFIOUserTransport",
            "VFIOUserWire",
        ]),
        "VFIOUserClient": Rule(["LinuxHost", "VFIOUserNegotiation", "VFIOUserTransport", "VFIOUserWire"]),
        "VFIOUserCheck": Rule(["JSONText", "LinuxHost"], others: ["Glibc"]),
        "VFIOUserRecording": Rule(["JSONText", "LinuxHost", "VFIOUserTransport", "VFIOUserWire"]),
        "BlockStorage": Rule(["LinuxHost"]),
        "NVMe": Rule(["BlockStorage", "DMA", "DeviceModel", "LinuxHost", "PCI"], others: ["Synchronization"]),
        "Edu": Rule(["DMA", "DeviceModel", "LinuxHost", "PCI"]),
        "CopyEngine": Rule(["DMA", "LinuxHost", "PCI", "SVA"], others: ["Synchronization"]),
        "VirtioIOMMU": Rule(["DMA", "LinuxHost", "PCI", "Virtio"]),
        "Virtio": Rule(["DMA", "DeviceModel", "LinuxHost", "PCI"], others: ["Synchronization"]),
        "VirtioEntropy": Rule(["LinuxHost", "PCI", "Virtio"]),
        "outboard": .everything,
    ]

    /// The tool; everything else under `Sources` is a library.
    static let programs: Set<String> = ["outboard"]

    /// Modules that no library imports: they cost more at start and in memory than all of ours together.
    static let bannedFromLibraries: Set<String> = ["Foundation", "FoundationEssentials", "Dispatch", "NIO", "XCTest"]

    /// Targets whose purpose is what Swift cannot check.
    static let unsafeTargets: Set<String> = ["LinuxHost", "DMA"]

    /// Files elsewhere that hand bytes to those targets or to C.
    static let unsafeFiles: Set<String> = [
        "Sources/BlockStorage/FileStore.swift",
        "Sources/CopyEngine/EngineMemory.swift",
        "Sources/CopyEngine/EngineSession+Transfer.swift",
        "Sources/CopyEngine/MemoryWindow.swift",
        "Sources/Edu/EduEngine.swift",
        "Sources/JSONText/JSONValue+JSONC.swift",
        "Sources/NVMe/CommandMemory.swift",
        "Sources/PCI/BarMemory.swift",
        "Sources/PCI/GuestMemory.swift",
        "Sources/SVA/PASIDTable.swift",
        "Sources/SVA/SVADevice+Transfer.swift",
        "Sources/SVA/TranslationCache.swift",
        "Sources/VFIOUserCheck/RawConnection.swift",
        "Sources/VFIOUserCheck/Witnesses.swift",
        "Sources/VFIOUserClient/Client+Regions.swift",
        "Sources/VFIOUserClient/SharedMemory.swift",
        "Sources/VFIOUserRecording/FileBox.swift",
        "Sources/VFIOUserRecording/RecordingTransport.swift",
        "Sources/VFIOUserRecording/ReplayMemory.swift",
        "Sources/VFIOUserRecording/ReplaySocket.swift",
        "Sources/VFIOUserSession/ClientMemory.swift",
        "Sources/VFIOUserSession/FileMemory.swift",
        "Sources/VFIOUserTransport/FaultyTransport.swift",
        "Sources/VFIOUserTransport/MessageReader.swift",
        "Sources/VFIOUserTransport/MessageSender.swift",
        "Sources/Virtio/QueueMemory.swift",
        "Sources/VirtioIOMMU/GuestSections.swift",
        "Sources/outboard/Outboard.swift",
        "Sources/outboard/RecordingFile.swift",
        "Sources/outboard/ServeNVMe.swift",
        "Sources/outboard/StandardErrorLog.swift",
    ]
}
