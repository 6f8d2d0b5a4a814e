import LinuxHost

/// The client's descriptors, made again: files in memory of the same sizes, event counters, sockets.
struct ReplayMemory {
    private final class File {
        let file: StorageFile
        let byteCount: UInt64

        init(byteCount: UInt64) throws(Errno) {
            guard let size = Int(exactly: byteCount) else { throw .invalidArgument }
            file = StorageFile(adopting: try OwnedDescriptor.anonymousMemory(name: "replayed memory", byteCount: size))
            self.byteCount = byteCount
        }

        func write(_ bytes: [UInt8], at offset: UInt64) throws(Errno) {
            guard offset <= byteCount, UInt64(bytes.count) <= byteCount - offset else { throw .invalidArgument }
            var failure: Errno?
            unsafe bytes.withUnsafeBytes { buffer in
                do throws(Errno) {
                    unsafe try file.write(buffer, at: Int64(offset))
                } catch {
                    failure = error
                }
            }
            if let failure { throw failure }
        }
    }

    private var files: [UInt32: File] = [:]

    /// New descriptors for what a message had; a file that comes again is the same file.
    mutating func descriptors(_ recorded: [RecordedDescriptor]) throws(Errno) -> DescriptorBundle {
        var bundle = DescriptorBundle()
        for descriptor in recorded {
            switch descriptor.kind {
            case .memory:
                let file = try file(descriptor)
                if descriptor.isWritable {
                    bundle.append(try file.file.descriptor.duplicate())
                } else {
                    let path = "/proc/self/fd/\(file.file.descriptor.rawValue)"
                    let readOnly = try StorageFile(openingPath: path, isWritable: false)
                    bundle.append(try readOnly.descriptor.duplicate())
                }
            case .eventCounter: bundle.append(try EventCounter().duplicateDescriptor())
            case .socket: bundle.append(try UNIXSocket.pair().0.descriptor.duplicate())
            case .other:
                let null = try StorageFile(openingPath: "/dev/null", isWritable: true)
                bundle.append(try null.descriptor.duplicate())
            }
        }
        return bundle
    }

    /// - Throws: `EINVAL` for a part that the file does not have.
    func store(_ memory: RecordedMemory) throws(Errno) {
        // A file that has not come yet cannot have been looked at.
        guard let file = files[memory.number] else { throw .invalidArgument }
        try file.write(memory.bytes, at: memory.offset)
    }

    private mutating func file(_ descriptor: RecordedDescriptor) throws(Errno) -> File {
        if let file = files[descriptor.number] { return file }
        let file = try File(byteCount: descriptor.byteCount)
        files[descriptor.number] = file
        return file
    }
}
