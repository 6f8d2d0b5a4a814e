import DMA
import LinuxHost
import SVA

/// What it costs a device to name the address space of each access, and to have a page brought that is not there.
func sharedAddressing(_ settings: Settings, _ report: Report) throws {
    let process = try Process()
    let plain = DMAAccess(needsPin: true, onUnmap: { _ in })
    try plain.attach(to: process.space)
    let device = process.device
    let pages = (0..<UInt64(Process.pageCount)).map(Process.page)
    let lines = pages.map { IOVARange(first: $0.first, last: IOVA($0.first.rawValue + 63)) }
    for page in pages { try process.map(page) }

    report.begin(
        "Shared address spaces",
        """
        ns for an access to a page that is there, over \(Process.pageCount) pages in turn: by a PASID of a device, and by an
        access of its own. A read copies 64 bytes. In place: a translation that the device keeps, beside a pin and its release.
        """)
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 64)
    defer { unsafe buffer.deallocate() }
    let reads = try compare(settings, count: lines.count) { (turn) throws(AccessFailure) in
        unsafe try device.read(lines[turn], pasid: process.pasid, into: buffer)
    } _: { (turn) throws(DMAError) in
        unsafe try plain.read(lines[turn], into: buffer)
    }
    var seen = Checksum()
    let places = try compare(settings, count: lines.count) { (turn) throws(AccessFailure) in
        unsafe try device.withTranslations(of: lines[turn], pasid: process.pasid, rights: .read) { memory in
            unsafe seen.add(memory.load(as: UInt64.self))
        }
    } _: { (turn) throws(DMAError) in
        let pinned = try plain.pin(pages[turn], rights: .read)
        unsafe pinned.forEachSegment { memory in unsafe seen.add(memory.load(as: UInt64.self)) }
        pinned.unpin()
    }
    precondition(seen.value != 0, "every value in the memory is odd")
    report.write("")
    report.table(
        "sva", unit: "ns", heading: "access", columns: ["by PASID", "DMAAccess"],
        rows: [("read", reads), ("in place", places)])

    try measureFaults(process, settings, report)
    plain.destroy()
    process.end()
}

/// The time of reads that miss, and of what the pager does for each, by itself.
private func measureFaults(_ process: Process, _ settings: Settings, _ report: Report) throws {
    report.write(
        """

        µs for a read of 64 bytes whose page is missing: the page is asked for, mapped by a thread of the fault queue, and read.
        Beside it the mapping alone. In each round the median and the 99th percentile are taken of all; shown is the median
        of the rounds.

        """)
    let range = Process.page(0)
    let line = IOVARange(first: range.first, last: IOVA(range.first.rawValue + 63))
    let count = settings.isQuick ? 500 : 5000
    let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: 64, alignment: 64)
    defer { unsafe buffer.deallocate() }
    var faults: [Figures] = []
    var mappings: [Figures] = []
    for round in -1..<settings.rounds {
        let read = try microseconds(count) {
            try process.space.unmap(range)
        } _: {
            unsafe try process.device.read(line, pasid: process.pasid, into: buffer)
        }
        let mapped = try microseconds(count) {
            try process.space.unmap(range)
        } _: {
            try process.map(range)
        }
        if round < 0 { continue }
        faults.append(read)
        mappings.append(mapped)
    }
    let rows = [("median", 0.5), ("99 % at most", 0.99)].map { name, share in
        (name, [faults, mappings].map { rounds in Figures(rounds.map { $0.percentile(share) }) })
    }
    report.table("sva-fault", unit: "µs", heading: "fault", columns: ["fault", "map"], rows: rows)
}

/// Measures two ways to access something, each for all turns.
private func compare<First: Error, Second: Error>(
    _ settings: Settings, count: Int, _ first: (Int) throws(First) -> Void, _ second: (Int) throws(Second) -> Void
) throws -> [Figures] {
    try interleaved([true, false], rounds: settings.rounds) { isFirst, _ in
        var failure: (any Error)?
        let result = nanosecondsPerOperation(for: settings.sampleTime, count: count) { _ in
            do {
                for turn in 0..<count { if isFirst { try first(turn) } else { try second(turn) } }
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return result
    }
}

/// The times of a step, before each of which something is done that is not timed.
private func microseconds(_ count: Int, before: () throws -> Void, _ step: () throws -> Void) throws -> Figures {
    var samples: [Double] = []
    samples.reserveCapacity(count)
    for _ in 0..<count {
        try before()
        let start = MonotonicInstant.now
        try step()
        samples.append(Double(MonotonicInstant.now.nanoseconds - start.nanoseconds) / 1000)
    }
    return Figures(samples)
}

/// A process, and a device that is bound to it.
private final class Process {
    static let pageCount = 64

    let space = IOAddressSpace()
    let device: SVADevice
    let pasid: PASID?
    private let queue: FaultQueue
    private let handle: SVAHandle
    private let memory: MemoryObject

    init() throws {
        let pasids = PASIDSpace()
        queue = try FaultQueue()
        memory = try SharedMemory.make()
        var configuration = SVADevice.Configuration()
        configuration.cachedTranslations = Process.pageCount
        device = SVADevice(configuration, in: pasids, faultQueue: queue)
        try device.start()
        let pager = SharedMemoryPager(memory: memory)
        handle = try device.bind(AddressSpaceContext(space, pager: pager, in: pasids))
        pasid = handle.pasid
    }

    static func page(_ number: UInt64) -> IOVARange {
        let first = 1 << 32 + number * SharedMemory.pageSize
        return IOVARange(first: IOVA(first), last: IOVA(first + SharedMemory.pageSize - 1))
    }

    func map(_ page: IOVARange) throws(DMAError) { try space.map(memory, page) }

    func end() {
        device.remove()
        queue.stop()
    }
}

/// Brings pages of the memory that all mappings show.
private struct SharedMemoryPager: Pager {
    let memory: MemoryObject

    func makeAccessible(_ page: IOVARange, for rights: AccessRights, in space: IOAddressSpace) -> PagingOutcome {
        do throws(DMAError) {
            try space.map(memory, page)
            return .accessible
        } catch {
            return .refused
        }
    }
}

extension IOAddressSpace {
    fileprivate func map(_ memory: MemoryObject, _ page: IOVARange) throws(DMAError) {
        let offset = UInt64(SharedMemory.offset(of: page.first))
        try map(.file(memory, offset: offset), at: page.first, byteCount: page.byteCount, rights: [.read, .write])
    }
}
