import Glibc
import LinuxHost

/// Runs a system call of this side, whose failure is nobody's fault but this machine's.
func onThisMachine<Result: ~Copyable>(_ body: () throws(Errno) -> Result) throws(Outcome) -> Result {
    do throws(Errno) {
        return try body()
    } catch {
        throw .notJudged("this machine: \(error)")
    }
}

func eventCounters(_ count: Int) throws(Outcome) -> [EventCounter] {
    var counters: [EventCounter] = []
    for _ in 0..<count { counters.append(try onThisMachine { () throws(Errno) in try EventCounter() }) }
    return counters
}

/// Descriptors to give away that tell when the last of them has been closed: the ends of pipes.
final class PipeWitness {
    private let reading: OwnedDescriptor
    private var given: [Int32]
    private let poller: Poller

    /// - Parameter copies: how many descriptors there are to give away.
    init(copies: Int = 1) throws(Outcome) {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { throw .notJudged("this machine: no pipes") }
        reading = OwnedDescriptor(adopting: ends[0])
        given = [Int32](repeating: ends[1], count: copies)
        poller = try onThisMachine { () throws(Errno) in try Poller() }
    }

    deinit { close() }

    /// What goes along with a message; the same open file as often as asked for.
    var descriptors: [Int32] { given }

    /// Lets go of this side's own.
    private func close() {
        if let own = given.first { _ = OwnedDescriptor(adopting: own) }
        given = []
    }

    /// Whether the server lets go of all it was sent within `time`. Nothing more can be given away afterwards.
    func isReleased(within time: Duration) throws(Outcome) -> Bool {
        close()
        return try onThisMachine { () throws(Errno) in
            try poller.add(reading.rawValue, token: 0, interest: .readable)
            defer { poller.remove(reading.rawValue) }
            return try !poller.wait(timeout: time).isEmpty
        }
    }

    /// Whether somebody has written into the pipe.
    func wasWrittenTo() throws(Outcome) -> Bool {
        try onThisMachine { () throws(Errno) in
            let poller = try Poller()
            try poller.add(reading.rawValue, token: 0, interest: .readable)
            return try !poller.wait(timeout: .milliseconds(50)).isEmpty
        }
    }
}

/// Memory of this client that can tell whether the server still holds on to it, by a descriptor or by a mapping.
///
/// A lock of an open file lasts as long as anything refers to that open file, a mapping included. So the file is locked
/// through the open file that the server gets, and whether it is still locked is asked through another. `flock(2)`
final class MemoryWitness {
    let memory: LocalMemory
    private let ownOpening: OwnedDescriptor
    private var givenOpening: Int32?

    init(byteCount: Int) throws(Outcome) {
        memory = try LocalMemory(byteCount: byteCount)
        let path = "/proc/self/fd/\(memory.rawDescriptor)"
        let own = unsafe open(path, O_RDWR | O_CLOEXEC)
        let given = unsafe open(path, O_RDWR | O_CLOEXEC)
        guard own >= 0, given >= 0, flock(given, LOCK_EX | LOCK_NB) == 0 else {
            if own >= 0 { Glibc.close(own) }
            if given >= 0 { Glibc.close(given) }
            throw .notJudged("this machine: memory cannot be locked")
        }
        ownOpening = OwnedDescriptor(adopting: own)
        givenOpening = given
    }

    deinit { if let givenOpening { Glibc.close(givenOpening) } }

    /// The descriptor to send.
    var descriptor: Int32 { givenOpening ?? -1 }

    /// Lets go of this side's own, so that the server's are the only ones.
    func giveAway() {
        if let givenOpening { Glibc.close(givenOpening) }
        givenOpening = nil
    }

    /// Whether the server holds nothing of it now.
    var isReleased: Bool {
        guard flock(ownOpening.rawValue, LOCK_EX | LOCK_NB) == 0 else { return false }
        _ = flock(ownOpening.rawValue, LOCK_UN)
        return true
    }

    /// Whether the server lets go of it within `time`.
    func isReleased(within time: Duration) -> Bool {
        let deadline = MonotonicInstant.after(time)
        while !isReleased {
            guard MonotonicInstant.now < deadline else { return false }
            usleep(1000)
        }
        return true
    }
}

/// A memfd, mapped here.
final class LocalMemory {
    private let descriptor: OwnedDescriptor
    private let mapping: MemoryMapping

    init(byteCount: Int) throws(Outcome) {
        let descriptor = try onThisMachine { () throws(Errno) in
            try OwnedDescriptor.anonymousMemory(name: "vfio-user check", byteCount: byteCount)
        }
        mapping = try onThisMachine { () throws(Errno) in
            try MemoryMapping(of: descriptor, byteCount: byteCount, isWritable: true)
        }
        self.descriptor = descriptor
    }

    var rawDescriptor: Int32 { descriptor.rawValue }

    /// The bytes of `range`, which the memory has.
    func read(_ range: Range<Int>) -> [UInt8] { unsafe [UInt8](mapping.bytes[range]) }

    /// Stores bytes, for which there is room.
    func write(_ bytes: [UInt8], at offset: Int) {
        let room = unsafe mapping.bytes.count
        precondition(offset >= 0 && bytes.count <= room - offset, "outside of the memory")
        unsafe UnsafeMutableRawBufferPointer(rebasing: mapping.bytes[offset..<offset + bytes.count])
            .copyBytes(from: bytes)
    }
}

/// Bytes of a file that a server gave, which may be shorter than the server says.
func mappedBytes(_ descriptor: HeldDescriptor, _ first: Int, _ count: Int) throws(Outcome) -> [UInt8] {
    try onThisMachine { () throws(Errno) in
        guard try descriptor.owned.status().size >= Int64(first + count) else { throw .invalidArgument }
        let mapping = try MemoryMapping(of: descriptor.owned, byteCount: first + count, isWritable: false)
        return unsafe [UInt8](mapping.bytes[first..<first + count])
    }
}

/// `count` bytes of a recognisable pattern.
func pattern(_ count: Int, seed: UInt8) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8 &+ Int(seed)) }
}

func pause(_ time: Duration) {
    usleep(UInt32(clamping: time.components.attoseconds / 1_000_000_000_000))
}

/// Tells the other side that nothing more will come, and still listens to it.
func endSending(_ socket: UNIXSocket) { _ = shutdown(socket.descriptor.rawValue, Int32(SHUT_WR)) }

/// Whether a counter is signalled within a time.
func isSignalled(_ counter: EventCounter, within time: Duration) throws(Outcome) -> Bool {
    try onThisMachine { () throws(Errno) in
        let poller = try Poller()
        try poller.add(counter.rawDescriptor, token: 0, interest: .readable)
        return try !poller.wait(timeout: time).isEmpty && counter.drain() > 0
    }
}

/// An event counter that blocks whoever adds to it: as high as one goes.
func fullBlockingCounter() throws(Outcome) -> EventCounter {
    let counter = try eventCounters(1)[0]
    let flags = fcntl(counter.rawDescriptor, F_GETFL)
    var highest = UInt64.max - 1
    guard flags >= 0, fcntl(counter.rawDescriptor, F_SETFL, flags & ~O_NONBLOCK) == 0,
        unsafe write(counter.rawDescriptor, &highest, 8) == 8
    else { throw .notJudged("this machine: no event counter can be filled") }
    return counter
}
