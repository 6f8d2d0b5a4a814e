import DMA
import Glibc
import LinuxHost
import Randomness
import Testing

/// Threads that do everything at once. Run under the thread sanitizer it finds what they touch unprotected; by itself it
/// finds memory that is touched after an unmap returned.
@Suite struct `Many threads` {
    /// Maps, unmaps, and then looks whether anybody still writes to the page that nobody may reach.
    private static func churn(
        _ space: IOAddressSpace, _ object: MemoryObject, pages owned: Range<UInt64>, seed: UInt64,
        _ faults: Shared<[String]>
    ) {
        var random = SeededNumbers(seed: seed)
        for round in 0..<300 {
            let number = UInt64.random(in: owned, using: &random)
            do throws(DMAError) {
                try space.map(object, pages: pages(number))
                sched_yield()
                let count =
                    round % 2 == 0 ? try space.unmap(pages(number)) : try space.unmapAll(in: [pages(number)])
                if count != page { faults.update { $0.append("round \(round): \(count) bytes unmapped") } }
            } catch {
                faults.update { $0.append("round \(round): \(error)") }
            }
            object.fill(pages(number), with: 0xa5)
            sched_yield()
            if !object.isFilled(pages(number), with: 0xa5) {
                faults.update { $0.append("round \(round): page \(number) was written to after its unmap") }
            }
        }
    }

    /// Reads, writes and pins; whatever is not mapped at the moment is refused. Each device has its own bytes of a page.
    private static func work(_ holder: PinHolder, number: Int, pageCount: UInt64, _ faults: Shared<[String]>) {
        var random = SeededNumbers(seed: UInt64(100 + number))
        let offset = UInt64(number * 64)
        for round in 0..<3000 {
            let first = UInt64.random(in: 0..<pageCount, using: &random) * page
            let mine = range(first + offset, first + offset + 63)
            let error = errorOf { () throws(DMAError) in
                switch round % 4 {
                case 0: _ = try holder.access.read(mine)
                case 1: try holder.access.write([UInt8](repeating: UInt8(number), count: 64), to: mine.first)
                default: try holder.pin(range(first, first + page - 1), writing: UInt8(number), at: Int(offset))
                }
            }
            if let error, error != .notFound, error != .invalid {
                faults.update { $0.append("device \(number), round \(round): \(error)") }
            }
            if round % 3 == 0 { holder.unpinAny() }
        }
    }

    @Test func `no memory is touched after its unmap, whoever maps, pins, reads, writes and moves`() throws {
        let pageCount: UInt64 = 16
        let object = try MemoryObject.anonymous(byteCount: Int(pageCount * page))
        let spaces = [IOAddressSpace(), IOAddressSpace()]
        let holders = (0..<3).map { _ in PinHolder() }
        let faults = Shared<[String]>([])
        for (index, holder) in holders.enumerated() { try holder.access.attach(to: spaces[index % 2]) }
        var threads: [OSThread] = []
        for (index, space) in spaces.enumerated() {
            // Each page belongs to one space only: after its unmap there, nobody reaches it.
            let half = pageCount / 2
            for quarter in 0..<2 as Range<UInt64> {
                let first = UInt64(index) * half + quarter * half / 2
                threads.append(
                    try OSThread(name: "mapper") {
                        Self.churn(space, object, pages: first..<first + half / 2, seed: first, faults)
                    })
            }
        }
        for (index, holder) in holders.enumerated() {
            threads.append(
                try OSThread(name: "device \(index)") {
                    Self.work(holder, number: index, pageCount: pageCount, faults)
                })
        }
        threads.append(
            try OSThread(name: "mover") {
                for round in 0..<200 {
                    let error = errorOf { () throws(DMAError) in
                        try holders[2].access.replace(with: spaces[(round + 1) % 2])
                    }
                    if let error { faults.update { $0.append("move \(round): \(error)") } }
                    sched_yield()
                }
            })
        for thread in threads { thread.join() }
        for holder in holders { holder.access.destroy() }
        #expect(faults.value.prefix(8) == [])
        #expect(spaces.allSatisfy { $0.mappings() == [] })
    }

    enum Ending: CaseIterable { case unmap, detach }

    /// Each copy is large, so that the end nearly always comes in the middle of one.
    @Test(arguments: Ending.allCases)
    func `R71, R75 an unmap, and a detachment, waits for the copy that is under way`(ending: Ending) throws {
        let byteCount: UInt64 = 1 << 20
        let object = try MemoryObject.anonymous(byteCount: Int(byteCount))
        let space = IOAddressSpace()
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        let whole = range(0, byteCount - 1)
        let written = Shared(0)
        let isOver = Shared(false)
        let thread = try OSThread(name: "writer") {
            let bytes = [UInt8](repeating: 1, count: Int(byteCount))
            while !isOver.value {
                let error = errorOf { () throws(DMAError) in try access.write(bytes, to: iova(0)) }
                if error == nil { written.update { $0 += 1 } }
            }
        }
        var late = 0
        for _ in 0..<50 {
            let before = written.value
            try space.map(.file(object, offset: 0), at: iova(0), byteCount: byteCount, rights: .write)
            if ending == .detach || before == 0 { try access.attach(to: space) }
            written.wait { $0 > before }
            switch ending {
            case .unmap: try space.unmap(whole)
            case .detach: try access.detach()
            }
            object.fill(whole, with: 0xa5)
            for _ in 0..<20 { sched_yield() }
            if !object.isFilled(whole, with: 0xa5) { late += 1 }
            if ending == .detach { try space.unmap(whole) }
        }
        isOver.update { $0 = true }
        thread.join()
        #expect(late == 0)
        access.destroy()
    }

    /// What a virtio-iommu does: guest memory is mapped in one space, and copied to another that the device reaches. Who
    /// takes guest memory away does so in the first space and then removes what was copied of it.
    @Test func `M39 memory that an unmap took away does not come back by a copy that was under way`() throws {
        let object = try MemoryObject.anonymous(byteCount: 4 * Int(page))
        let (memory, domain) = (IOAddressSpace(), IOAddressSpace())
        let device = DMAAccess(needsPin: false, onUnmap: nil)
        try device.attach(to: domain)
        let (copies, refusals, writes) = (Shared(0), Shared(0), Shared(0))
        let faults = Shared<[String]>([])
        let isOver = Shared(false)
        var threads: [OSThread] = []
        for number in 0..<2 as Range<UInt64> {
            threads.append(
                try OSThread(name: "copier \(number)") {
                    while !isOver.value {
                        let error = errorOf { () throws(DMAError) in
                            try domain.copy(pages(0, 4), from: memory, to: iova(number << 32), rights: .write)
                        }
                        switch error {
                        case nil: copies.update { $0 += 1 }
                        case .notFound, .invalid: refusals.update { $0 += 1 }
                        case .exists: sched_yield()
                        case .some(let error): faults.update { $0.append("copy: \(error)") }
                        }
                    }
                })
            threads.append(
                try OSThread(name: "device \(number)") {
                    while !isOver.value {
                        let error = errorOf { () throws(DMAError) in
                            try device.write([1], to: iova(number << 32 + 2 * page))
                        }
                        if error == nil { writes.update { $0 += 1 } } else { sched_yield() }
                    }
                })
        }
        let all = range(0, 4 * page - 1)
        var late = 0
        var round = 0
        while round < 300 || (copies.value < 100 || refusals.value < 100 || writes.value < 20) && faults.value.isEmpty {
            round += 1
            try memory.map(.file(object, offset: 0), at: iova(0), byteCount: 4 * page, rights: [.read, .write])
            for _ in 0..<round % 8 { sched_yield() }
            try memory.unmapAll(in: [all])
            // From here on nothing can be copied, and what was is there to be removed.
            try domain.unmapAll(in: [.everything])
            object.fill(all, with: 0xa5)
            for _ in 0..<4 { sched_yield() }
            if !object.isFilled(all, with: 0xa5) || domain.mappings() != [] { late += 1 }
        }
        isOver.update { $0 = true }
        for thread in threads { thread.join() }
        device.destroy()
        #expect(late == 0)
        #expect(faults.value.prefix(4) == [])
        #expect(domain.mappings() == [])
    }

    @Test func `one memory object is found by all threads that bring its file`() throws {
        let cache = MemoryObjectCache()
        let file = SharedDescriptor(try OwnedDescriptor.anonymousMemory(name: "shared", byteCount: Int(page)))
        let space = IOAddressSpace()
        let faults = Shared(0)
        let threads = try (0..<4 as Range<UInt64>).map { number in
            try OSThread(name: "client \(number)") {
                for round in 0..<500 as Range<UInt64> {
                    let target = pages(number * 1000 + round)
                    let error = errorOf { () throws(DMAError) in
                        let object = try cache.object(adopting: file.duplicate())
                        try space.map(.file(object, offset: 0), at: target.first, byteCount: page, rights: .read)
                        if round % 2 == 0 { try space.unmap(target) }
                    }
                    if error != nil { faults.update { $0 += 1 } }
                }
            }
        }
        for thread in threads { thread.join() }
        #expect(faults.value == 0)
        #expect(space.mappings().count == 4 * 250)
    }
}

/// A descriptor that threads share.
private final class SharedDescriptor: Sendable {
    private let descriptor: OwnedDescriptor

    init(_ descriptor: consuming OwnedDescriptor) { self.descriptor = descriptor }

    func duplicate() throws(DMAError) -> OwnedDescriptor {
        do throws(Errno) {
            return try descriptor.duplicate()
        } catch {
            throw DMAError(error)
        }
    }
}
