import DMA
import Glibc
import LinuxHost
import SVA
import Testing

let page: UInt64 = 4096

func iova(_ value: UInt64) -> IOVA { IOVA(value) }

/// `count` bytes from the start of page number `first` on.
func bytes(_ count: UInt64, ofPage first: UInt64) -> IOVARange {
    IOVARange(first: IOVA(first * page), last: IOVA(first * page + (count - 1)))
}

/// `count` pages from page number `first` on.
func pages(_ first: UInt64, _ count: UInt64 = 1) -> IOVARange { bytes(count * page, ofPage: first) }

func pasid(_ number: UInt32) -> PASID {
    guard let pasid = PASID(rawValue: number) else { preconditionFailure("\(number) is no PASID") }
    return pasid
}

func index(_ number: UInt16) -> PageRequestGroupIndex {
    guard let index = PageRequestGroupIndex(rawValue: number) else { preconditionFailure("\(number) is no index") }
    return index
}

/// A value that the threads of a test share.
final class Shared<Value: Sendable>: Sendable {
    private let monitor: Monitor<Value>

    init(_ value: Value) { monitor = Monitor(value) }

    var value: Value { monitor.withLock { $0 } }

    func update<Result>(_ body: (inout Value) -> Result) -> Result { monitor.update { body(&$0) } }

    func wait(until isDone: (Value) -> Bool) { monitor.wait { isDone($0) ? () : nil } }
}

/// Runs something when the last reference goes.
final class AtEnd: Sendable {
    private let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) { self.body = body }

    deinit { body() }
}

/// Numbers that are the same for the same seed, whatever the library does. SplitMix64
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var value = state
        value = (value ^ (value >> 30)) &* 0xbf58_476d_1ce4_e5b9
        value = (value ^ (value >> 27)) &* 0x94d0_49bb_1331_11eb
        return value ^ (value >> 31)
    }
}

/// The error that `body` throws, `nil` when it throws none.
func errorOf<Failure: Error>(_ body: () throws(Failure) -> Void) -> Failure? {
    do throws(Failure) {
        try body()
        return nil
    } catch {
        return error
    }
}

/// Runs what meets pins that stay on purpose, so that the lock checker that watches the process, if one does, does not hear of
/// it: one of its own may report such pins, and nothing else.
@discardableResult
func keepingPins<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure) -> Result {
    guard LockChecker.isOn else { return try body() }
    let checker = LockChecker()
    defer { #expect(checker.reports.filter { !$0.isMatterOfTime && $0.kind != .lostPin } == []) }
    return try checker.record(body)
}

/// A record of what devices and queues do.
final class Record: Sendable {
    private let list = Shared<[SVAEvent]>([])

    var sink: SVATrace { { [list] event in list.update { $0.append(event) } } }
    var events: [SVAEvent] { list.value }

    func count(_ isMeant: (SVAEvent) -> Bool) -> Int { events.count(where: isMeant) }

    func wait(until isDone: ([SVAEvent]) -> Bool) { list.wait(until: isDone) }

    var requests: [PageRequest] {
        events.compactMap { if case .requested(let request) = $0 { request } else { nil } }
    }

    var answers: [PageResponse] {
        events.compactMap { if case .answered(let response) = $0 { response } else { nil } }
    }

    /// The events but those of single faults.
    var steps: [SVAEvent] {
        events.filter {
            switch $0 {
            case .requested, .answered, .unrecoverable: false
            default: true
            }
        }
    }

    /// The steps from the first reset or removal on.
    var removalSteps: [SVAEvent] { Array(steps.drop { $0 != .workStopped }) }

    /// The number of last requests less that of answers, by group index; empty when each was answered once.
    var unbalanced: [PageRequestGroupIndex: Int] {
        var balance: [PageRequestGroupIndex: Int] = [:]
        for request in requests where request.isLast { balance[request.group, default: 0] += 1 }
        for answer in answers { balance[answer.group, default: 0] -= 1 }
        return balance.filter { $0.value != 0 }
    }
}

/// Brings the pages of a memory object, each to the address that is its offset, and refuses all others.
final class ObjectPager: Pager {
    let object: MemoryObject
    private let rights: AccessRights
    private let hook: @Sendable (_ page: UInt64) -> Void
    private let asked = Shared<[UInt64]>([])

    /// - Parameter hook: called first, with the number of the page.
    init(
        _ object: MemoryObject, rights: AccessRights = [.read, .write],
        hook: @escaping @Sendable (_ page: UInt64) -> Void = { _ in }
    ) {
        self.object = object
        self.rights = rights
        self.hook = hook
    }

    /// The pages it was asked for, by number.
    var askedPages: [UInt64] { asked.value }

    func waitUntilAsked(_ count: Int = 1) { asked.wait { $0.count >= count } }

    func makeAccessible(_ range: IOVARange, for rights: AccessRights, in space: IOAddressSpace) -> PagingOutcome {
        let number = range.first.rawValue / page
        asked.update { $0.append(number) }
        hook(number)
        guard range.last.rawValue < UInt64(object.byteCount), self.rights.isSuperset(of: rights) else {
            return .refused
        }
        let backing = MappingBacking.file(object, offset: range.first.rawValue)
        while true {
            let error = errorOf { () throws(DMAError) in
                try space.map(backing, at: range.first, byteCount: page, rights: self.rights)
            }
            guard let error else { return .accessible }
            guard error == .exists || error == .busy else { return .refused }
            if space.hasMapping(backing, at: range, rights: self.rights) { return .accessible }
            // Somebody is just unmapping it.
            sched_yield()
        }
    }
}

/// A process in small: memory that begins with its mark, a space, a pager and a context.
final class Process: Sendable {
    let object: MemoryObject
    let space: IOAddressSpace
    let pager: ObjectPager
    let context: AddressSpaceContext

    init(
        _ pasids: PASIDSpace, mark: UInt8 = 1, pageCount: Int = 16, rights: AccessRights = [.read, .write],
        unmapWait: Duration = .milliseconds(100), hook: @escaping @Sendable (_ page: UInt64) -> Void = { _ in }
    ) throws {
        object = try MemoryObject.anonymous(byteCount: pageCount * Int(page))
        unsafe object.bytes.initializeMemory(as: UInt8.self, repeating: mark)
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 20
        configuration.unmapWait = unmapWait
        space = IOAddressSpace(configuration)
        pager = ObjectPager(object, rights: rights, hook: hook)
        context = AddressSpaceContext(space, pager: pager, in: pasids)
    }

    /// Maps a page as the process itself would, without anybody asking.
    func map(_ number: UInt64) throws {
        try space.map(.file(object, offset: number * page), at: IOVA(number * page), byteCount: page, rights: .read)
    }
}

/// A system of devices: a PASID space, a queue, a record.
final class System: Sendable {
    let pasids = PASIDSpace()
    let queue: FaultQueue
    let record = Record()

    init(threads: Int = 2, responseTime: Duration = .seconds(60)) throws {
        var configuration = FaultQueue.Configuration()
        configuration.threadCount = threads
        configuration.responseTime = responseTime
        queue = try FaultQueue(configuration)
    }

    func device(
        queue: FaultQueue? = nil, started: Bool = true, _ change: (inout SVADevice.Configuration) -> Void = { _ in }
    ) throws -> SVADevice {
        var configuration = SVADevice.Configuration()
        // No test is about how long these are, and a busy machine must not make them matter.
        configuration.flushTime = .seconds(60)
        configuration.requestPatience = .seconds(60)
        change(&configuration)
        let device = SVADevice(configuration, in: pasids, faultQueue: queue ?? self.queue, trace: record.sink)
        if started { try device.start() }
        return device
    }

    func process(
        mark: UInt8 = 1, pageCount: Int = 16, rights: AccessRights = [.read, .write],
        hook: @escaping @Sendable (_ page: UInt64) -> Void = { _ in }
    ) throws -> Process {
        try Process(pasids, mark: mark, pageCount: pageCount, rights: rights, hook: hook)
    }
}

extension SVADevice {
    func read(_ range: IOVARange, _ pasid: PASID?) throws(AccessFailure) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(range.byteCount))
        let result: Result<Void, AccessFailure> = unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(AccessFailure) {
                return .success(unsafe try read(range, pasid: pasid, into: buffer))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
        return bytes
    }

    func write(_ bytes: [UInt8], to iova: IOVA, _ pasid: PASID?) throws(AccessFailure) {
        let result: Result<Void, AccessFailure> = unsafe bytes.withUnsafeBytes { buffer in
            do throws(AccessFailure) {
                return .success(unsafe try write(buffer, to: iova, pasid: pasid))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
    }

    /// The first byte of a page, or why it cannot be read.
    func mark(_ pasid: PASID?, page number: UInt64 = 0) -> Result<UInt8, AccessFailure> {
        do throws(AccessFailure) {
            return .success(try read(bytes(1, ofPage: number), pasid)[0])
        } catch {
            return .failure(error)
        }
    }
}

/// A pin that threads share.
final class PinBox: @unchecked Sendable {  // Only who takes the box out of its place under a lock touches the pin.
    private var pin: PinnedMemory?

    init(_ pin: consuming PinnedMemory) { self.pin = consume pin }

    func unpin() { pin.take()?.unpin() }
}

/// Memory of a peer that is reached by calls. Reads and writes past its end are refused.
final class PeerBytes: RemoteMemory {
    private let state: Monitor<[UInt8]>
    private let base: UInt64

    /// - Parameter base: the address of the first byte.
    init(count: Int, at base: UInt64 = page) {
        state = Monitor([UInt8](repeating: 0, count: count))
        self.base = base
    }

    var bytes: [UInt8] { state.withLock { $0 } }

    func setFirst(_ byte: UInt8) { state.withLock { $0[0] = byte } }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        let part = try part(buffer.count, at: iova)
        state.withLock { bytes in for (index, byte) in bytes[part].enumerated() { unsafe buffer[index] = byte } }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        let part = try part(bytes.count, at: iova)
        state.withLock { own in for (index, place) in part.enumerated() { own[place] = unsafe bytes[index] } }
    }

    func revoke() {}

    private func part(_ count: Int, at iova: IOVA) throws(DMAError) -> Range<Int> {
        guard iova.rawValue >= base, iova.rawValue - base <= UInt64(bytes.count - count) else { throw .badAddress }
        let first = Int(iova.rawValue - base)
        return first..<first + count
    }
}
