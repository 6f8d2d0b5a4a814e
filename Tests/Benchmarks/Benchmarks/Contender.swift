import DMA

/// An I/O address space as the measurements use it: the one of the DMA module, or a baseline.
///
/// The loops are requirements although one implementation serves all: so the compiler makes one of them for each contender,
/// and a call through the protocol costs once for a loop and not once for each step of it.
protocol Contender: AnyObject, Sendable {
    /// Maps memory of the contender's object from `offset` on.
    func map(_ range: IOVARange, offset: Int, rights: AccessRights) throws(DMAError)
    /// - Returns: the number of bytes that were mapped.
    func unmap(_ range: IOVARange) throws(DMAError) -> UInt64
    /// The eight bytes at an aligned address: what it takes to find the memory, be allowed to touch it, and be done.
    func load(_ iova: IOVA) throws(DMAError) -> UInt64
    /// Fills the buffer from one mapping.
    func read(_ iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError)
    func pinAndUnpin(_ range: IOVARange) throws(DMAError)
    /// Pins with read rights, and keeps the pin.
    func hold(_ range: IOVARange) throws(DMAError) -> HeldPin

    /// Loads from each address; the look-ups do not depend on each other. Returns the sum of what was there.
    func loadEach(_ keys: Span<IOVA>) -> UInt64
    /// Pins and unpins each range.
    func pinEach(_ ranges: Span<IOVARange>)
    /// Maps each range, a page, to the page of the object that has its number there.
    func mapEach(_ pages: Span<IOVARange>)
    func unmapEach(_ ranges: Span<IOVARange>)
}

/// Eight numbers of eight bytes.
typealias CacheLine = InlineArray<8, UInt64>

extension Contender {
    /// The 64 bytes at an address.
    func readLine(_ iova: IOVA) throws(DMAError) -> CacheLine {
        var line = CacheLine(repeating: 0)
        // The buffer is the value itself.
        try unsafe withUnsafeMutableBytes(of: &line) { (bytes) throws(DMAError) in
            try unsafe read(iova, into: bytes)
        }
        return line
    }
}

/// A pin, and the first eight bytes of what it holds. It keeps its contender.
struct HeldPin {
    let value: UInt64
    let release: () -> Void
}

extension Contender {
    func loadEach(_ keys: Span<IOVA>) -> UInt64 {
        var sum: UInt64 = 0
        for index in keys.indices {
            do throws(DMAError) {
                sum &+= try load(keys[index])
            } catch {
                fail("load", error)
            }
        }
        return sum
    }

    func pinEach(_ ranges: Span<IOVARange>) {
        for index in ranges.indices {
            do throws(DMAError) {
                try pinAndUnpin(ranges[index])
            } catch {
                fail("pin", error)
            }
        }
    }

    func mapEach(_ pages: Span<IOVARange>) {
        for index in pages.indices {
            do throws(DMAError) {
                try map(pages[index], offset: SharedMemory.offset(of: pages[index].first), rights: [.read, .write])
            } catch {
                fail("map", error)
            }
        }
    }

    func unmapEach(_ ranges: Span<IOVARange>) {
        for index in ranges.indices {
            do throws(DMAError) {
                _ = try unmap(ranges[index])
            } catch {
                fail("unmap", error)
            }
        }
    }
}

/// The measurements ask only for what works; a refusal would make their numbers worthless.
func fail(_ operation: String, _ error: DMAError) -> Never {
    fatalError("\(operation) failed while it was measured: \(error)")
}

/// Which address spaces there are.
enum ContenderKind: CaseIterable {
    case outboard, array, arrayWithMutex, tree, treeWithMutex, radix

    /// Those that several threads may use at once.
    static let forThreads: [ContenderKind] = [.outboard, .arrayWithMutex, .treeWithMutex, .radix]

    var name: String {
        switch self {
        case .outboard: "Outboard"
        case .array: "array"
        case .arrayWithMutex: "array, mutex"
        case .tree: "tree"
        case .treeWithMutex: "tree, mutex"
        case .radix: "radix, epoch"
        }
    }

    /// A new address space without mappings.
    ///
    /// - Parameter patience: whether an unmap waits for pins, where the contender can.
    func make(_ memory: MemoryObject, patience: Bool = true) -> any Contender {
        switch self {
        case .outboard: OutboardContender(memory, patience: patience)
        case .array: ArrayContender(memory, locked: false)
        case .arrayWithMutex: ArrayContender(memory, locked: true)
        case .tree: TreeContender(memory, locked: false)
        case .treeWithMutex: TreeContender(memory, locked: true)
        case .radix: RadixContender(memory)
        }
    }
}
