import LinuxHost
import Testing

@testable import DMA

@Suite struct `The memory of the mappings themselves` {
    /// A thread that found a mapping a moment ago may go on looking at its record, wherever it said it was going.
    @Test func `R75 what a thread found stays what it was until the thread has left, and then is used again`() throws {
        let space = IOAddressSpace()
        let object = try MemoryObject.anonymous(byteCount: 64 * Int(page))
        for number in [0, 40] as [UInt64] { try space.map(object, pages: pages(number)) }
        let access = DMAAccess(needsPin: false, onUnmap: nil)
        try access.attach(to: space)
        let (isInside, mayLeave, found) = (Shared(false), Shared(false), Shared<[IOVARange]>([]))
        let reader = try OSThread(name: "reader") {
            try? unsafe access.withMemory(pages(0), rights: .read) { _ in
                let mapping = space.translation.find(pages(40).first)
                isInside.update { $0 = true }
                dawdle(until: mayLeave)
                if let mapping { found.update { $0.append(mapping.range) } }
            }
        }
        isInside.wait { $0 }
        try space.unmap(pages(40))
        for number in 0..<1000 as Range<UInt64> {
            try space.map(object, pages: pages(1 + number % 32))
            try space.unmap(pages(1 + number % 32))
        }
        let kept = space.state.withLock { $0.table.retiredCount }
        mayLeave.update { $0 = true }
        reader.join()
        #expect(found.value == [pages(40)])
        for _ in 0..<100 {
            try space.map(object, pages: pages(1))
            try space.unmap(pages(1))
        }
        let keptAfterwards = space.state.withLock { $0.table.retiredCount }
        #expect(kept > 900 && keptAfterwards < 100)
        access.destroy()
    }
}
