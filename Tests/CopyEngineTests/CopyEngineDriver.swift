import CopyEngine
import DeviceModel
import LinuxHost
import PCI
import ServedDevices
import VFIOUserClient

/// A driver of the copy engine over the protocol's client, written from the driver's guide.
///
/// The memory is 8 MiB from `base` on: rings first, then completion records, then data, of which tests name places by page.
final class CopyEngineDriver {
    static let base: UInt64 = 0x1_2345_6000
    static let page = 4096
    private static let commandRing = 0x0000
    private static let workRing = 0x4000
    private static let pageRing = 0x8000
    private static let records = 0x10000
    private static let recordCount = 1024
    private static let data = 0x100000

    let client: Client
    let memory: SharedMemory
    /// By vector.
    let counters: [EventCounter]
    let ringSize: Int
    private var commandTail = 0
    private var workTail = 0
    private(set) var pageHead = 0
    private var nextRecord = 0

    init(
        _ client: Client, sharing: Client.Sharing = .descriptor, ringSize: Int = 64, isBusMaster: Bool = true
    ) throws {
        self.client = client
        self.ringSize = ringSize
        memory = try SharedMemory(byteCount: 8 << 20)
        counters = try (0..<4).map { _ in try EventCounter() }
        try client.map(memory, byteCount: 8 << 20, at: CopyEngineDriver.base, sharing: sharing)
        try client.connectInterrupts(PCIInterrupt.msix, to: counters)
        if isBusMaster { try client.writeRegister(UInt16(6), region: 7, at: 4) }
    }
}

/// Registers.
extension CopyEngineDriver {
    enum Register {
        static let identification: UInt64 = 0x00
        static let pasidLimit: UInt64 = 0x08
        static let pageRequestCapabilities: UInt64 = 0x0c
        static let control: UInt64 = 0x10
        static let status: UInt64 = 0x14
        static let commandRing: UInt64 = 0x20
        static let workRing: UInt64 = 0x40
        static let pageRing: UInt64 = 0x60
        static let groupsAnswered: UInt64 = 0x80
        static let groupsRefused: UInt64 = 0x88
        static let waitTotal: UInt64 = 0x90
        static let longestWait: UInt64 = 0x98
        // Within a ring's.
        static let size: UInt64 = 8
        static let head: UInt64 = 12
        static let tail: UInt64 = 16
    }

    enum Status {
        static let ready: UInt32 = 1 << 0
        static let configurationError: UInt32 = 1 << 8
        static let commandRingError: UInt32 = 1 << 9
        static let workRingError: UInt32 = 1 << 10
        static let pageRingError: UInt32 = 1 << 11
        static let completionLost: UInt32 = 1 << 12
    }

    func read(_ offset: UInt64) throws -> UInt32 { try client.readRegister(UInt32.self, region: 0, at: offset) }

    func readLong(_ offset: UInt64) throws -> UInt64 { try client.readRegister(UInt64.self, region: 0, at: offset) }

    func write(_ offset: UInt64, _ value: UInt32) throws { try client.writeRegister(value, region: 0, at: offset) }

    func writeLong(_ offset: UInt64, _ value: UInt64) throws {
        try client.writeRegister(value, region: 0, at: offset)
    }

    var status: UInt32 { get throws { try read(Register.status) } }

    func describe(ring: UInt64, at base: UInt64, size: Int) throws {
        try writeLong(ring, base)
        try write(ring + Register.size, UInt32(size))
    }

    /// Describes the rings and enables the device.
    ///
    /// - Parameter misplaced: a ring that the device is told to look for elsewhere.
    func enable(hasPageRing: Bool = true, misplaced: UInt64? = nil) throws {
        try start(hasPageRing: hasPageRing, misplaced: misplaced)
        try wait { try status & Status.ready != 0 }
    }

    /// The same without waiting until it is ready.
    func start(hasPageRing: Bool = true, misplaced: UInt64? = nil) throws {
        let rings = [
            (Register.commandRing, CopyEngineDriver.commandRing, ringSize),
            (Register.workRing, CopyEngineDriver.workRing, ringSize),
            (Register.pageRing, CopyEngineDriver.pageRing, hasPageRing ? ringSize : 0),
        ]
        for (ring, place, size) in rings {
            try describe(ring: ring, at: ring == misplaced ? 0x7000_0000 : address(place), size: size)
        }
        (commandTail, workTail, pageHead) = (0, 0, 0)
        try write(Register.control, 1)
    }

    func disable() throws {
        try write(Register.control, 0)
        try wait { try status & Status.ready == 0 }
    }

    /// Looks again and again, and serves what the device asks for meanwhile.
    func wait(until isDone: () throws -> Bool) throws {
        while try !isDone() { try client.serveRequests(for: .microseconds(200)) }
    }
}

/// Memory.
extension CopyEngineDriver {
    func address(_ offset: Int) -> UInt64 { CopyEngineDriver.base + UInt64(offset) }

    /// The memory address of a page of data, by number.
    func memoryPage(_ number: Int) -> UInt64 { address(CopyEngineDriver.data + number * CopyEngineDriver.page) }

    func fill(_ page: Int, count: Int = 1, _ bytes: (Int) -> UInt8) {
        memory.write(
            (0..<count * CopyEngineDriver.page).map(bytes), at: CopyEngineDriver.data + page * CopyEngineDriver.page)
    }

    func contents(_ page: Int, count: Int = 1) -> [UInt8] {
        let start = CopyEngineDriver.data + page * CopyEngineDriver.page
        return memory.read(start..<start + count * CopyEngineDriver.page)
    }

    private func long(at offset: Int) -> UInt64 {
        memory.read(offset..<offset + 8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }
}

/// Descriptors.
extension CopyEngineDriver {
    struct Descriptor {
        var opcode: UInt8 = 0
        var flags: UInt8 = 0
        var options: UInt16 = 0
        var sourcePASID: UInt32 = 0
        var pasid: UInt32 = 0
        var zero: UInt32 = 0
        var source: UInt64 = 0
        var address: UInt64 = 0
        var length: UInt64 = 0
        var completionAddress: UInt64 = 0
        var tag: UInt64 = 0
        var lastZero: UInt64 = 0

        static let completion: UInt8 = 1
        static let interrupt: UInt8 = 2
        static let fence: UInt8 = 4

        var bytes: [UInt8] {
            let words = [
                UInt64(opcode) | UInt64(flags) << 8 | UInt64(options) << 16 | UInt64(sourcePASID) << 32,
                UInt64(pasid) | UInt64(zero) << 32, source, address, length, completionAddress, tag, lastZero,
            ]
            return words.flatMap { word in (0..<8).map { UInt8(truncatingIfNeeded: word >> UInt64($0 * 8)) } }
        }

        static func copy(
            _ source: (pasid: UInt32, address: UInt64), to destination: (pasid: UInt32, address: UInt64),
            length: UInt64
        ) -> Descriptor {
            Descriptor(
                opcode: 0x01, sourcePASID: source.pasid, pasid: destination.pasid, source: source.address,
                address: destination.address, length: length)
        }

        static func fill(_ pasid: UInt32, at address: UInt64, pattern: UInt64, length: UInt64) -> Descriptor {
            Descriptor(opcode: 0x02, pasid: pasid, source: pattern, address: address, length: length)
        }

        static func create(_ pasid: UInt32, hasDemandPaging: Bool = false) -> Descriptor {
            Descriptor(opcode: 0x11, options: hasDemandPaging ? 1 : 0, pasid: pasid)
        }

        static func destroy(_ pasid: UInt32) -> Descriptor { Descriptor(opcode: 0x12, pasid: pasid) }

        static func map(
            _ pasid: UInt32, at address: UInt64, to memory: UInt64, length: UInt64 = 4096, rights: UInt16 = 0b11
        ) -> Descriptor {
            Descriptor(
                opcode: 0x13, options: rights, pasid: pasid, source: memory, address: address, length: length)
        }

        static func unmap(_ pasid: UInt32, at address: UInt64, length: UInt64 = 4096) -> Descriptor {
            Descriptor(opcode: 0x14, pasid: pasid, address: address, length: length)
        }

        static func answer(_ cookie: UInt32, isAccessible: Bool = true) -> Descriptor {
            Descriptor(opcode: 0x15, options: isAccessible ? 0 : 1, source: UInt64(cookie))
        }
    }

    /// What the device wrote when a descriptor was done with.
    struct Completion: Equatable {
        var status: UInt8 = 1
        var operand: UInt8 = 0
        var error: UInt32 = 0
        var bytes: UInt64 = 0
        var faultAddress: UInt64 = 0
    }

    /// A descriptor that was put into a ring.
    struct Submitted {
        let record: Int
        let tag: UInt64
    }

    enum RingName {
        case command, work
    }

    /// Puts a descriptor into a ring, which has room, with a record to be written; `ring` tells the device.
    @discardableResult
    func put(_ descriptor: Descriptor, _ ring: RingName) -> Submitted {
        var descriptor = descriptor
        nextRecord = (nextRecord + 1) % CopyEngineDriver.recordCount
        let record = CopyEngineDriver.records + nextRecord * 32
        memory.write([UInt8](repeating: 0, count: 32), at: record)
        descriptor.flags |= Descriptor.completion
        descriptor.completionAddress = address(record)
        descriptor.tag = 0x7a67_0000_0000_0000 | UInt64(nextRecord)
        putAsIs(descriptor, ring)
        return Submitted(record: record, tag: descriptor.tag)
    }

    func putAsIs(_ descriptor: Descriptor, _ ring: RingName) {
        switch ring {
        case .command:
            memory.write(descriptor.bytes, at: CopyEngineDriver.commandRing + commandTail * 64)
            commandTail = (commandTail + 1) % ringSize
        case .work:
            memory.write(descriptor.bytes, at: CopyEngineDriver.workRing + workTail * 64)
            workTail = (workTail + 1) % ringSize
        }
    }

    func ring(_ ring: RingName) throws {
        switch ring {
        case .command: try write(Register.commandRing + Register.tail, UInt32(commandTail))
        case .work: try write(Register.workRing + Register.tail, UInt32(workTail))
        }
    }

    func submit(_ descriptor: Descriptor, _ name: RingName) throws -> Submitted {
        let submitted = put(descriptor, name)
        try ring(name)
        return submitted
    }

    /// The completion of a descriptor; `nil` while it is under way.
    func completion(of submitted: Submitted) -> Completion? {
        let record = submitted.record
        guard memory.read(record..<record + 1)[0] != 0 else { return nil }
        let head = long(at: record)
        precondition(long(at: record + 8) == submitted.tag, "the tag of another descriptor")
        precondition(head >> 16 & 0xffff == 0, "bytes that should be zero")
        return Completion(
            status: UInt8(head & 0xff), operand: UInt8(head >> 8 & 0xff), error: UInt32(head >> 32),
            bytes: long(at: record + 16), faultAddress: long(at: record + 24))
    }

    func finish(_ submitted: Submitted) throws -> Completion {
        var result: Completion?
        try wait {
            result = completion(of: submitted)
            return result != nil
        }
        return result ?? Completion()
    }

    @discardableResult
    func command(_ descriptor: Descriptor) throws -> Completion { try finish(try submit(descriptor, .command)) }

    func work(_ descriptor: Descriptor) throws -> Completion { try finish(try submit(descriptor, .work)) }
}

/// Page requests.
extension CopyEngineDriver {
    struct PageRequest: Hashable {
        let cookie: UInt32
        let pasid: UInt32
        let page: UInt64
        let rights: UInt32
        let isLast: Bool
    }

    /// The requests of the next group, which are taken out of the ring; `nil` when there is none.
    func nextGroup() throws -> [PageRequest]? {
        var requests: [PageRequest] = []
        let tail = Int(try read(Register.pageRing + Register.tail))
        guard pageHead != tail else { return nil }
        repeat {
            precondition(pageHead != tail, "a group that is not whole")
            let entry = CopyEngineDriver.pageRing + pageHead * 32
            let (head, flags) = (long(at: entry), long(at: entry + 16))
            precondition(long(at: entry + 24) == 0, "bytes that should be zero")
            requests.append(
                PageRequest(
                    cookie: UInt32(truncatingIfNeeded: head), pasid: UInt32(head >> 32), page: long(at: entry + 8),
                    rights: UInt32(truncatingIfNeeded: flags), isLast: flags >> 32 == 1))
            pageHead = (pageHead + 1) % ringSize
        } while requests.last?.isLast == false
        try write(Register.pageRing + Register.head, UInt32(pageHead))
        return requests
    }

    /// Waits for the next group.
    func awaitGroup() throws -> [PageRequest] {
        var group: [PageRequest]?
        try wait {
            group = try nextGroup()
            return group != nil
        }
        return group ?? []
    }

    /// Maps the pages of groups and answers them, until the work is done.
    ///
    /// - Parameter place: the memory address of a page; `nil` refuses the group.
    /// - Returns: all that was asked for.
    @discardableResult
    func serve(until isDone: () -> Bool, _ place: (PageRequest) -> UInt64?) throws -> [PageRequest] {
        var asked: [PageRequest] = []
        try wait {
            while let group = try nextGroup() {
                asked += group
                try answer(group, place)
            }
            return isDone()
        }
        return asked
    }

    private func answer(_ group: [PageRequest], _ place: (PageRequest) -> UInt64?) throws {
        let places = group.map(place)
        var last: Submitted?
        if places.allSatisfy({ $0 != nil }) {
            for (request, place) in zip(group, places) {
                last = put(.map(request.pasid, at: request.page, to: place ?? 0), .command)
            }
            last = put(.answer(group[0].cookie), .command)
        } else {
            last = put(.answer(group[0].cookie, isAccessible: false), .command)
        }
        try ring(.command)
        if let last { _ = try finish(last) }
    }
}

/// Runs `body` with a driver of a device, which is served over a socket pair on a thread of its own.
func withDriver(
    _ change: (inout CopyEngine.Options) -> Void = { _ in }, sharing: Client.Sharing = .descriptor,
    ringSize: Int = 64, isEnabled: Bool = true, _ body: (CopyEngineDriver) throws -> Void
) throws {
    var options = CopyEngine.Options()
    // No test is about how long this is, but those that say so.
    options.pageTimeout = .seconds(60)
    change(&options)
    try withClient(of: try CopyEngine.makeFunction(options)) { client in
        let driver = try CopyEngineDriver(client, sharing: sharing, ringSize: ringSize)
        if isEnabled { try driver.enable() }
        try body(driver)
    }
}
