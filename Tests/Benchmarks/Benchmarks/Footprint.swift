import CHeapCount
import CProcessCounters
import DMA

/// What a mapping of a page costs when there are very many, and whether they cost anything of the kernel.
func footprint(_ settings: Settings, _ report: Report) throws {
    let count = settings.manyMappings
    report.begin(
        "Memory",
        """
        \(label(count)) mappings of 4 KiB of one memory object, each contender by itself. Heap: what malloc counts as in use
        (`mallinfo2`); resident: pages of the process in memory, whatever they came from. Areas are the lines of
        `/proc/self/maps`; a heap that grows may add some of its own. Aim: 128 bytes, descriptors and areas constant.
        """)
    var table = MarkdownTable([
        "", "heap bytes a mapping", "resident bytes a mapping", "descriptors before, with, after",
        "areas before, with, after",
    ])
    for kind in [ContenderKind.outboard, .array, .tree, .radix] {
        let memory = try SharedMemory.make()
        let population = Population(mappingCount: count)
        release_free_heap()
        let before = Holdings()
        var contender: (any Contender)? = kind.make(memory)
        if let contender { population.populate(contender) }
        release_free_heap()
        let with = Holdings()
        contender = nil
        release_free_heap()
        let after = Holdings()
        let heap = Double(with.heapBytes - before.heapBytes) / Double(count)
        let resident = Double(with.residentBytes - before.residentBytes) / Double(count)
        report.record("memory", kind.name, "heap", "bytes", Figures([heap]))
        report.record("memory", kind.name, "resident", "bytes", Figures([resident]))
        table.add([
            kind.name, decimal(heap), decimal(resident),
            "\(before.descriptors), \(with.descriptors), \(after.descriptors)",
            "\(before.areas), \(with.areas), \(after.areas)",
        ])
    }
    report.write("\n" + table.text)
}

/// What the process has at a moment.
struct Holdings {
    let heapBytes = Int(heap_bytes_in_use())
    let residentBytes = Int(resident_bytes())
    let descriptors = count_of_descriptors()
    let areas = count_of_memory_areas()
}
