import DMA
import DeviceModel
import LinuxHost

/// A device that is not made of PCI parts: it has what the others lack.
///
/// Region 0 can be mapped in part. Region 1 has registers: a write of eight bytes at 0 pins the page at that address and
/// writes into it, at 8 lets go of it, at 16 raises an MSI-X vector. Region 2 can only be written, 3 only be read; 7 is
/// what stands for configuration space. Three of the registers' writes can be rung for. A pin is held until an unmap asks for it.
final class WindowDevice: Device {
    static let windowByteCount = 0x4000
    private static let fileOffset = 0x2000
    static let vectorCount = 8

    let regions: [Region]
    let doorbells = [
        Doorbell(region: 1, offset: 0, value: 0x3000, byteCount: 8, rungBy: [.value(0x3000, byteCount: 8)]),
        Doorbell(region: 1, offset: 8, value: 0, byteCount: 8, rungBy: [.anyWrite]),
        Doorbell(
            region: 1, offset: 16, value: 2, byteCount: 8, rungBy: [.value(2, byteCount: 8), .anyValue(byteCount: 4)]),
    ]
    let interrupts = InterruptSet(counts: [.intx: 1, .msi: 4, .msix: vectorCount, .error: 1, .request: 1])
    private let window: Window
    private let access: DMAAccess
    private let holder: Holder

    private final class Window: Sendable {
        let mapping: MemoryMapping

        init(_ mapping: consuming MemoryMapping) { self.mapping = mapping }
    }

    /// The page that the device holds on to.
    private final class Holder: Sendable {
        private struct State {
            var range: IOVARange?
            var pin: PinBox?
        }

        private final class PinBox {
            private var memory: PinnedMemory?

            init(_ memory: consuming PinnedMemory) { self.memory = consume memory }

            func release() { memory.take()?.unpin() }
        }

        private let state = Monitor(State())

        func hold(_ range: IOVARange, _ memory: consuming PinnedMemory) {
            let box = PinBox(memory)
            state.withLock { state in
                state.pin?.release()
                state = State(range: range, pin: box)
            }
        }

        func release(_ range: IOVARange) {
            state.withLock { state in
                guard let held = state.range, held.first <= range.last, range.first <= held.last else { return }
                state.pin?.release()
                state = State()
            }
        }
    }

    init() throws {
        let size = Self.fileOffset + Self.windowByteCount
        let file = try OwnedDescriptor.anonymousMemory(name: "window", byteCount: size)
        window = Window(try MemoryMapping(of: file, byteCount: size, isWritable: true))
        let holder = Holder()
        self.holder = holder
        access = DMAAccess(needsPin: true) { holder.release($0) }
        var regions = [Region](repeating: .absent, count: 9)
        regions[0] = Region(
            byteCount: UInt64(Self.windowByteCount),
            memory: MappableMemory(
                descriptor: file, fileOffset: UInt64(Self.fileOffset), areas: [0x1000..<0x2000, 0x3000..<0x4000]))
        regions[1] = Region(byteCount: 64)
        regions[2] = Region(byteCount: 64, isReadable: false)
        regions[3] = Region(byteCount: 64, isWritable: false)
        regions[7] = Region(byteCount: 256)
        self.regions = regions
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        for place in bytes.indices {
            switch index {
            case 0: bytes[place] = unsafe window.mapping.bytes[Self.fileOffset + Int(offset) + place]
            case 3: bytes[place] = UInt8(truncatingIfNeeded: Int(offset) + place)
            default: bytes[place] = 0
            }
        }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        if index == 0 {
            for place in bytes.indices {
                unsafe window.mapping.bytes[Self.fileOffset + Int(offset) + place] = bytes[place]
            }
        }
        guard index == 1, bytes.count == 8 else { return }
        let value = bytes.indices.reduce(UInt64(0)) { $0 | UInt64(bytes[$1]) << UInt64(8 * $1) }
        switch offset {
        case 0: pinPage(at: value)
        case 8: holder.release(.everything)
        case 16: interrupts.trigger(.msix, Int(value % UInt64(Self.vectorCount)))
        default: break
        }
    }

    private func pinPage(at address: UInt64) {
        holder.release(.everything)
        guard let range = try? IOVARange(first: IOVA(rawValue: address), byteCount: 4096) else { return }
        guard let memory = try? access.pin(range, rights: [.read, .write]) else { return }
        unsafe memory.forEachSegment { segment in
            for place in segment.indices { unsafe segment[place] = UInt8(truncatingIfNeeded: place) }
        }
        holder.hold(range, memory)
    }

    func reset() { holder.release(.everything) }

    func attach(to space: IOAddressSpace) throws(DMAError) { try access.attach(to: space) }

    func detach() {
        holder.release(.everything)
        try? access.detach()
    }
}
