import Synchronization

/// A short way from addresses to mappings for address spaces with many: tables of 512 entries over tables, as a
/// processor has for its pages, that readers walk without a lock.
///
/// An entry leads to a mapping that touches all of what the entry stands for (or, in the lowest tables, a part of the
/// page), to a table, or nowhere. It only ever helps: what it does not know, the mapping tree does. So it need not hold
/// two mappings that share a page, and it may refuse to grow for mappings that lie far apart, which would cost a table
/// each.
///
/// One writer at a time.
@safe
struct PageDirectory: ~Copyable {
    fileprivate static var levelBits: UInt64 { 9 }
    /// What all 2^64 addresses take in pages of `minimumPageShift` bits and more.
    private static var maximumHeight: UInt64 { 6 }
    static var minimumPageShift: UInt64 { UInt64(UInt64.bitWidth) - maximumHeight * levelBits }
    /// Tables that any address space may have, 4 MiB of them.
    private static var freeTableCount: Int { 1024 }
    /// Past those, the mappings that there have to be for one table more: 16 bytes for each.
    private static var mappingsPerTable: Int { 256 }
    private static var maximumSpareCount: Int { 64 }

    /// Has the top table and, in its low bits, the number of levels, where readers find them; zero when there is nothing.
    private let translation: Translation
    private let pageShift: UInt64
    private var height: UInt64 = 0
    private var top: DirectoryTable?
    private var tableCount = 0
    private var retired: [DirectoryTable] = []
    private var spare: [DirectoryTable] = []

    init(_ translation: Translation) {
        self.translation = translation
        pageShift = translation.pageShift
    }

    deinit {
        if let top { PageDirectory.deallocate(below: top) }
        for table in retired { table.deallocate() }
        for table in spare { table.deallocate() }
    }

    private static func deallocate(below table: DirectoryTable) {
        for index in 0..<DirectoryTable.entryCount {
            if let child = table.entry(index).table { deallocate(below: child) }
        }
        table.deallocate()
    }

    /// A mapping that touches the page of an address, if one is known. For readers in a section.
    @inline(__always)
    static func find(_ iova: UInt64, from translation: Translation) -> Mapping? {
        let bits = translation.directoryRoot
        guard var table = DirectoryTable(bits: bits & ~7) else { return nil }
        var shift = translation.pageShift + levelBits * (UInt64(bits & 7) - 1)
        var index = iova >> shift
        guard index < DirectoryTable.entryCount else { return nil }
        while true {
            let entry = table.entry(Int(truncatingIfNeeded: index))
            guard let child = entry.table else { return entry.mapping }
            table = child
            shift &-= levelBits
            index = (iova >> shift) & UInt64(DirectoryTable.entryCount - 1)
        }
    }
}

// Changes

extension PageDirectory {
    /// Makes a mapping known, as far as there is room.
    ///
    /// - Parameter mappingCount: how many mappings the space has, which bounds what the directory may cost.
    mutating func insert(_ mapping: Mapping, mappingCount: Int) {
        let budget = PageDirectory.freeTableCount + mappingCount / PageDirectory.mappingsPerTable
        let pages = Pages(mapping.range, pageShift)
        while height == 0 || !reaches(pages.last) {
            guard let table = makeTable(within: budget) else { return }
            if let top { table.set(0, .init(top)) }
            top = table
            height += 1
            publishTop()
        }
        if let top { enter(mapping, pages, below: top, level: height - 1, firstPage: 0, budget) }
    }

    /// Whether the top table has an entry for a page.
    private func reaches(_ page: UInt64) -> Bool {
        height >= PageDirectory.maximumHeight || page >> (PageDirectory.levelBits * height) == 0
    }

    private mutating func enter(
        _ mapping: Mapping, _ pages: Pages, below table: DirectoryTable, level: UInt64, firstPage: UInt64, _ budget: Int
    ) {
        for index in pages.indices(level: level, firstPage: firstPage) {
            let entryPages = PageDirectory.pages(ofEntry: index, level: level, firstPage: firstPage)
            let entry = table.entry(index)
            if let child = entry.table {
                enter(mapping, pages, below: child, level: level - 1, firstPage: entryPages.lowerBound, budget)
            } else if entry.mapping == nil {
                if level == 0 || pages.cover(entryPages) {
                    table.set(index, .init(mapping))
                } else if let child = makeTable(within: budget) {
                    enter(mapping, pages, below: child, level: level - 1, firstPage: entryPages.lowerBound, budget)
                    table.set(index, .init(child))
                }
            }
        }
    }

    /// Forgets a mapping, if it is known: there may have been no room to grow up to its addresses.
    mutating func remove(_ mapping: Mapping) {
        let pages = Pages(mapping.range, pageShift)
        guard let top, reaches(pages.first) else { return }
        leave(mapping, pages, below: top, level: height - 1, firstPage: 0)
        if top.usedCount == 0 { removeAll() }
    }

    private mutating func leave(
        _ mapping: Mapping, _ pages: Pages, below table: DirectoryTable, level: UInt64, firstPage: UInt64
    ) {
        for index in pages.indices(level: level, firstPage: firstPage) {
            let entryPages = PageDirectory.pages(ofEntry: index, level: level, firstPage: firstPage)
            let entry = table.entry(index)
            if let child = entry.table {
                leave(mapping, pages, below: child, level: level - 1, firstPage: entryPages.lowerBound)
                if child.usedCount == 0 {
                    table.set(index, .nothing)
                    retire(child)
                }
            } else if entry == DirectoryEntry(mapping) {
                table.set(index, .nothing)
            }
        }
    }

    /// Forgets everything.
    mutating func removeAll() {
        guard let top else { return }
        self.top = nil
        height = 0
        publishTop()
        retireAll(below: top)
    }

    private mutating func retireAll(below table: DirectoryTable) {
        for index in 0..<DirectoryTable.entryCount {
            if let child = table.entry(index).table { retireAll(below: child) }
        }
        retire(table)
    }

    private func publishTop() {
        translation.directoryRoot = top.map { $0.bits | UInt(height) } ?? 0
    }
}

// Tables

extension PageDirectory {
    var retiredCount: Int { retired.count }

    private mutating func makeTable(within budget: Int) -> DirectoryTable? {
        guard tableCount < budget else { return nil }
        tableCount += 1
        return spare.popLast() ?? DirectoryTable.allocate()
    }

    private mutating func retire(_ table: DirectoryTable) {
        tableCount -= 1
        retired.append(table)
    }

    /// Hands over the retired tables to whoever is about to drain the readers.
    mutating func takeRetired() -> [DirectoryTable] {
        defer { retired = [] }
        return retired
    }

    /// Takes back tables that no reader is in any more.
    mutating func recycle(_ tables: [DirectoryTable]) {
        for table in tables { recycle(table) }
    }

    private mutating func recycle(_ table: DirectoryTable) {
        guard spare.count < PageDirectory.maximumSpareCount else { return table.deallocate() }
        table.clear()
        spare.append(table)
    }
}

/// The pages that a mapping touches, by number.
private struct Pages {
    let first, last: UInt64
    /// The pages of which no byte is another's; empty when there are none.
    private let whole: Range<UInt64>

    init(_ range: IOVARange, _ pageShift: UInt64) {
        let mask = (1 << pageShift) - 1 as UInt64
        first = range.first.rawValue >> pageShift
        last = range.last.rawValue >> pageShift
        let firstWhole = range.first.rawValue & mask == 0 ? first : first + 1
        let endOfWhole = range.last.rawValue & mask == mask ? last + 1 : last
        whole = firstWhole..<max(firstWhole, endOfWhole)
    }

    /// Whether all bytes of these pages are the mapping's.
    func cover(_ pages: Range<UInt64>) -> Bool {
        whole.lowerBound <= pages.lowerBound && pages.upperBound <= whole.upperBound
    }

    /// The entries of a table that stand for pages of the mapping.
    ///
    /// - Parameter firstPage: the first page that the table stands for.
    func indices(level: UInt64, firstPage: UInt64) -> ClosedRange<Int> {
        let shift = level * PageDirectory.levelBits
        let tableLast = firstPage + (UInt64(DirectoryTable.entryCount) << shift) - 1
        let lower = (max(first, firstPage) - firstPage) >> shift
        let upper = (min(last, tableLast) - firstPage) >> shift
        return Int(lower)...Int(upper)
    }
}

extension PageDirectory {
    /// The pages that an entry of a table stands for.
    fileprivate static func pages(ofEntry index: Int, level: UInt64, firstPage: UInt64) -> Range<UInt64> {
        let count: UInt64 = 1 << (level * levelBits)
        let first = firstPage + UInt64(index) * count
        return first..<first + count
    }
}

/// What stands at a place of a directory table.
struct DirectoryEntry: Equatable {
    fileprivate let bits: UInt

    static let nothing = DirectoryEntry(bits: 0)

    fileprivate init(bits: UInt) { self.bits = bits }
    init(_ mapping: Mapping) { bits = UInt(bitPattern: unsafe mapping.record) }
    init(_ table: DirectoryTable) { bits = table.bits | 1 }

    var table: DirectoryTable? { bits & 1 == 1 ? DirectoryTable(bits: bits & ~1) : nil }

    var mapping: Mapping? {
        if bits & 1 == 1 { return nil }
        guard let record = unsafe UnsafeMutablePointer<MappingRecord>(bitPattern: bits) else { return nil }
        return unsafe Mapping(record: record)
    }
}

/// A table of a page directory. The number of entries that lead somewhere is the writer's.
@safe
struct DirectoryTable {
    static let entryCount = 512
    private static let entryOffset = 64

    private let base: UnsafeMutableRawPointer

    init?(bits: UInt) {
        guard let base = unsafe UnsafeMutableRawPointer(bitPattern: bits) else { return nil }
        unsafe self.base = base
    }

    private init(base: UnsafeMutableRawPointer) {
        unsafe self.base = base
    }

    var bits: UInt { UInt(bitPattern: unsafe base) }

    private var entries: UnsafeMutablePointer<Atomic<UInt>> {
        unsafe (base + DirectoryTable.entryOffset).assumingMemoryBound(to: Atomic<UInt>.self)
    }

    var usedCount: Int { unsafe base.load(as: Int.self) }

    static func allocate() -> DirectoryTable {
        let base = UnsafeMutableRawPointer.allocate(
            byteCount: entryOffset + entryCount * MemoryLayout<Atomic<UInt>>.stride, alignment: 64)
        unsafe base.storeBytes(of: 0, as: Int.self)
        let table = unsafe DirectoryTable(base: base)
        for index in 0..<entryCount { unsafe (table.entries + index).initialize(to: Atomic(0)) }
        return table
    }

    func deallocate() {
        unsafe base.deallocate()
    }

    func clear() {
        if usedCount == 0 { return }
        for index in 0..<DirectoryTable.entryCount { unsafe entries[index].store(0, ordering: .relaxed) }
        unsafe base.storeBytes(of: 0, as: Int.self)
    }

    /// - Precondition: the index is below `entryCount`.
    @inline(__always)
    func entry(_ index: Int) -> DirectoryEntry {
        DirectoryEntry(bits: unsafe entries[index].load(ordering: .acquiring))
    }

    func set(_ index: Int, _ entry: DirectoryEntry) {
        let change = (entry == .nothing ? 0 : 1) - (self.entry(index) == .nothing ? 0 : 1)
        unsafe base.storeBytes(of: usedCount + change, as: Int.self)
        unsafe entries[index].store(entry.bits, ordering: .releasing)
    }
}
