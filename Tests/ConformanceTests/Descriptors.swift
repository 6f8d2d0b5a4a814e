import Glibc
import LinuxHost

/// What this process holds of an open file, which the test and the server it runs share.
enum Open {
    /// The descriptors for the same file as `descriptor`, itself among them.
    static func descriptors(like descriptor: Int32) throws -> [Int32] {
        let wanted = try identity(of: descriptor)
        return try all().filter { (try? identity(of: $0)) == wanted }
    }

    static func count(like descriptor: Int32) throws -> Int { try descriptors(like: descriptor).count }

    static func all() throws -> [Int32] {
        guard let directory = unsafe opendir("/proc/self/fd") else { throw Errno(rawValue: errno) }
        defer { unsafe closedir(directory) }
        let own = unsafe dirfd(directory)
        var found: [Int32] = []
        while let entry = unsafe readdir(directory) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if let number = Int32(name), number != own { found.append(number) }
        }
        return found
    }

    /// How many mappings of the file behind `descriptor` this process has.
    static func mappingCount(of descriptor: Int32) throws -> Int {
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw Errno(rawValue: errno) }
        let inode = " \(status.st_ino) "
        return try lines(of: "/proc/self/maps").filter { $0.contains(inode) && $0.contains("/memfd:") }.count
    }

    private enum Identity: Hashable {
        case file(device: UInt64, inode: UInt64)
        /// All event counters are one inode to `fstat`.
        case eventCounter(String)
    }

    private static func identity(of descriptor: Int32) throws -> Identity {
        let information = (try? lines(of: "/proc/self/fdinfo/\(descriptor)")) ?? []
        if let id = information.first(where: { $0.hasPrefix("eventfd-id:") }) { return .eventCounter(id) }
        var status = stat()
        guard unsafe fstat(descriptor, &status) == 0 else { throw Errno(rawValue: errno) }
        return .file(device: UInt64(status.st_dev), inode: UInt64(status.st_ino))
    }
}

/// The lines of a text file.
func lines(of path: String) throws -> [String] {
    guard let file = unsafe fopen(path, "re") else { throw Errno(rawValue: errno) }
    defer { unsafe fclose(file) }
    var text: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 65536)
    while true {
        let count = unsafe fread(&buffer, 1, buffer.count, file)
        guard count > 0 else { break }
        text += buffer.prefix(count)
    }
    return String(decoding: text, as: UTF8.self).split(separator: "\n", omittingEmptySubsequences: false).map(
        String.init)
}

/// Memory of the client: a memfd, mapped here so that the test can look at it.
final class ClientMemoryFile {
    let descriptor: OwnedDescriptor
    private let mapping: MemoryMapping

    init(byteCount: Int) throws {
        descriptor = try OwnedDescriptor.anonymousMemory(name: "client", byteCount: byteCount)
        mapping = try MemoryMapping(of: descriptor, byteCount: byteCount, isWritable: true)
    }

    var number: Int32 { descriptor.rawValue }

    subscript(range: Range<Int>) -> [UInt8] {
        get { unsafe Array(mapping.bytes[range]) }
        set { unsafe UnsafeMutableRawBufferPointer(rebasing: mapping.bytes[range]).copyBytes(from: newValue) }
    }
}

func openFile(_ path: String, _ flags: Int32) throws -> HeldDescriptor {
    let descriptor = unsafe open(path, flags | O_CLOEXEC)
    guard descriptor >= 0 else { throw Errno(rawValue: errno) }
    return HeldDescriptor(OwnedDescriptor(adopting: descriptor))
}

/// A pipe's two ends.
func makePipe() throws -> (reading: HeldDescriptor, writing: HeldDescriptor) {
    var ends: [Int32] = [-1, -1]
    guard unsafe pipe(&ends) == 0 else { throw Errno(rawValue: errno) }
    return (
        HeldDescriptor(OwnedDescriptor(adopting: ends[0])), HeldDescriptor(OwnedDescriptor(adopting: ends[1]))
    )
}

func eventCounters(_ count: Int) throws -> [EventCounter] {
    try (0..<count).map { _ in try EventCounter() }
}

extension EventCounter {
    /// Waits for the first signal and returns how many there were.
    func waitForSignal() throws -> UInt64 {
        var request = pollfd(fd: rawDescriptor, events: Int16(POLLIN), revents: 0)
        guard unsafe poll(&request, 1, 120_000) == 1 else { throw PeerFailure.tookTooLong }
        return drain()
    }
}

/// Asks again and again until the answer is yes; gives up when only a broken server would not have come to it.
func eventually(_ isTrue: () throws -> Bool) throws {
    let deadline = MonotonicInstant.after(.seconds(120))
    while try !isTrue() {
        guard MonotonicInstant.now < deadline else { throw PeerFailure.tookTooLong }
        usleep(200)
    }
}

/// `count` bytes of a recognisable pattern.
func pattern(_ count: Int, seed: UInt8 = 1) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 >> 8 &+ Int(seed)) }
}
