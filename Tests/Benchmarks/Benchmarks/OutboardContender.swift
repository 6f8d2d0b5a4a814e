import DMA

/// The DMA module, with one access that may pin.
final class OutboardContender: Contender {
    private let space: IOAddressSpace
    private let access = DMAAccess(needsPin: true, onUnmap: { _ in })
    private let memory: MemoryObject

    init(_ memory: MemoryObject, patience: Bool) {
        var configuration = IOAddressSpace.Configuration()
        if !patience {
            configuration.unmapRounds = 1
            configuration.unmapWait = .zero
        }
        self.memory = memory
        space = IOAddressSpace(configuration)
        do throws(DMAError) {
            try access.attach(to: space)
        } catch {
            fail("attach", error)
        }
    }

    deinit {
        access.destroy()
    }

    func map(_ range: IOVARange, offset: Int, rights: AccessRights) throws(DMAError) {
        try space.map(
            .file(memory, offset: UInt64(offset)), at: range.first, byteCount: range.byteCount, rights: rights)
    }

    func unmap(_ range: IOVARange) throws(DMAError) -> UInt64 {
        try space.unmap(range)
    }

    /// Unmaps the ranges as one operation.
    func unmapTogether(_ ranges: [IOVARange]) {
        do throws(DMAError) {
            try space.unmapAll(in: ranges)
        } catch {
            fail("unmap", error)
        }
    }

    func load(_ iova: IOVA) throws(DMAError) -> UInt64 {
        var value: UInt64 = 0
        // The memory is there while the closure runs.
        unsafe try access.withMemory(IOVARange(first: iova, last: IOVA(iova.rawValue + 7)), rights: .read) {
            unsafe value = $0.loadUnaligned(as: UInt64.self)
        }
        return value
    }

    func read(_ iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        unsafe try access.read(IOVARange(first: iova, byteCount: UInt64(buffer.count)), into: buffer)
    }

    func pinAndUnpin(_ range: IOVARange) throws(DMAError) {
        try access.pin(range, rights: .read).unpin()
    }

    func hold(_ range: IOVARange) throws(DMAError) -> HeldPin {
        let pin = try access.pin(range, rights: .read)
        var value: UInt64 = 0
        // Pinned memory may be read until it is released.
        unsafe pin.forEachSegment { unsafe value = $0.loadUnaligned(as: UInt64.self) }
        let box = PinBox(pin, of: self)
        return HeldPin(value: value, release: box.release)
    }
}

/// A pin that a closure can own, and the contender, which must outlive it.
private final class PinBox {
    private var pin: PinnedMemory?
    private let contender: OutboardContender

    init(_ pin: consuming PinnedMemory, of contender: OutboardContender) {
        self.pin = consume pin
        self.contender = contender
    }

    func release() { pin.take()?.unpin() }
}
