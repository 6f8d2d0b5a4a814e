public import DeviceModel

/// What kind of device a function is. PCI Code and ID Assignment Specification
public struct PCIClassCode: Sendable, Hashable {
    public let baseClass, subclass, interface: UInt8

    public init(baseClass: UInt8, subclass: UInt8, interface: UInt8 = 0) {
        self.baseClass = baseClass
        self.subclass = subclass
        self.interface = interface
    }
}

/// A window of a function into memory or I/O space. PCI Local Bus 3.0, 6.2.5
public struct BaseAddressRegister: Sendable, Hashable {
    public enum Space: Sendable, Hashable {
        case memory32, memory64, io
    }

    /// The register's index, 0 to 5; a 64-bit one takes the next index as well.
    public let index: Int
    public let space: Space
    /// A power of two; at least 16 for memory, 4 for I/O, and at most 256 for I/O.
    public let byteCount: UInt64
    /// Whether reads have no side effects and writes may be merged.
    public let isPrefetchable: Bool

    public init(_ index: Int, _ space: Space, byteCount: UInt64, isPrefetchable: Bool = false) {
        precondition((0...(space == .memory64 ? 4 : 5)).contains(index), "there is no such base address register")
        precondition(byteCount.nonzeroBitCount == 1, "the size of a base address register is a power of two")
        let limit: ClosedRange<UInt64> =
            switch space {
            case .memory32: 16...(1 << 31)
            case .memory64: 16...(1 << 62)
            case .io: 4...256
            }
        precondition(limit.contains(byteCount), "a base address register of \(space) cannot have \(byteCount) bytes")
        precondition(space != .io || !isPrefetchable, "I/O space is never prefetchable")
        self.index = index
        self.space = space
        self.byteCount = byteCount
        self.isPrefetchable = isPrefetchable
    }
}

/// Message-signalled interrupts of a function. PCI Local Bus 3.0, 6.8.1
public struct MSIDescription: Sendable, Hashable {
    /// 1, 2, 4, 8, 16 or 32.
    public let vectorCount: Int
    /// Whether vectors can be masked one by one.
    public let hasMasking: Bool

    public init(vectorCount: Int, hasMasking: Bool = true) {
        precondition([1, 2, 4, 8, 16, 32].contains(vectorCount), "MSI has a power of two of up to 32 vectors")
        self.vectorCount = vectorCount
        self.hasMasking = hasMasking
    }
}

/// MSI-X of a function: how many vectors, and where their table and pending bits lie. PCI Local Bus 3.0, 6.8.2
public struct MSIXDescription: Sendable, Hashable {
    public let vectorCount: Int
    public let tableBar: Int
    public let tableOffset: UInt64
    public let pendingBar: Int
    public let pendingOffset: UInt64

    /// The table and the pending bits in one BAR.
    public init(vectorCount: Int, bar: Int, tableOffset: UInt64, pendingOffset: UInt64) {
        self.init(
            vectorCount: vectorCount, tableBar: bar, tableOffset: tableOffset, pendingBar: bar,
            pendingOffset: pendingOffset)
    }

    public init(vectorCount: Int, tableBar: Int, tableOffset: UInt64, pendingBar: Int, pendingOffset: UInt64) {
        precondition((1...2048).contains(vectorCount), "MSI-X has 1 to 2048 vectors")
        precondition(tableOffset % 8 == 0 && pendingOffset % 8 == 0, "MSI-X structures lie at multiples of eight")
        self.vectorCount = vectorCount
        self.tableBar = tableBar
        self.tableOffset = tableOffset
        self.pendingBar = pendingBar
        self.pendingOffset = pendingOffset
    }

    var tableRange: Range<UInt64> { tableOffset..<tableOffset + UInt64(vectorCount) * 16 }
    var pendingRange: Range<UInt64> { pendingOffset..<pendingOffset + UInt64((vectorCount + 63) / 64) * 8 }
}

/// What a function looks like from the bus. Everything here is fixed for the function's life.
public struct PCIDescription: Sendable {
    public var vendorID, deviceID: UInt16
    public var subsystemVendorID, subsystemID: UInt16
    public var revision: UInt8
    public var classCode: PCIClassCode
    public var bars: [BaseAddressRegister]
    /// Whether the function can pull its INTA line.
    public var hasInterruptPin: Bool
    public var msi: MSIDescription?
    public var msix: MSIXDescription?
    /// Whether the function can be put into D3hot and back. PCI Bus Power Management Interface 1.2
    public var hasPowerManagement: Bool
    /// Whether this is a PCI Express endpoint, with function-level reset and 4 KiB of configuration space.
    public var isExpress: Bool
    /// Capabilities of the vendor's own, in their order in configuration space.
    public var vendorCapabilities: [VendorCapability]
    /// Registers that a client may write to without a message; their regions are the indexes of BARs.
    public var doorbells: [Doorbell]
    /// Base address registers, or pages of them, that are memory; at most one for each register.
    public var memory: [BarMemory]
    /// Shown in the Device Serial Number capability of a PCI Express function.
    public var serialNumber: UInt64?

    public init(
        vendorID: UInt16, deviceID: UInt16, subsystemVendorID: UInt16 = 0, subsystemID: UInt16 = 0,
        revision: UInt8 = 0, classCode: PCIClassCode, bars: [BaseAddressRegister], hasInterruptPin: Bool = true,
        msi: MSIDescription? = nil, msix: MSIXDescription? = nil, hasPowerManagement: Bool = true,
        isExpress: Bool = true, serialNumber: UInt64? = nil, vendorCapabilities: [VendorCapability] = [],
        doorbells: [Doorbell] = [], memory: [BarMemory] = []
    ) {
        self.vendorID = vendorID
        self.deviceID = deviceID
        self.subsystemVendorID = subsystemVendorID
        self.subsystemID = subsystemID
        self.revision = revision
        self.classCode = classCode
        self.bars = bars
        self.hasInterruptPin = hasInterruptPin
        self.msi = msi
        self.msix = msix
        self.hasPowerManagement = hasPowerManagement
        self.isExpress = isExpress
        self.serialNumber = serialNumber
        self.vendorCapabilities = vendorCapabilities
        self.doorbells = doorbells
        self.memory = memory
    }

    /// The size of configuration space in bytes.
    public var configurationByteCount: Int { isExpress ? 4096 : 256 }

    /// Traps on a description that no function could have; called once, when a function is made of it.
    func check() {
        var taken: Set<Int> = []
        for bar in bars {
            for index in bar.space == .memory64 ? [bar.index, bar.index + 1] : [bar.index] {
                precondition(taken.insert(index).inserted, "base address register \(index) is described twice")
            }
        }
        precondition(vendorCapabilities.count(where: \.isWindow) <= 1, "a function has one window")
        for doorbell in doorbells { check(doorbell) }
        precondition(Set(memory.map(\.bar)).count == memory.count, "a base address register has one memory")
        for memory in memory { check(memory) }
        guard let msix else { return }
        for (bar, range) in [(msix.tableBar, msix.tableRange), (msix.pendingBar, msix.pendingRange)] {
            let size = bars.first { $0.index == bar }?.byteCount ?? 0
            precondition(range.upperBound <= size, "the MSI-X structures lie within their base address register")
        }
        precondition(
            msix.tableBar != msix.pendingBar || !msix.tableRange.overlaps(msix.pendingRange),
            "the MSI-X table and the pending bits do not overlap")
    }

    private func check(_ memory: BarMemory) {
        guard let bar = bars.first(where: { $0.index == memory.bar }), bar.space != .io else {
            preconditionFailure("memory lies in a base address register of memory")
        }
        precondition(
            memory.areas.allSatisfy { $0.upperBound <= bar.byteCount }, "memory lies within its base address register")
        precondition(
            !doorbells.contains { $0.region == memory.bar && memory.contains($0.offset) }, "memory has no doorbells")
        guard let msix else { return }
        // A client would map the page and keep the function from seeing what is done to its vectors.
        for (bar, range) in [(msix.tableBar, msix.tableRange), (msix.pendingBar, msix.pendingRange)]
        where bar == memory.bar {
            precondition(!memory.areas.contains { $0.overlapsPages(of: range) }, "memory has no MSI-X structures")
        }
    }

    private func check(_ doorbell: Doorbell) {
        guard let bar = bars.first(where: { $0.index == doorbell.region }), bar.space != .io else {
            preconditionFailure("doorbells lie in a base address register of memory")
        }
        precondition(
            doorbell.offset % UInt64(doorbell.byteCount) == 0 && doorbell.offset < bar.byteCount,
            "doorbells are naturally aligned and lie within their base address register")
        guard let msix else { return }
        let isTable = bar.index == msix.tableBar && msix.tableRange.contains(doorbell.offset)
        let isPending = bar.index == msix.pendingBar && msix.pendingRange.contains(doorbell.offset)
        precondition(!isTable && !isPending, "the MSI-X structures are no doorbells")
    }
}

extension Range<UInt64> {
    /// Whether it, itself whole pages, has a page of 4 KiB in common with `other`.
    fileprivate func overlapsPages(of other: Range<UInt64>) -> Bool {
        overlaps(other.lowerBound & ~0xfff..<(other.upperBound + 0xfff) & ~0xfff)
    }
}
