import DMA
import Glibc
import LinuxHost
import Testing

let page: UInt64 = 4096

func iova(_ value: UInt64) -> IOVA { IOVA(value) }

/// The addresses from `first` to `last`, as in the test's prose.
func range(_ first: UInt64, _ last: UInt64) -> IOVARange { IOVARange(first: IOVA(first), last: IOVA(last)) }

/// `count` pages from page number `first` on.
func pages(_ first: UInt64, _ count: UInt64 = 1) -> IOVARange {
    range(first * page, first * page + (count * page - 1))
}

extension IOAddressSpace {
    /// Maps pages of an object at the same page number of the space, readable and writable.
    func map(_ object: MemoryObject, pages range: IOVARange, rights: AccessRights = [.read, .write]) throws(DMAError) {
        try map(
            .file(object, offset: range.first.rawValue), at: range.first, byteCount: range.byteCount, rights: rights)
    }

    var ranges: [IOVARange] { mappings().map(\.range) }

    /// The number of attached accesses, as the picture of the space tells it.
    var accessCount: Int {
        let words = description.prefix { $0 != "\n" }.split(separator: " ")
        guard let index = words.firstIndex(of: "accesses,"), index > 0 else { return -1 }
        return Int(words[index - 1]) ?? -1
    }
}

/// Whether assertions are checked in the module under test, as they are unless it was optimised.
var isDebugBuild: Bool {
    var isDebug = false
    assert(
        {
            isDebug = true
            return true
        }())
    return isDebug
}

extension DMAAccess {
    func read(_ range: IOVARange) throws(DMAError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: Int(range.byteCount))
        let result: Result<Void, DMAError> = unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(DMAError) {
                return .success(unsafe try read(range, into: buffer))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
        return bytes
    }

    func write(_ bytes: [UInt8], to iova: IOVA) throws(DMAError) {
        let result: Result<Void, DMAError> = unsafe bytes.withUnsafeBytes { buffer in
            do throws(DMAError) {
                return .success(unsafe try write(buffer, to: iova))
            } catch {
                return .failure(error)
            }
        }
        try result.get()
    }
}

extension MemoryObject {
    func byte(_ offset: UInt64) -> UInt8 { unsafe bytes[Int(offset)] }

    func isFilled(_ range: IOVARange, with byte: UInt8) -> Bool {
        guard let start = unsafe bytes.baseAddress?.advanced(by: Int(range.first.rawValue)) else { return false }
        let expected = [UInt8](repeating: byte, count: Int(range.byteCount))
        return unsafe memcmp(start, expected, expected.count) == 0
    }

    func fill(_ range: IOVARange, with byte: UInt8) {
        unsafe UnsafeMutableRawBufferPointer(
            rebasing: bytes[Int(range.first.rawValue)...Int(range.last.rawValue)]
        ).initializeMemory(as: UInt8.self, repeating: byte)
    }
}

extension PinnedMemory {
    /// The sizes of the segments, after each has been overwritten if `byte` is given.
    borrowing func segmentSizes(writing byte: UInt8? = nil) -> [Int] {
        var sizes: [Int] = []
        unsafe forEachSegment { segment in
            sizes.append(segment.count)
            if let byte { unsafe segment.initializeMemory(as: UInt8.self, repeating: byte) }
        }
        return sizes
    }
}

/// The error that `body` throws, `nil` when it throws none.
func errorOf(_ body: () throws(DMAError) -> Void) -> DMAError? {
    do throws(DMAError) {
        try body()
        return nil
    } catch {
        return error
    }
}

/// How many descriptors of this process are open on files whose name contains `name`.
func openDescriptorCount(of name: String) throws -> Int {
    guard let directory = unsafe opendir("/proc/self/fd") else { throw DMAError(errno: errno) }
    defer { unsafe closedir(directory) }
    var count = 0
    while let entry = unsafe readdir(directory) {
        let number = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
            unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
        }
        var target = [CChar](repeating: 0, count: 256)
        let length = unsafe readlink("/proc/self/fd/\(number)", &target, target.count - 1)
        if length > 0, unsafe strstr(target, name) != nil { count += 1 }
    }
    return count
}

/// The lines of `/proc/self/maps` that name memory of a kind.
func mappedMemoryCount(containing name: String) throws -> Int {
    guard let file = unsafe fopen("/proc/self/maps", "r") else { throw DMAError(errno: errno) }
    defer { unsafe fclose(file) }
    var line = [CChar](repeating: 0, count: 4096)
    var count = 0
    while unsafe fgets(&line, Int32(line.count), file) != nil {
        if unsafe strstr(line, name) != nil { count += 1 }
    }
    return count
}

/// A value that the threads of a test share.
final class Shared<Value: Sendable>: Sendable {
    private let monitor: Monitor<Value>

    init(_ value: Value) { monitor = Monitor(value) }

    var value: Value { monitor.withLock { $0 } }

    func update<Result>(_ body: (inout Value) -> Result) -> Result { monitor.update { body(&$0) } }

    func wait(until isDone: (Value) -> Bool) { monitor.wait { isDone($0) ? () : nil } }
}

/// Keeps a thread busy, for what must not wait but take its time in a test.
func dawdle(until flag: Shared<Bool>) {
    while !flag.value { sched_yield() }
}

/// An object over a descriptor that does not allow writing.
func readOnlyObject(byteCount: UInt64 = 64 * page) throws -> MemoryObject {
    let file = try OwnedDescriptor.anonymousMemory(name: "read-only", byteCount: Int(byteCount))
    let number = unsafe open("/proc/self/fd/\(file.rawValue)", O_RDONLY | O_CLOEXEC)
    return try MemoryObject(adopting: number)
}

/// An open descriptor, remembered by what it is open on: the number alone may soon be another file's.
struct OpenFile {
    let number: Int32
    private let name: String

    init(_ number: Int32) {
        self.number = number
        name = OpenFile.name(of: number)
    }

    var isOpen: Bool { !name.isEmpty && OpenFile.name(of: number) == name }

    /// Empty for a number that is not open.
    private static func name(of number: Int32) -> String {
        var target = [CChar](repeating: 0, count: 256)
        let count = unsafe readlink("/proc/self/fd/\(number)", &target, target.count)
        return String(decoding: target.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
    }
}

/// The lines of a text file, without their ends.
func lines(of path: String) throws -> [String] {
    guard let file = unsafe fopen(path, "re") else { throw DMAError(errno: errno) }
    defer { unsafe fclose(file) }
    var lines: [String] = []
    var line: UnsafeMutablePointer<CChar>?
    var capacity = 0
    defer { unsafe free(line) }
    while unsafe getline(&line, &capacity, file) > 0 {
        guard let start = unsafe line else { break }
        lines.append(unsafe String(String(cString: start).prefix { $0 != "\n" }))
    }
    return lines
}
