import VFIOUserClient
import VFIOUserNegotiation
import VFIOUserWire

/// What a probe has found out.
struct ProbeReport {
    /// A region, or the number of the error that came instead.
    enum Description<Value> {
        case known(Value)
        case refused(Int32)
    }

    struct Feature {
        let number: UInt16
        let name: String
        let isOffered: Bool
    }

    let agreement: Agreement
    let device: DeviceInfo
    var regions: [Description<RegionInfo>] = []
    var interrupts: [Description<InterruptInfo>] = []
    var configuration = ConfigurationPicture([])
    var features: [Feature] = []
    /// What the server says that cannot be.
    var complaints: [String] = []

    init(agreement: Agreement, device: DeviceInfo) {
        self.agreement = agreement
        self.device = device
    }

    func size(ofRegion index: Int) -> UInt64 {
        guard index < regions.count, case .known(let info) = regions[index] else { return 0 }
        return info.size
    }

    var baseAddresses: [ConfigurationPicture.BaseAddress] {
        configuration.baseAddresses(sizes: (0..<6).map { size(ofRegion: $0) })
    }

    static func regionName(_ index: Int) -> String {
        switch index {
        case 0...5: "BAR \(index)"
        case PCIRegion.expansionROM: "expansion ROM"
        case PCIRegion.configuration: "configuration"
        case PCIRegion.vga: "VGA"
        default: "device-specific"
        }
    }

    static func interruptName(_ index: Int) -> String {
        let names = ["INTx", "MSI", "MSI-X", "errors", "requests"]
        return index < names.count ? names[index] : "device-specific"
    }

    /// The bits of the command and status registers by the names of `lspci`, in its order.
    static let controlBits: [(name: String, bit: Int)] = [
        ("I/O", 0), ("Mem", 1), ("BusMaster", 2), ("SpecCycle", 3), ("MemWINV", 4), ("VGASnoop", 5), ("ParErr", 6),
        ("Stepping", 7), ("SERR", 8), ("FastB2B", 9), ("DisINTx", 10),
    ]
    static let statusBits: [(name: String, bit: Int)] = [
        ("Cap", 4), ("66MHz", 5), ("UDF", 6), ("FastB2B", 7), ("ParErr", 8), (">TAbort", 11), ("<TAbort", 12),
        ("<MAbort", 13), (">SERR", 14), ("<PERR", 15), ("INTx", 3),
    ]

    static let interruptFlags: [(flag: InterruptInfo.Flags, name: String)] = [
        (.eventDescriptors, "eventfd"), (.maskable, "maskable"), (.masksItself, "automasked"),
        (.cannotGrow, "noresize"),
    ]
}
