import DMA
import Glibc
import LinuxHost
import Testing

@Suite final class `Memory used in place` {
    let object: MemoryObject
    let space = IOAddressSpace()
    let access = DMAAccess(needsPin: false, onUnmap: nil)

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
        try access.attach(to: space)
    }

    deinit { access.destroy() }

    private func error(_ range: IOVARange, _ rights: AccessRights = .read) -> DMAError? {
        errorOf { () throws(DMAError) in try unsafe access.withMemory(range, rights: rights) { _ in } }
    }

    @Test func `is shown once for each mapping, in the order of the addresses, up to the top of the space`() throws {
        for (number, address) in [3, 1, 2].enumerated() as EnumeratedSequence<[UInt64]> {
            let first = UInt64.max - address * page + 1
            try space.map(
                .file(object, offset: UInt64(number) * page), at: iova(first), byteCount: page, rights: .read)
        }
        for number in 0..<3 as Range<UInt64> { object.fill(pages(number), with: UInt8(number)) }
        var seen: [[Int]] = []
        try unsafe access.withMemory(range(.max - 3 * page + 10, .max), rights: .read) { memory in
            seen.append([memory.count, Int(unsafe memory[0])])
        }
        #expect(seen == [[Int(page) - 9, 0], [Int(page), 2], [Int(page), 1]])
    }

    @Test func `the errors are those of a transfer, and remote memory is nowhere`() throws {
        try space.map(object, pages: pages(1))
        try space.map(object, pages: pages(2), rights: .read)
        try space.map(.remote(PeerMemory(byteCount: Int(page))), at: iova(4 * page), byteCount: page, rights: .read)
        #expect(error(pages(1), []) == .invalid)
        #expect(error(pages(0)) == .notFound)
        #expect(error(pages(2), .write) == .notPermitted)
        #expect(error(pages(1, 3)) == .notFound)
        #expect(error(pages(4)) == .invalid)
        var visited = 0
        #expect(throws: DMAError.notPermitted) {
            try unsafe access.withMemory(pages(1, 2), rights: .write) { _ in visited += 1 }
        }
        #expect(visited == 1)
        try access.detach()
        #expect(error(pages(1)) == .notFound)
        try access.attach(to: space)
    }

    /// A thread looks at three pages, or three mappings, at once; or at one, and then at another from there.
    @Test(
        arguments: [(1, 3, nil, 1), (1, 3, nil, 3), (5, 1, 9, 5), (5, 1, 9, 9)] as [(UInt64, UInt64, UInt64?, UInt64)])
    func `R71, R75 an unmap of anything that a thread looks at waits until it is done`(
        first: UInt64, count: UInt64, inner: UInt64?, unmapped: UInt64
    ) throws {
        for number in [1, 2, 3, 5, 9] as [UInt64] { try space.map(object, pages: pages(number)) }
        let (isInside, mayLeave, hasLeft) = (Shared(false), Shared(false), Shared(false))
        let (access, space) = (access, space)
        let reader = try OSThread(name: "reader") {
            let stay = {
                if isInside.value { return }
                isInside.update { $0 = true }
                dawdle(until: mayLeave)
                hasLeft.update { $0 = true }
            }
            try? unsafe access.withMemory(pages(first, count), rights: .read) { _ in
                guard let inner else { return stay() }
                try? unsafe access.withMemory(pages(inner), rights: .read) { _ in stay() }
            }
        }
        isInside.wait { $0 }
        let wasInTime = Shared(false)
        let unmapper = try OSThread(name: "unmapper") {
            _ = try? space.unmap(pages(unmapped))
            wasInTime.update { [hasLeft = hasLeft.value] in $0 = hasLeft }
        }
        // It closes the mapping before it waits.
        while space.ranges.count == 5 && !space.mappings().contains(where: \.isBlocked) { sched_yield() }
        mayLeave.update { $0 = true }
        for thread in [reader, unmapper] { thread.join() }
        #expect(wasInTime.value)
        #expect(space.ranges.count == 4)
    }

    @Test func `R71 a look at another place does not look like the end of the first`() throws {
        for number in [5, 9] as [UInt64] { try space.map(object, pages: pages(number)) }
        let (isInside, mayGoOn, mayLeave, hasLeft) = (Shared(false), Shared(false), Shared(false), Shared(false))
        let (access, space) = (access, space)
        let reader = try OSThread(name: "reader") {
            try? unsafe access.withMemory(pages(5), rights: .read) { _ in
                isInside.update { $0 = true }
                dawdle(until: mayGoOn)
                _ = try? access.read(pages(9))
                dawdle(until: mayLeave)
                hasLeft.update { $0 = true }
            }
        }
        isInside.wait { $0 }
        let wasInTime = Shared(false)
        let unmapper = try OSThread(name: "unmapper") {
            _ = try? space.unmap(pages(5))
            wasInTime.update { [hasLeft = hasLeft.value] in $0 = hasLeft }
        }
        while space.ranges.count == 2 && !space.mappings().contains(where: \.isBlocked) { sched_yield() }
        // Time for the unmap to see the first look, and then the second, if it is going to be misled.
        usleep(20_000)
        mayGoOn.update { $0 = true }
        usleep(20_000)
        mayLeave.update { $0 = true }
        for thread in [reader, unmapper] { thread.join() }
        #expect(wasInTime.value)
    }

    @Test func `R71 an unmap does not wait for a thread that looks at something else`() throws {
        for number in [1, 40] as [UInt64] { try space.map(object, pages: pages(number)) }
        let (isInside, mayLeave) = (Shared(false), Shared(false))
        let access = access
        let reader = try OSThread(name: "reader") {
            try? unsafe access.withMemory(pages(1), rights: .read) { _ in
                isInside.update { $0 = true }
                dawdle(until: mayLeave)
            }
        }
        isInside.wait { $0 }
        // It returns, or the test never ends.
        #expect(try space.unmap(pages(40)) == page)
        mayLeave.update { $0 = true }
        reader.join()
    }
}
