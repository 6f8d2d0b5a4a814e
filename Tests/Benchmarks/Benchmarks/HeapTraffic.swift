import CProcessCounters
import DMA
import Randomness

/// How often an operation calls the heap, and how often it counts a reference.
func heapTraffic(_ settings: Settings, _ report: Report) throws {
    let memory = try SharedMemory.make()
    let population = Population(mappingCount: 1000)
    var generator = SeededNumbers(seed: 6)
    let keys = population.randomKeys(atLeast: 1000, using: &generator)
    let ranges = (0..<1000).map(population.range)
    let batch = population.hole(3)
    let contender = ContenderKind.outboard.make(memory)
    population.populate(contender)

    report.begin(
        "Heap and reference counts",
        """
        Of the DMA module, per operation at 1000 mappings, one thread: calls to malloc and its relatives, and calls to
        swift_retain and swift_release. Aim: none for translate, pin and unpin.
        """)
    var table = MarkdownTable(["operation", "allocations", "retains and releases"])
    func add(_ operation: String, count: Int, _ body: () -> Void) {
        body()
        let before = count_of_allocations()
        body()
        let allocations = Double(count_of_allocations() - before) / Double(count)
        var references = "unknown"
        if begin_counting_references() {
            body()
            let perOperation = Double(end_counting_references()) / Double(count)
            report.record("heap", operation, "references", "count", Figures([perOperation]))
            references = decimal(perOperation)
        }
        report.record("heap", operation, "allocations", "count", Figures([allocations]))
        table.add([operation, decimal(allocations), references])
    }
    add("translate", count: keys.count) {
        precondition(contender.loadEach(keys.span) != 0, "no value in the memory is zero")
    }
    add("pin and unpin", count: ranges.count) { contender.pinEach(ranges.span) }
    add("map and unmap", count: batch.count) {
        contender.mapEach(batch.span)
        contender.unmapEach(batch.span)
    }
    report.write("\n" + table.text)
}
