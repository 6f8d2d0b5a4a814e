import Glibc
import LinuxHost

/// A directory that goes with its last reference, and with it the files in it.
final class TemporaryDirectory: Sendable {
    let path: String

    init() throws(Errno) {
        var template = Array("/tmp/outboard-XXXXXX".utf8CString)
        guard unsafe mkdtemp(&template) != nil else { throw Errno(rawValue: errno) }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        if let directory = unsafe opendir(path) {
            while let entry = unsafe readdir(directory) {
                let name = unsafe withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                    unsafe pointer.withMemoryRebound(to: CChar.self, capacity: 256) { unsafe String(cString: $0) }
                }
                _ = unsafe unlink(path + "/" + name)
            }
            unsafe closedir(directory)
        }
        _ = unsafe rmdir(path)
    }

    func file(_ name: String) -> String { path + "/" + name }

    func exists(_ name: String) -> Bool { unsafe access(file(name), F_OK) == 0 }
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

func memoryFile(_ byteCount: Int = 4096) throws(Errno) -> OwnedDescriptor {
    try OwnedDescriptor.anonymousMemory(name: "test", byteCount: byteCount)
}

/// The error that `body` throws, `nil` when it throws none.
func errorOf(_ body: () throws(Errno) -> Void) -> Errno? {
    do throws(Errno) {
        try body()
        return nil
    } catch {
        return error
    }
}

extension UNIXSocket {
    func send(_ text: String, descriptors: consuming DescriptorBundle = DescriptorBundle()) throws(Errno) -> Int {
        let bytes = Array(text.utf8)
        let count: Result<Int, Errno> = unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                return .success(unsafe try send(buffer, descriptors: descriptors, waiting: false))
            } catch {
                return .failure(error)
            }
        }
        return try count.get()
    }

    /// The text that one read brings, its descriptors and whether some were lost.
    func receive(atMost count: Int = 4096, waiting: Bool = false) throws(Errno) -> Received {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
        defer { unsafe buffer.deallocate() }
        var received = unsafe try receive(into: buffer, waiting: waiting)
        let text = unsafe String(decoding: buffer.prefix(received.count), as: UTF8.self)
        let hasLost = received.lostDescriptors
        var descriptors = DescriptorBundle()
        while let descriptor = received.descriptors.takeFirst() { descriptors.append(descriptor) }
        return Received(text: text, hasLost: hasLost, descriptors: descriptors)
    }
}

struct Received: ~Copyable {
    let text: String
    let hasLost: Bool
    var descriptors: DescriptorBundle
}
