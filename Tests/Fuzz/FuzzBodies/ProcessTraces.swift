import CLinuxShims
import Glibc
import LinuxHost

/// What this process holds of the kernel: descriptors and mappings.
final class ProcessTraces {
    private var descriptorCount = 0
    private var mappedPages = ""

    init() throws {}

    /// Takes the present state as that without a client.
    func begin() throws {
        descriptorCount = try Self.countDescriptors()
        mappedPages = try Self.mappedPages()
    }

    /// A device's thread may be just letting go of what the session before had; nothing takes as long as this.
    private static let patience = 2000

    func check() throws(Finding) {
        var attempts = 0
        while true {
            let count = try Self.countDescriptors()
            if count == descriptorCount { break }
            attempts += 1
            try require(
                attempts < Self.patience, "\(count) descriptors instead of \(descriptorCount): \(Self.descriptors())")
            usleep(1000)
        }
        // The size of the address space tells whether it is worth a closer look: the heap grows now and then.
        let pages = try Self.mappedPages()
        guard pages != mappedPages else { return }
        mappedPages = pages
        attempts = 0
        while try Self.hasGuestMapping() {
            attempts += 1
            try require(attempts < Self.patience, "guest memory is still mapped")
            usleep(1000)
        }
    }

    private static func countDescriptors() throws(Finding) -> Int {
        // The kernel says how many there are as the folder's size, since 6.2.
        var status = stat()
        if unsafe stat("/proc/self/fd", &status) == 0, status.st_size > 0 { return Int(status.st_size) }
        guard let directory = unsafe opendir("/proc/self/fd") else { throw Finding("/proc/self/fd cannot be read") }
        defer { unsafe closedir(directory) }
        var count = 0
        while unsafe readdir(directory) != nil { count += 1 }
        return count
    }

    /// What every descriptor is of, as the kernel names it.
    private static func descriptors() -> String {
        var names: [String] = []
        for number in 0..<1024 {
            var target = [UInt8](repeating: 0, count: 128)
            let count = unsafe shim_read_link("/proc/self/fd/\(number)", &target, target.count)
            if count > 0 { names.append("\(number) \(String(decoding: target.prefix(count), as: UTF8.self))") }
        }
        return names.joined(separator: ", ")
    }

    private static func mappedPages() throws(Finding) -> String {
        String(decoding: try read("/proc/self/statm").prefix { $0 != UInt8(ascii: " ") }, as: UTF8.self)
    }

    /// No guest's file is mapped by anything but a server.
    private static func hasGuestMapping() throws(Finding) -> Bool {
        let text = try read("/proc/self/maps")
        let name = Array("/memfd:guest".utf8)
        return text.split(separator: UInt8(ascii: "\n")).contains { line in
            line.suffix(name.count + 12).indices.contains { line[$0...].starts(with: name) }
        }
    }

    private static func read(_ path: String) throws(Finding) -> [UInt8] {
        let descriptor = unsafe open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw Finding("\(path) cannot be opened") }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = unsafe Glibc.read(descriptor, &buffer, buffer.count)
            guard count > 0 else { return text }
            text += buffer[..<count]
        }
    }
}
