import CLinuxShims
import Glibc
import LinuxHost
import Randomness
import VFIOUserCheck

/// The descriptors that a client attaches to its messages, and the memory behind some of them.
///
/// Files of guest memory are made anew for each session, full of a pattern, and never mapped here: so a mapping of one
/// that is left when the session is over is the server's, and a byte that differs where nothing was mapped is its doing.
final class GuestFiles {
    /// What a descriptor can be of.
    enum Kind: Int, CaseIterable {
        case memory, smallMemory, unevenMemory, readOnlyMemory
        case counter, secondCounter, thirdCounter, fullCounter
        case socket, orphanedSocket, pipeReader, pipeWriter, null, zero, directory, sealedMemory
    }

    /// A part of a file that the device may have changed.
    struct Touched {
        let offset, byteCount: UInt64
    }

    static let byteCounts = [0x10000, 0x1000, 0x5800]

    private final class Held {
        let descriptor: OwnedDescriptor

        init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }
    }

    private var memory: [Held?] = [nil, nil, nil]
    private var readOnly: Held?
    private let permanent: [Kind: Held]
    private let counters: [EventCounter]
    private var usedCounters = false
    /// One period longer than the largest file, so that it can begin anywhere in the first.
    private let pattern: [UInt8]
    private var phase = 0
    private var contents: [UInt8]

    init() throws {
        var random = SeededNumbers(seed: 0x6f7574626f617264)
        pattern = random.bytes(0x10000 + 0x1000)
        contents = [UInt8](repeating: 0, count: 0x10000)
        counters = try (0..<3).map { _ in try EventCounter() }
        var permanent: [Kind: Held] = [:]
        // Blocking and full: whoever writes to it without asking waits for ever.
        let full = eventfd(0, Int32(EFD_CLOEXEC))
        var value = UInt64.max - 1
        guard full >= 0, unsafe write(full, &value, 8) == 8 else { throw Errno(rawValue: errno) }
        permanent[.fullCounter] = Held(OwnedDescriptor(adopting: full))
        permanent[.socket] = Held(try Self.call { Glibc.socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0) })
        var ends: [Int32] = [-1, -1]
        guard unsafe socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else {
            throw Errno(rawValue: errno)
        }
        permanent[.orphanedSocket] = Held(OwnedDescriptor(adopting: ends[0]))
        close(ends[1])
        guard unsafe pipe(&ends) == 0 else { throw Errno(rawValue: errno) }
        permanent[.pipeReader] = Held(OwnedDescriptor(adopting: ends[0]))
        permanent[.pipeWriter] = Held(OwnedDescriptor(adopting: ends[1]))
        permanent[.null] = Held(try Self.call { unsafe open("/dev/null", O_RDWR | O_CLOEXEC) })
        permanent[.zero] = Held(try Self.call { unsafe open("/dev/zero", O_RDWR | O_CLOEXEC) })
        permanent[.directory] = Held(try Self.call { unsafe open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) })
        let sealed = try OwnedDescriptor.anonymousMemory(name: "sealed", byteCount: 0x4000)
        try sealed.add([.write, .shrink, .grow])
        permanent[.sealedMemory] = Held(sealed)
        self.permanent = permanent
    }

    private static func call(_ body: () -> Int32) throws -> OwnedDescriptor {
        let descriptor = body()
        guard descriptor >= 0 else { throw Errno(rawValue: errno) }
        return OwnedDescriptor(adopting: descriptor)
    }

    /// The number of a descriptor of some kind, which stays ours.
    func number(of kind: Kind) throws(Finding) -> Int32 {
        switch kind {
        case .memory: return try file(0).descriptor.rawValue
        case .smallMemory: return try file(1).descriptor.rawValue
        case .unevenMemory: return try file(2).descriptor.rawValue
        case .readOnlyMemory:
            if let readOnly { return readOnly.descriptor.rawValue }
            let path = "/proc/self/fd/\(try file(0).descriptor.rawValue)"
            let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw Finding("\(path) cannot be opened") }
            readOnly = Held(OwnedDescriptor(adopting: descriptor))
            return descriptor
        case .counter, .secondCounter, .thirdCounter:
            usedCounters = true
            return counters[kind.rawValue - Kind.counter.rawValue].rawDescriptor
        case .fullCounter, .socket, .orphanedSocket, .pipeReader, .pipeWriter, .null, .zero, .directory, .sealedMemory:
            guard let held = permanent[kind] else { throw Finding("no \(kind)") }
            return held.descriptor.rawValue
        }
    }

    func signal(_ number: Int) {
        usedCounters = true
        counters[number % counters.count].signal()
    }

    private func file(_ index: Int) throws(Finding) -> Held {
        if let held = memory[index] { return held }
        do throws(Errno) {
            let held = Held(try OwnedDescriptor.anonymousMemory(name: "guest", byteCount: Self.byteCounts[index]))
            memory[index] = held
            try fill(index, held)
            return held
        } catch {
            throw Finding("no memory for a guest: \(error)")
        }
    }

    private func fill(_ index: Int, _ held: Held) throws(Errno) {
        let count = Self.byteCounts[index]
        let written = unsafe pattern.withUnsafeBytes { bytes in
            unsafe pwrite(held.descriptor.rawValue, bytes.baseAddress.map { unsafe $0 + phase }, count, 0)
        }
        guard written == count else { throw Errno(rawValue: errno) }
    }

    /// Puts bytes into the first file, as a driver in the guest does.
    func put(_ bytes: [UInt8], at offset: UInt64) throws(Finding) {
        guard offset < UInt64(Self.byteCounts[0]) else { return }
        let held = try file(0)
        let count = min(bytes.count, Self.byteCounts[0] - Int(offset))
        let written = unsafe bytes.withUnsafeBytes { buffer in
            unsafe pwrite(held.descriptor.rawValue, buffer.baseAddress, count, off_t(offset))
        }
        try require(written == count, "guest memory took \(written) of \(count) bytes")
    }

    /// Bytes of the first file, zeroes past its end.
    func get(at offset: UInt64, count: Int) throws(Finding) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        guard count > 0, offset < UInt64(Self.byteCounts[0]) else { return bytes }
        let held = try file(0)
        let wanted = min(count, Self.byteCounts[0] - Int(offset))
        let read = unsafe bytes.withUnsafeMutableBytes { buffer in
            unsafe pread(held.descriptor.rawValue, buffer.baseAddress, wanted, off_t(offset))
        }
        try require(read == wanted, "guest memory gave \(read) of \(wanted) bytes")
        return bytes
    }

    /// Compares every byte that no mapping has covered with what it was.
    func verify(except touched: [Touched]) throws(Finding) {
        for (index, held) in memory.enumerated() {
            guard let held else { continue }
            let count = Self.byteCounts[index]
            let read = unsafe contents.withUnsafeMutableBytes { buffer in
                unsafe pread(held.descriptor.rawValue, buffer.baseAddress, count, 0)
            }
            try require(read == count, "guest memory has \(read) of \(count) bytes")
            if isUntouched(count) { continue }
            var mayDiffer = [Bool](repeating: false, count: count)
            for part in touched where part.offset < UInt64(count) {
                let end = part.offset + min(part.byteCount, UInt64(count) - part.offset)
                for place in Int(part.offset)..<Int(end) { mayDiffer[place] = true }
            }
            for place in 0..<count where !mayDiffer[place] {
                try require(
                    contents[place] == pattern[phase + place],
                    "byte \(place) of file \(index) has changed, and no mapping covers it")
            }
        }
    }

    private func isUntouched(_ count: Int) -> Bool {
        unsafe contents.withUnsafeBytes { contents in
            unsafe pattern.withUnsafeBytes { pattern in
                guard let left = contents.baseAddress, let right = pattern.baseAddress else { return false }
                return unsafe memcmp(left, right + phase, count) == 0
            }
        }
    }

    /// Fills the files with another pattern, once nobody has them mapped.
    func renew() throws(Finding) {
        phase = (phase + 257) % 0x1000
        for (index, held) in memory.enumerated() {
            guard let held else { continue }
            do throws(Errno) {
                try fill(index, held)
            } catch {
                throw Finding("guest memory cannot be written: \(error)")
            }
        }
    }

    /// Forgets the session's files.
    func end() {
        memory = [nil, nil, nil]
        readOnly = nil
        phase = 0
        if usedCounters { for counter in counters { counter.drain() } }
        usedCounters = false
    }
}
