import LinuxHost

/// The pages that were written to since they were last asked for, by their addresses.
///
/// Kept in blocks of 512 pages, and those in stripes with a lock each, so that threads that write to different places
/// seldom meet. It costs what was written, however much is mapped.
struct DirtyLog: Sendable {
    /// One bit for each page of a block, the lowest first.
    private struct Block {
        var words = InlineArray<8, UInt64>(repeating: 0)

        var isEmpty: Bool { words.indices.allSatisfy { words[$0] == 0 } }

        func contains(_ page: UInt64) -> Bool { words[Int(page / 64)] & (1 << (page % 64)) != 0 }

        mutating func insert(_ pages: ClosedRange<UInt64>) {
            for page in pages { words[Int(page / 64)] |= 1 << (page % 64) }
        }

        mutating func remove(_ page: UInt64) { words[Int(page / 64)] &= ~(1 << (page % 64)) }
    }

    private static let pagesPerBlock: UInt64 = 512
    private static let stripeCount = 64

    private let pageShift: UInt64
    private let stripes: [Monitor<[UInt64: Block]>]

    init(pageSize: UInt64) {
        pageShift = UInt64(pageSize.trailingZeroBitCount)
        stripes = (0..<DirtyLog.stripeCount).map { _ in Monitor([:], as: .dirtyLog) }
    }

    /// Notes that bytes of a range were written.
    func note(_ range: IOVARange) {
        forEachBlock(of: range) { number, pages in
            stripe(of: number).withLock { $0[number, default: Block()].insert(pages) }
        }
    }

    /// Calls `body` with each written page that has bytes in a range, or what of it lies there, in no particular order.
    /// Strikes those wholly in the range off the list if `clearing`.
    func visit(_ range: IOVARange, clearing: Bool, _ body: (IOVARange) -> Void) {
        for stripe in stripes {
            stripe.withLock { blocks in
                for number in numbers(of: blocks, in: range) {
                    guard var block = blocks[number], let pages = pages(ofBlock: number, in: range) else { continue }
                    for page in pages where block.contains(page) {
                        let bytes = bytes(ofPage: number * DirtyLog.pagesPerBlock + page)
                        guard let part = bytes.intersection(range) else { continue }
                        body(part)
                        if clearing && part == bytes { block.remove(page) }
                    }
                    blocks[number] = block.isEmpty ? nil : block
                }
            }
        }
    }

    /// The numbers of the blocks in a range, found by whichever is less: the blocks there are, or those of the range.
    private func numbers(of blocks: [UInt64: Block], in range: IOVARange) -> [UInt64] {
        let first = (range.first.rawValue >> pageShift) / DirtyLog.pagesPerBlock
        let last = (range.last.rawValue >> pageShift) / DirtyLog.pagesPerBlock
        if last - first < UInt64(blocks.count) { return (first...last).filter { blocks[$0] != nil } }
        return blocks.keys.filter { (first...last).contains($0) }
    }

    func clear() {
        for stripe in stripes { stripe.withLock { $0 = [:] } }
    }

    private func stripe(of number: UInt64) -> Monitor<[UInt64: Block]> {
        stripes[Int(number % UInt64(DirtyLog.stripeCount))]
    }

    /// Calls `body` with the number of each block of a range and the pages of the block that lie in it.
    private func forEachBlock(of range: IOVARange, _ body: (UInt64, ClosedRange<UInt64>) -> Void) {
        let (first, last) = (range.first.rawValue >> pageShift, range.last.rawValue >> pageShift)
        for number in first / DirtyLog.pagesPerBlock...last / DirtyLog.pagesPerBlock {
            if let pages = pages(ofBlock: number, in: range) { body(number, pages) }
        }
    }

    /// The pages of a block that have bytes in a range, counted from the start of the block.
    private func pages(ofBlock number: UInt64, in range: IOVARange) -> ClosedRange<UInt64>? {
        let base = number * DirtyLog.pagesPerBlock
        let first = max(range.first.rawValue >> pageShift, base)
        let last = min(range.last.rawValue >> pageShift, base + DirtyLog.pagesPerBlock - 1)
        return first <= last ? first - base...last - base : nil
    }

    private func bytes(ofPage page: UInt64) -> IOVARange {
        let first = page << pageShift
        return IOVARange(first: IOVA(first), last: IOVA(first + ((1 << pageShift) - 1)))
    }
}
