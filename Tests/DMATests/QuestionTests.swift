import DMA
import Randomness
import Testing

@Suite struct `Questions of a front end` {
    let object: MemoryObject
    let space = IOAddressSpace()

    init() throws {
        object = try .anonymous(byteCount: 64 * Int(page))
    }

    @Test func `a mapping is recognised by its range, rights and memory`() throws {
        try space.map(object, pages: pages(1, 2), rights: .read)
        let backing = MappingBacking.file(object, offset: page)
        #expect(space.hasMapping(backing, at: pages(1, 2), rights: .read))
        #expect(!space.hasMapping(backing, at: pages(1, 1), rights: .read))
        #expect(!space.hasMapping(backing, at: pages(2, 1), rights: .read))
        #expect(!space.hasMapping(backing, at: pages(1, 2), rights: [.read, .write]))
        #expect(!space.hasMapping(.file(object, offset: 0), at: pages(1, 2), rights: .read))
        let other = try MemoryObject.anonymous(byteCount: 64 * Int(page))
        #expect(!space.hasMapping(.file(other, offset: page), at: pages(1, 2), rights: .read))
        #expect(!space.hasMapping(.remote(PeerMemory(byteCount: 1)), at: pages(1, 2), rights: .read))
    }

    @Test func `a space is empty until something is mapped and when all of it is gone`() throws {
        #expect(space.isEmpty)
        try space.map(object, pages: pages(1, 2))
        try space.map(object, pages: pages(9))
        try space.unmap(pages(1, 2))
        #expect(!space.isEmpty)
        try space.unmap(.everything)
        #expect(space.isEmpty)
    }

    @Test func `remote memory is recognised where it was mapped, not where it was copied to`() throws {
        let peer = PeerMemory(byteCount: 1)
        try space.map(.remote(peer), at: iova(page), byteCount: page, rights: .read)
        try space.copy(pages(1), from: space, to: iova(2 * page), rights: .read)
        #expect(space.hasMapping(.remote(PeerMemory(byteCount: 1)), at: pages(1), rights: .read))
        #expect(!space.hasMapping(.remote(peer), at: pages(2), rights: .read))
    }

    @Test func `a mapping that an unmap has closed is not the one that was asked for`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let space = IOAddressSpace(configuration)
        try space.map(object, pages: pages(1))
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        let pinned = try access.pin(pages(1), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmap(pages(1)) } }
        #expect(!space.hasMapping(.file(object, offset: page), at: pages(1), rights: [.read, .write]))
        pinned.unpin()
        access.destroy()
    }

    @Test func `a range splits the mappings that cross its ends`() throws {
        try space.map(object, pages: pages(2, 4))
        for range in [pages(2, 4), pages(0, 8), pages(0, 2), pages(6), .everything] {
            #expect(!space.splitsMapping(range))
        }
        for range in [pages(0, 3), pages(2, 3), pages(3, 3), pages(3, 1), pages(5, 9)] {
            #expect(space.splitsMapping(range))
        }
    }

    @Test func `V57 the first address at which an access fails, and why`() throws {
        try space.map(object, pages: pages(1, 2), rights: .read)
        try space.map(object, pages: pages(3), rights: [.read, .write])
        try space.map(object, pages: pages(4), rights: .write)
        try space.map(object, pages: pages(6))
        func fault(_ range: IOVARange, _ rights: AccessRights) -> AccessFault? {
            space.firstFault(in: range, for: rights)
        }
        #expect(fault(range(page, 4 * page - 1), .read) == nil)
        #expect(fault(range(page + 5, page + 6), .read) == nil)
        #expect(fault(pages(0, 9), .read) == AccessFault(address: iova(0), reason: .notMapped))
        #expect(fault(range(page + 7, .max), .read) == AccessFault(address: iova(4 * page), reason: .notPermitted))
        #expect(fault(range(page + 7, 5 * page), .write) == AccessFault(address: iova(page + 7), reason: .notPermitted))
        let hole = AccessFault(address: iova(5 * page), reason: .notMapped)
        #expect(fault(range(3 * page + 7, 7 * page), .write) == hole)
        #expect(fault(pages(3, 2), [.read, .write]) == AccessFault(address: iova(4 * page), reason: .notPermitted))
        #expect(fault(pages(6, 2), []) == AccessFault(address: iova(7 * page), reason: .notMapped))
        #expect(fault(range(.max, .max), .read) == AccessFault(address: iova(.max), reason: .notMapped))
        try space.map(.file(object, offset: 0), at: iova(.max - 1), byteCount: 2, rights: .read)
        #expect(fault(range(.max - 1, .max), .read) == nil)
        #expect(fault(range(.max - 2, .max), .read) == AccessFault(address: iova(.max - 2), reason: .notMapped))
    }

    @Test func `a mapping that an unmap has closed is a fault of its own, before its rights are looked at`() throws {
        var configuration = IOAddressSpace.Configuration()
        configuration.unmapRounds = 1
        configuration.unmapWait = .zero
        let space = IOAddressSpace(configuration)
        try space.map(object, pages: pages(1), rights: .read)
        try space.map(object, pages: pages(2), rights: .read)
        let access = DMAAccess(needsPin: true) { _ in }
        try access.attach(to: space)
        let pinned = try access.pin(pages(2), rights: .read)
        #expect(throws: DMAError.deadlock) { try misusing(.lostPin) { try space.unmapAll(in: [pages(2)]) } }
        for rights in [.read, .write, [.read, .write]] as [AccessRights] {
            let fault = space.firstFault(in: range(2 * page + 3, 9 * page), for: rights)
            #expect(fault == AccessFault(address: iova(2 * page + 3), reason: .closed))
        }
        #expect(space.firstFault(in: pages(1, 2), for: .read) == AccessFault(address: iova(2 * page), reason: .closed))
        pinned.unpin()
        access.destroy()
    }

    @Test func `the question about faults answers as accesses do, whatever is mapped`() throws {
        var random = SeededNumbers(seed: 57)
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        for _ in 0..<3000 {
            let target = pages(.random(in: 0..<24, using: &random), .random(in: 1...3, using: &random))
            let rights: [AccessRights] = [.read, .write, [.read, .write]]
            let wanted = rights[Int.random(in: 0..<3, using: &random)]
            if Bool.random(using: &random) {
                try? space.map(object, pages: target, rights: wanted)
            } else {
                _ = try? space.unmapAll(in: [target])
            }
            let first = UInt64.random(in: 0..<28 * page, using: &random)
            let asked = range(first, first + .random(in: 0..<3 * page, using: &random))
            // What is visited before an error is what lies below the fault.
            var visited: UInt64 = 0
            let error = errorOf { () throws(DMAError) in
                unsafe try access.withMemory(asked, rights: wanted) { visited += UInt64($0.count) }
            }
            let fault = space.firstFault(in: asked, for: wanted)
            switch error {
            case nil: #expect(fault == nil)
            case .notFound: #expect(fault == AccessFault(address: iova(first + visited), reason: .notMapped))
            case .notPermitted: #expect(fault == AccessFault(address: iova(first + visited), reason: .notPermitted))
            case .some(let error): Issue.record("\(error)")
            }
        }
        access.destroy()
    }
}
