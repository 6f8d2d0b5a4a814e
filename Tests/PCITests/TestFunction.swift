import DMA
import DeviceModel
import LinuxHost
import PCI

typealias TestFunction = PCIFunction<Scratchpad>

extension PCIDescription {
    /// A function with one of everything.
    static let everything = PCIDescription(
        vendorID: 0x1b36, deviceID: 0x0010, subsystemVendorID: 0x1af4, subsystemID: 0x1100, revision: 2,
        classCode: PCIClassCode(baseClass: 0x01, subclass: 0x08, interface: 0x02),
        bars: [
            BaseAddressRegister(0, .memory64, byteCount: 0x4000), BaseAddressRegister(2, .memory32, byteCount: 0x1000),
            BaseAddressRegister(3, .io, byteCount: 0x20),
        ],
        msi: MSIDescription(vectorCount: 8),
        msix: MSIXDescription(vectorCount: 70, bar: 0, tableOffset: 0x2000, pendingOffset: 0x3000),
        serialNumber: 0x0123_4567_89ab_cdef)

    /// A conventional function with nothing that is optional.
    static let bare = PCIDescription(
        vendorID: 0x1234, deviceID: 0x5678, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
        bars: [BaseAddressRegister(0, .memory32, byteCount: 0x1000)], hasInterruptPin: false,
        hasPowerManagement: false, isExpress: false)

    func with(_ change: (inout PCIDescription) -> Void) -> PCIDescription {
        var description = self
        change(&description)
        return description
    }
}

extension PCIFunction where Model == Scratchpad {
    convenience init(_ description: PCIDescription = .everything) {
        self.init(description) { Scratchpad(port: $0) }
    }
}

/// Accesses as a session makes them.
extension Device {
    func read(_ region: Int, _ offset: UInt64, _ count: Int) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xa5, count: count)
        var span = bytes.mutableSpan
        readRegion(region, at: offset, into: &span)
        return bytes
    }

    func write(_ region: Int, _ offset: UInt64, _ bytes: [UInt8]) {
        writeRegion(region, at: offset, from: bytes.span)
    }

    func value(_ region: Int, _ offset: UInt64, _ byteCount: Int) -> UInt64 {
        UInt64(littleEndian: read(region, offset, byteCount))
    }

    func set(_ value: UInt64, _ region: Int, _ offset: UInt64, _ byteCount: Int) {
        write(region, offset, value.littleEndianBytes(byteCount))
    }

    func configuration(_ offset: Int, _ byteCount: Int = 4) -> UInt64 {
        value(PCIRegion.configuration, UInt64(offset), byteCount)
    }

    func configure(_ offset: Int, _ byteCount: Int = 4, _ value: UInt64) {
        set(value, PCIRegion.configuration, UInt64(offset), byteCount)
    }
}

/// Configuration space as a driver uses it.
extension Device {
    /// The identifiers and places of the capabilities, found by walking the list.
    var capabilityList: [(id: UInt8, offset: Int)] {
        guard configuration(0x06, 2) & 0x10 != 0 else { return [] }
        var list: [(UInt8, Int)] = []
        var offset = Int(configuration(0x34, 1))
        while offset != 0, list.count < 48 {
            list.append((UInt8(configuration(offset, 1)), offset))
            offset = Int(configuration(offset + 1, 1))
        }
        return list
    }

    /// Where a capability lies; zero, which is where none can lie, when the function does not have it.
    func capability(_ id: CapabilityID) -> Int {
        capabilityList.first { $0.id == id.rawValue }?.offset ?? 0
    }

    /// Sets some bits of the command register and clears others.
    func command(set: UInt64 = 0, clear: UInt64 = 0) {
        configure(0x04, 2, configuration(0x04, 2) & ~clear | set)
    }

    func enableBusMaster() { command(set: CommandBits.busMaster) }

    func setPowerState(_ state: UInt64) { configure(capability(.powerManagement) + 4, 2, state) }

    /// The MSI control register: enable, and the logarithm of the number of vectors granted.
    func enableMSI(_ isEnabled: Bool = true, grant: UInt64 = 0) {
        configure(capability(.msi) + 2, 2, (isEnabled ? 1 : 0) | grant << 4)
    }

    func maskMSI(_ vectors: UInt64) { configure(capability(.msi) + 16, 4, vectors) }

    var pendingMSI: UInt64 { configuration(capability(.msi) + 20, 4) }

    func enableMSIX(_ isEnabled: Bool = true, functionMask: Bool = false) {
        configure(capability(.msix) + 2, 2, (isEnabled ? 1 << 15 : 0) | (functionMask ? 1 << 14 : 0))
    }

    func resetByConfiguration() {
        let control = capability(.express) + 8
        configure(control, 2, configuration(control, 2) | 1 << 15)
    }
}

enum CommandBits {
    static let ioSpace: UInt64 = 1 << 0
    static let memorySpace: UInt64 = 1 << 1
    static let busMaster: UInt64 = 1 << 2
    static let interruptDisable: UInt64 = 1 << 10
}

/// The MSI-X structures of `PCIDescription.everything`.
extension Device {
    func maskVector(_ vector: Int, _ isMasked: Bool) {
        set(isMasked ? 1 : 0, 0, 0x2000 + UInt64(vector) * 16 + 12, 4)
    }

    func isPending(_ vector: Int) -> Bool {
        value(0, 0x3000 + UInt64(vector / 64) * 8, 8) >> UInt64(vector % 64) & 1 != 0
    }
}

/// Event counters in place of a client's.
extension InterruptSet {
    /// Connects the first `count` vectors of a kind and returns their counters.
    func connectCounters(_ kind: InterruptKind, _ count: Int = 1, from start: Int = 0) throws -> [EventCounter] {
        let counters = try (0..<count).map { _ in try EventCounter() }
        connect(kind, from: start, to: counters)
        return counters
    }
}

extension [EventCounter] {
    /// What each counter has counted since the last call.
    func drain() -> [UInt64] { map { $0.drain() } }
}

extension UInt64 {
    init(littleEndian bytes: [UInt8]) {
        self = bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func littleEndianBytes(_ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: self >> UInt64($0 * 8)) }
    }
}

/// Guest memory of `byteCount` bytes from address 0 on.
struct GuestMemory {
    let space = IOAddressSpace()
    let object: MemoryObject

    init(byteCount: Int = 0x10000) throws {
        object = try MemoryObject.anonymous(byteCount: byteCount)
        try space.map(.file(object, offset: 0), at: IOVA(0), byteCount: UInt64(byteCount), rights: [.read, .write])
    }

    func bytes(_ offset: Int, _ count: Int) -> [UInt8] { unsafe Array(object.bytes[offset..<offset + count]) }

    func set(_ bytes: [UInt8], at offset: Int) {
        for (number, byte) in bytes.enumerated() { unsafe object.bytes[offset + number] = byte }
    }
}
