import DMA
import Glibc
import LinuxHost
import Testing

/// What counts descriptors runs in a process of its own: other tests open and close some all the time.
@Suite struct `Memory objects` {
    @Test func `an object shows the whole file`() throws {
        let file = try memoryFile(3 * Int(page))
        let object = try MemoryObject(adopting: try file.duplicate())
        #expect(object.byteCount == 3 * Int(page))
        #expect(object.isWritable)
        unsafe object.bytes[Int(page)] = 0x42
        var byte: UInt8 = 0
        #expect(unsafe pread(file.rawValue, &byte, 1, Int(page)) == 1)
        #expect(byte == 0x42)
    }

    @Test func `an object keeps no descriptor, and its mapping no longer than it lives`() async {
        await #expect(processExitsWith: .success) {
            do {
                let object = try MemoryObject(adopting: try memoryFile(Int(page)).take())
                #expect(try openDescriptorCount(of: "memfd:dma-test") == 0)
                #expect(try mappedMemoryCount(containing: "memfd:dma-test") == 1)
                withExtendedLifetime(object) {}
            }
            #expect(try mappedMemoryCount(containing: "memfd:dma-test") == 0)
        }
    }

    @Test func `a read-only descriptor, and a write seal, make an object read-only`() throws {
        #expect(try !readOnlyObject().isWritable)
        for seal in [FileSeals.write, .futureWrite] {
            let file = try memoryFile(Int(page))
            try file.add(seal)
            #expect(try !MemoryObject(adopting: file).isWritable)
        }
        let sealed = try memoryFile(Int(page))
        try sealed.add(.shrink)
        let object = try MemoryObject(adopting: sealed)
        #expect(object.isWritable)
        #expect(object.isSealedAgainstShrinking)
    }

    @Test func `what is no memory is refused and closed`() async {
        await #expect(processExitsWith: .success) {
            var ends: [Int32] = [-1, -1]
            try #require(unsafe pipe(&ends) == 0)
            let counter = try EventCounter()
            let others = [
                unsafe open("/proc/self", O_RDONLY | O_DIRECTORY | O_CLOEXEC),
                socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0),
                unsafe open("/dev/zero", O_RDWR | O_CLOEXEC),
                dup(counter.rawDescriptor),
            ]
            for number in ends + others {
                let file = OpenFile(number)
                #expect(throws: DMAError.noDevice) { try MemoryObject(adopting: number) }
                #expect(!file.isOpen)
            }
            let empty = try memoryFile(0).take()
            #expect(throws: DMAError.invalid) { try MemoryObject(adopting: empty) }
            #expect(try openDescriptorCount(of: "memfd:dma-test") == 0)
            let file = try memoryFile(Int(page))
            let writeOnly = unsafe open("/proc/self/fd/\(file.rawValue)", O_WRONLY | O_CLOEXEC)
            #expect(throws: DMAError.accessDenied) { try MemoryObject(adopting: writeOnly) }
            #expect(try openDescriptorCount(of: "memfd:dma-test") == 1)
            _ = file.rawValue
            #expect(throws: DMAError.other(errno: EBADF)) { try MemoryObject(adopting: -1) }
            withExtendedLifetime(counter) {}
        }
    }

    @Test func `anonymous memory is zeroed, writable and cannot shrink`() throws {
        let object = try MemoryObject.anonymous(byteCount: 5000)
        #expect(object.byteCount == 5000)
        #expect(unsafe object.bytes.allSatisfy { $0 == 0 })
        #expect(object.isWritable && object.isSealedAgainstShrinking)
        for byteCount in [0, -1] {
            #expect(throws: DMAError.invalid) { try MemoryObject.anonymous(byteCount: byteCount) }
        }
    }

    @Test func `the cache finds the object of a file again while somebody uses it`() throws {
        let cache = MemoryObjectCache()
        let file = try memoryFile(Int(page))
        var first: MemoryObject? = try cache.object(adopting: file.duplicate())
        let second = try cache.object(adopting: file.duplicate())
        #expect(first === second)
        let other = try cache.object(adopting: memoryFile(Int(page)))
        #expect(other !== second)
        weak let trace = first
        first = nil
        #expect(trace === second)
    }

    @Test func `the cache keeps no object alive`() throws {
        let cache = MemoryObjectCache()
        let file = try memoryFile(Int(page))
        weak var trace: MemoryObject?
        do {
            let object = try cache.object(adopting: file.duplicate())
            trace = object
            #expect(trace != nil)
        }
        #expect(trace == nil)
    }

    @Test func `a read-only descriptor does not find the writable object of its file`() throws {
        let cache = MemoryObjectCache()
        let file = try memoryFile(Int(page))
        let writable = try cache.object(adopting: file.duplicate())
        let number = unsafe open("/proc/self/fd/\(file.rawValue)", O_RDONLY | O_CLOEXEC)
        let readOnly = try cache.object(adopting: OwnedDescriptor(adopting: number))
        #expect(writable.isWritable)
        #expect(!readOnly.isWritable)
        #expect(try cache.object(adopting: file.duplicate()) === writable)
    }

    @Test func `a file that changed its size gets a new object, and the old one's pins stay good`() throws {
        let cache = MemoryObjectCache()
        let file = try memoryFile(Int(page))
        let small = try cache.object(adopting: file.duplicate())
        let space = IOAddressSpace()
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        try space.map(.file(small, offset: 0), at: iova(0), byteCount: page, rights: [.read, .write])
        let pinned = try access.pin(pages(0), rights: .write)
        try #require(ftruncate(file.rawValue, 4 * Int(page)) == 0)
        let large = try cache.object(adopting: file.duplicate())
        #expect(large.byteCount == 4 * Int(page))
        #expect(try cache.object(adopting: file.duplicate()) === large)
        try space.map(.file(large, offset: 3 * page), at: iova(page), byteCount: page, rights: .read)
        #expect(pinned.segmentSizes(writing: 6) == [Int(page)])
        #expect(large.byte(0) == 6)
        pinned.unpin()
        try #require(ftruncate(file.rawValue, 2 * Int(page)) == 0)
        let shrunk = try cache.object(adopting: file.duplicate())
        #expect(throws: DMAError.invalid) {
            try space.map(.file(shrunk, offset: 2 * page), at: iova(9 * page), byteCount: page, rights: .read)
        }
        access.destroy()
    }

    @Test func `the cache closes every descriptor, found, new or refused`() async {
        await #expect(processExitsWith: .success) {
            let cache = MemoryObjectCache()
            let file = try memoryFile(Int(page))
            let object = try cache.object(adopting: file.duplicate())
            #expect(try cache.object(adopting: file.duplicate()) === object)
            let nullCount = try openDescriptorCount(of: "/dev/null")
            let device = unsafe open("/dev/null", O_RDWR | O_CLOEXEC)
            #expect(throws: DMAError.noDevice) { try cache.object(adopting: OwnedDescriptor(adopting: device)) }
            #expect(try openDescriptorCount(of: "/dev/null") == nullCount)
            #expect(try openDescriptorCount(of: "memfd:dma-test") == 1)
            _ = file.rawValue
        }
    }

    @Test func `S55 a hundred thousand maps and unmaps of one file keep no descriptor and no mapping`() async {
        await #expect(processExitsWith: .success) {
            let cache = MemoryObjectCache()
            let space = IOAddressSpace()
            let file = try OwnedDescriptor.anonymousMemory(name: "s55", byteCount: 64 * Int(page))
            let resident = try cache.object(adopting: file.duplicate())
            try space.map(.file(resident, offset: 0), at: iova(0), byteCount: page, rights: [.read, .write])
            for round in 0..<100_000 as Range<UInt64> {
                let object = try cache.object(adopting: file.duplicate())
                let first = iova((1 + round % 1000) * page)
                if round >= 1000 { try space.unmap(IOVARange(first: first, byteCount: page)) }
                try space.map(
                    .file(object, offset: round % 64 * page), at: first, byteCount: page, rights: [.read, .write])
            }
            #expect(space.mappings().count == 1001)
            #expect(try openDescriptorCount(of: "memfd:s55") == 1)
            #expect(try mappedMemoryCount(containing: "memfd:s55") == 1)
            _ = file.rawValue
        }
    }
}

/// A memfd of that size.
private func memoryFile(_ byteCount: Int) throws -> OwnedDescriptor {
    try OwnedDescriptor.anonymousMemory(name: "dma-test", byteCount: byteCount)
}
