import Glibc
import LinuxHost
import Testing

/// Whether a number is closed is asked in a process of its own, where no other test reuses it for a file like it.
@Suite struct `Descriptors` {
    @Test func `a descriptor closes when its owner goes, and not when it was given up`() async {
        await #expect(processExitsWith: .success) {
            var file: OpenFile
            do {
                let descriptor = try memoryFile()
                file = OpenFile(descriptor.rawValue)
                #expect(file.isOpen)
            }
            #expect(!file.isOpen)
            file = OpenFile(try memoryFile().take())
            #expect(file.isOpen)
            let adopted = OwnedDescriptor(adopting: file.number)
            let copy = try adopted.duplicate()
            #expect(copy.rawValue != file.number)
            #expect(fcntl(copy.rawValue, F_GETFD) & FD_CLOEXEC != 0)
            #expect(try copy.status().identity == adopted.status().identity)
        }
    }

    @Test func `a bundle gives its descriptors in order and closes the rest once`() async {
        await #expect(processExitsWith: .success) {
            let files = try (0..<4).map { _ in OpenFile(try memoryFile().take()) }
            let numbers = files.map(\.number)
            var kept: Int32 = -1
            do {
                var bundle = DescriptorBundle(adopting: [numbers[0], numbers[1]])
                #expect(bundle.count == 2)
                bundle.append(contentsOf: DescriptorBundle(adopting: [numbers[2]]))
                bundle.append(OwnedDescriptor(adopting: numbers[3]))
                #expect(bundle.count == 4)
                #expect(files.map(\.isOpen) == [true, true, true, true])
                if let first = bundle.takeFirst() {
                    #expect(first.rawValue == numbers[0])
                    kept = first.take()
                }
                #expect(bundle.count == 3)
            }
            #expect(kept == numbers[0])
            #expect(files.map(\.isOpen) == [true, false, false, false])
        }
    }

    @Test func `an empty bundle has nothing to give`() {
        var bundle = DescriptorBundle()
        #expect(bundle.isEmpty == true)
        #expect((bundle.takeFirst() == nil) == true)
    }

    @Test func `anonymous memory has the size asked for, no seals, and takes those it is given`() throws {
        let descriptor = try memoryFile(8192)
        let status = try descriptor.status()
        #expect(status.size == 8192)
        #expect(status.kind == .regular)
        #expect(descriptor.seals == [])
        #expect(descriptor.isReadWrite == true)
        try descriptor.add([.shrink, .grow])
        #expect(descriptor.seals == [.shrink, .grow])
        #expect(ftruncate(descriptor.rawValue, 4096) == -1)
    }

    @Test func `a mapping shows the file's bytes and refuses what the descriptor does not allow`() throws {
        let file = try memoryFile(4096)
        var bytes: [UInt8] = [1, 2, 3]
        #expect(unsafe pwrite(file.rawValue, &bytes, 3, 0) == 3)
        let mapping = try MemoryMapping(of: file, byteCount: 4096, isWritable: true)
        #expect(unsafe Array(mapping.bytes.prefix(4)) == [1, 2, 3, 0])
        unsafe mapping.bytes[0] = 9
        #expect(unsafe pread(file.rawValue, &bytes, 1, 0) == 1)
        #expect(bytes[0] == 9)
        let readOnly = OwnedDescriptor(adopting: unsafe open("/proc/self/fd/\(file.rawValue)", O_RDONLY | O_CLOEXEC))
        #expect(!readOnly.isReadWrite == true)
        #expect(
            errorOf { () throws(Errno) in _ = try MemoryMapping(of: readOnly, byteCount: 4096, isWritable: true) }
                == Errno(rawValue: EACCES))
        #expect(
            errorOf { () throws(Errno) in _ = try MemoryMapping(of: file, byteCount: 0, isWritable: true) }
                == .invalidArgument)
    }

    @Test func `an error number explains itself`() {
        #expect("\(Errno.addressInUse)" == "Address already in use")
        #expect("\(Errno(rawValue: 99_999))" == "error 99999")
    }
}
