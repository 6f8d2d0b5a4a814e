import DMA
import DeviceModel
import Glibc
import LinuxHost
import PCI
import Synchronization
import Virtio

/// A virtio function with the three kinds of memory of the model, driven through the face that a session uses.
final class VirtioMachine {
    let device: VirtqueueModel.Device
    private let function: any Device
    private let space = IOAddressSpace()
    private let memory: MemoryObject
    /// What the device has been given to read.
    private var shown: [UInt8] = []
    /// Where the three kinds lie in the object.
    private static let writableOffset = VirtqueueModel.readableByteCount
    private static let usedOffset = writableOffset + VirtqueueModel.writableByteCount
    private static let patience = Duration.seconds(5)

    init(_ device: VirtqueueModel.Device, _ function: any Device) throws {
        self.device = device
        self.function = function
        memory = try MemoryObject.anonymous(byteCount: Self.usedOffset + VirtqueueModel.usedByteCount)
        for (base, offset, byteCount, rights) in [
            (VirtqueueModel.readableBase, 0, VirtqueueModel.readableByteCount, AccessRights.read),
            (VirtqueueModel.writableBase, Self.writableOffset, VirtqueueModel.writableByteCount, .write),
            (VirtqueueModel.usedBase, Self.usedOffset, VirtqueueModel.usedByteCount, .write),
        ] {
            try space.map(
                .file(memory, offset: UInt64(offset)), at: IOVA(base), byteCount: UInt64(byteCount), rights: rights)
        }
        try function.attach(to: space)
        becomeBusMaster()
    }

    deinit { function.detach() }
}

/// Registers.
extension VirtioMachine {
    func read(_ region: Int, _ offset: UInt64, _ byteCount: Int) -> UInt64 {
        var bytes = [UInt8](repeating: 0, count: byteCount)
        var span = bytes.mutableSpan
        function.readRegion(region, at: offset, into: &span)
        return bytes.reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    func write(_ region: Int, _ offset: UInt64, _ byteCount: Int, _ value: UInt64) {
        let bytes = (0..<byteCount).map { UInt8(truncatingIfNeeded: value >> UInt64($0 * 8)) }
        function.writeRegion(region, at: offset, from: bytes.span)
    }

    private func becomeBusMaster() { write(PCIRegion.configuration, 4, 2, 6) }

    private var status: UInt64 { read(4, 20, 1) }

    /// Whether the device has said that it cannot go on.
    var needsReset: Bool { status & 64 != 0 }

    /// Agrees on features, sets queue 0 up and has the device run. Memory is as after power-on.
    func begin(size: Int, features: UInt64) throws(Finding) {
        fill(0, VirtqueueModel.readableByteCount, 0)
        shown = [UInt8](repeating: 0, count: VirtqueueModel.readableByteCount)
        fill(Self.writableOffset, VirtqueueModel.writableByteCount, VirtqueueModel.blank)
        fill(Self.usedOffset, VirtqueueModel.usedByteCount, 0)
        write(4, 20, 1, 3)
        for word in 0..<2 as Range<UInt64> {
            write(4, 8, 4, word)
            write(4, 12, 4, (features | 1 << 32) >> (word * 32) & 0xffff_ffff)
        }
        write(4, 20, 1, 11)
        write(4, 22, 2, 0)
        write(4, 24, 2, UInt64(size))
        try require(read(4, 24, 2) == UInt64(size), "the queue does not get \(size) entries")
        write(4, 32, 8, VirtqueueModel.readableBase)
        write(4, 40, 8, VirtqueueModel.readableBase + UInt64(VirtqueueModel.availableOffset))
        write(4, 48, 8, VirtqueueModel.usedBase)
        write(4, 28, 2, 1)
        write(4, 20, 1, 15)
        try require(status == 15, "the device does not agree: \(status)")
    }

    func kick() { write(4, 0x3000, 2, 0) }

    /// Resets the device as a driver does, and then the function, which is to work afterwards.
    func reset() throws(Finding) {
        write(4, 20, 1, 0)
        try wait("the device is not reset") { status == 0 }
        resetFunction()
    }

    func resetFunction() {
        function.reset()
        becomeBusMaster()
    }

    /// A driver as it should be, whose one buffer must come back.
    func meet() throws(Finding) {
        var model = VirtqueueModel(device: device, size: 8, hasTables: false)
        try begin(size: 8, features: 0)
        model.set(0, address: VirtqueueModel.readableBase + UInt64(VirtqueueModel.bytesOffset), 16, flags: 1, next: 1)
        model.set(1, address: VirtqueueModel.writableBase, 16, flags: 2, next: 0)
        model.offer(0, number: 0)
        model.setAvailableIndex(1)
        show(model)
        let error = model.kick()
        try require(error == nil, "the model does not know a good buffer: \(error ?? "")")
        kick()
        try wait("the next driver is not served") { usedIndex == 1 }
        try compare(model)
        try reset()
    }

    private func wait(_ complaint: String, until isDone: () -> Bool) throws(Finding) {
        let end = MonotonicInstant.after(Self.patience)
        while !isDone() {
            try require(end > .now, "\(complaint); the device's status is \(status), the used index \(usedIndex)")
            sched_yield()
        }
    }
}

/// Memory.
extension VirtioMachine {
    /// Shows the device what the model has for it to read; the available index last.
    func show(_ model: VirtqueueModel) {
        shown = model.readable
        let index = VirtqueueModel.availableOffset + 2..<VirtqueueModel.availableOffset + 4
        for (place, byte) in shown.enumerated() where !index.contains(place) { unsafe memory.bytes[place] = byte }
        // The device may look before it is told to.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        unsafe memory.bytes.storeBytes(
            of: shown.u16(at: index.lowerBound).littleEndian, toByteOffset: index.lowerBound, as: UInt16.self)
    }

    private func fill(_ start: Int, _ byteCount: Int, _ value: UInt8) {
        unsafe UnsafeMutableRawBufferPointer(rebasing: memory.bytes[start..<start + byteCount])
            .initializeMemory(as: UInt8.self, repeating: value)
    }

    var usedIndex: Int { unsafe Int(memory.bytes.load(fromByteOffset: Self.usedOffset + 2, as: UInt16.self)) }

    func waitForUsed(_ index: Int) throws(Finding) {
        try wait("the used index does not become \(index)") { usedIndex == index & 0xffff }
    }

    func waitForNeedsReset() throws(Finding) {
        try wait("the device does not end its work") { needsReset }
    }

    /// Whether memory is what the model has made of it.
    func compare(_ model: VirtqueueModel) throws(Finding) {
        for place in 0..<VirtqueueModel.readableByteCount where unsafe memory.bytes[place] != shown[place] {
            throw Finding("the device has written to 0x\(String(place, radix: 16)) of what it may read")
        }
        for place in 0..<VirtqueueModel.writableByteCount where !model.isOpen[place] {
            let found = unsafe memory.bytes[Self.writableOffset + place]
            try require(
                found == model.writable[place],
                "byte 0x\(String(place, radix: 16)) is \(found), not \(model.writable[place])")
        }
        try require(usedIndex == model.used.count & 0xffff, "the used index is \(usedIndex), not \(model.used.count)")
        let known = min(model.used.count, model.size)
        for number in model.used.count - known..<model.used.count {
            let place = Self.usedOffset + 4 + number % model.size * 8
            let head = unsafe memory.bytes.load(fromByteOffset: place, as: UInt32.self)
            let byteCount = unsafe memory.bytes.load(fromByteOffset: place + 4, as: UInt32.self)
            let expected = model.used[number]
            try require(
                Int(head) == expected.head && Int(byteCount) == expected.byteCount,
                "used entry \(number) is \(head), \(byteCount), not \(expected)")
        }
    }
}
