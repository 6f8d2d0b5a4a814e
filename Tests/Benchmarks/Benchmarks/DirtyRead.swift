import DMA
import LinuxHost

/// How long it takes to read, and clear, what was written to 128 MiB, at several shares of written pages.
func dirtyRead(_ settings: Settings, _ report: Report) throws {
    let byteCount: UInt64 = 128 << 20
    let pageCount = byteCount / 4096
    let object = try MemoryObject.anonymous(byteCount: Int(byteCount))
    let space = IOAddressSpace()
    let access = DMAAccess(needsPin: false, onUnmap: nil)
    let whole = try IOVARange(first: IOVA(1 << 32), byteCount: byteCount)
    try space.map(.file(object, offset: 0), at: whole.first, byteCount: byteCount, rights: [.read, .write])
    try access.attach(to: space)
    try space.startDirtyTracking()
    report.begin(
        "Reading the dirty log",
        "Of 128 MiB, a bit for each 2 KiB, cleared as it is read; microseconds for all 65 536 bits.")
    var table = MarkdownTable(["pages written", "µs"])
    var bitmap = [UInt8](repeating: 0, count: Int(byteCount / 2048 / 8))
    for stride in [1, 16, 1024] as [UInt64] {
        var times: [Double] = []
        for _ in 0..<settings.rounds {
            for page in Swift.stride(from: 0, to: pageCount, by: Int.Stride(stride)) {
                let first = IOVA(whole.first.rawValue + page * 4096)
                unsafe try access.withMemory(IOVARange(first: first, last: first), rights: .write) { _ in }
            }
            for index in bitmap.indices { bitmap[index] = 0 }
            let begin = MonotonicInstant.now
            try unsafe bitmap.withUnsafeMutableBytes { bytes in
                unsafe try space.readDirty(whole, pageSize: 2048, into: bytes)
            }
            times.append(Double(MonotonicInstant.now.nanoseconds - begin.nanoseconds) / 1000)
            let bits = bitmap.reduce(0) { $0 + $1.nonzeroBitCount }
            precondition(bits == 2 * Int((pageCount + stride - 1) / stride), "every written page is reported")
        }
        let figures = Figures(times)
        report.record("dirty", "1 of \(stride)", "read", "µs", figures)
        table.add(["1 of \(stride)", figures.text])
    }
    report.write("\n" + table.text)
    access.destroy()
}
