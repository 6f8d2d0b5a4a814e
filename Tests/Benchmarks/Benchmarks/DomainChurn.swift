import CProcessCounters
import DMA
import LinuxHost

/// What a domain of a virtio-iommu costs: pages of guest memory are copied to it one by one, and unmapped in batches.
func domainChurn(_ settings: Settings, _ report: Report) throws {
    let count = 100_000
    report.begin(
        "The churn of a domain",
        """
        \(label(count)) pages of guest memory, one mapping of 1 GiB, are copied one by one to another address space, which a
        device is attached to, and unmapped in batches of \(Domain.batch). ns for a copy and its part of an unmap. What the
        process holds is counted before the first round, with the pages of the last round mapped, and at the end; areas are
        the lines of `/proc/self/maps`, resident is in MiB. Aim: constant.
        """)
    var table = MarkdownTable([
        "live at once", "pair, ns", "descriptors before, with, after", "areas before, with, after",
        "resident before, with, after",
    ])
    for live in [Domain.batch, count / Domain.batch * Domain.batch] {
        let domain = try Domain()
        let pages = domain.pages(live)
        // Whoever maps for the first time needs memory for what it maps.
        _ = domain.nanoseconds(pages, count: count)
        release_free_heap()
        let before = Holdings()
        let samples = (0..<settings.rounds).map { _ in domain.nanoseconds(pages, count: count) }
        domain.copy(pages)
        let with = Holdings()
        domain.unmap(pages)
        release_free_heap()
        let after = Holdings()
        domain.end()
        let figures = Figures(samples)
        report.record("domain-churn", label(live), "pair", "ns", figures)
        let all = [before, with, after]
        func cell(_ part: (Holdings) -> String) -> String { all.map(part).joined(separator: ", ") }
        table.add([
            label(live), figures.text, cell { "\($0.descriptors)" }, cell { "\($0.areas)" },
            cell { decimal(Double($0.residentBytes) / Double(1 << 20)) },
        ])
        for (name, part) in [("before", before), ("with", with), ("after", after)] {
            let held = [
                ("descriptors", Double(part.descriptors)), ("areas", Double(part.areas)),
                ("bytes", Double(part.residentBytes)),
            ]
            for (unit, number) in held { report.record("domain-churn", label(live), name, unit, Figures([number])) }
        }
    }
    report.write("\n" + table.text)
}

/// Guest memory, and an address space for a device to which pages of it are copied.
private struct Domain {
    static let batch = 64
    private static let memorySize: UInt64 = 1 << 30

    private let memory = IOAddressSpace()
    private let space = IOAddressSpace()
    private let access = DMAAccess(needsPin: true, onUnmap: { _ in })

    init() throws {
        let object = try MemoryObject.anonymous(byteCount: Int(Domain.memorySize))
        try memory.map(
            .file(object, offset: 0), at: IOVA(0), byteCount: Domain.memorySize, rights: [.read, .write])
        try access.attach(to: space)
    }

    func end() { access.destroy() }

    /// Pages of the domain in the order in which they come and go: downwards, as Linux gives addresses out.
    func pages(_ count: Int) -> [IOVARange] {
        (1...count).map { number in
            let first = 1 << 32 - UInt64(number) * SharedMemory.pageSize
            return IOVARange(first: IOVA(first), last: IOVA(first + SharedMemory.pageSize - 1))
        }
    }

    func copy(_ pages: [IOVARange]) {
        for page in pages {
            // Anywhere in guest memory.
            let number = page.first.rawValue / SharedMemory.pageSize &* 0x9e37_79b9
            let first = number % (Domain.memorySize / SharedMemory.pageSize) * SharedMemory.pageSize
            let source = IOVARange(first: IOVA(first), last: IOVA(first + SharedMemory.pageSize - 1))
            do throws(DMAError) {
                try space.copy(source, from: memory, to: page.first, rights: [.read, .write])
            } catch {
                fail("copy", error)
            }
        }
    }

    func unmap(_ pages: [IOVARange]) {
        for start in stride(from: 0, to: pages.count, by: Domain.batch) {
            do throws(DMAError) {
                try space.unmapAll(in: Array(pages[start..<min(pages.count, start + Domain.batch)]))
            } catch {
                fail("unmap", error)
            }
        }
    }

    /// For each of at least `count` pairs.
    func nanoseconds(_ pages: [IOVARange], count: Int) -> Double {
        let rounds = (count + pages.count - 1) / pages.count
        let start = MonotonicInstant.now
        for _ in 0..<rounds {
            copy(pages)
            unmap(pages)
        }
        return Double(MonotonicInstant.now.nanoseconds - start.nanoseconds) / Double(rounds * pages.count)
    }
}
