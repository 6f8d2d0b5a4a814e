import Randomness
import VFIOUserCheck

/// What one input says about the rings of a device.
struct VirtqueueScript {
    private(set) var model: VirtqueueModel
    private let machine: VirtioMachine
    private let features: UInt64
    private var nextEntry = 0

    init(_ machine: VirtioMachine, _ choices: inout Choices) {
        self.machine = machine
        let size = 1 << choices.below(machine.device.maximumSize.trailingZeroBitCount + 1)
        let agreed = choices.byte()
        features = UInt64(agreed & 1 ^ 1) << 28 | UInt64(agreed >> 1 & 1) << 29
        model = VirtqueueModel(device: machine.device, size: size, hasTables: agreed & 1 == 0)
        // A byte to read each, so that entries of any kind come to something.
        let address = VirtqueueModel.readableBase + UInt64(VirtqueueModel.bytesOffset)
        for index in 0..<size { model.set(index, address: address, 1, flags: 0, next: 0) }
    }

    func begin() throws(Finding) { try machine.begin(size: model.size, features: features) }

    /// One step.
    ///
    /// - Returns: the error that it makes the device end its work with, if it does.
    mutating func step(_ choices: inout Choices) throws(Finding) -> String? {
        switch choices.below(12) {
        case 0, 1: goodChain(&choices)
        case 2, 3: goodTable(&choices)
        case 4: descriptor(&choices, table: nil)
        case 5: descriptor(&choices, table: choices.below(64))
        case 6: model.offer(choices.below(choices.chance(16) ? 1 << 16 : model.size), number: advance())
        case 7: model.readable.put(choices.edge(), at: choices.below(VirtqueueModel.bytesOffset - 8), byteCount: 2)
        default: return try kick(&choices)
        }
        return nil
    }

    /// A chain of a few descriptors as a driver makes it, and perhaps its entry.
    private mutating func goodChain(_ choices: inout Choices) {
        let count = min(model.size, 1 + choices.below(4))
        let first = choices.below(model.size)
        let readableCount = choices.below(count + 1)
        for number in 0..<count {
            let isWritable = number >= readableCount
            var (address, byteCount) = piece(&choices, isWritable: isWritable)
            if choices.chance(4) { address = choices.edge() }
            if choices.chance(4) { byteCount = UInt32(truncatingIfNeeded: choices.edge()) }
            let next = (first + number + 1) % model.size
            model.set(
                (first + number) % model.size, address: address, byteCount,
                flags: (isWritable ? 2 : 0) | (number + 1 < count ? 1 : 0), next: next)
        }
        if !choices.chance(32) { model.offer(first, number: advance()) }
    }

    /// A table of a few descriptors as a driver makes it, and its entry.
    private mutating func goodTable(_ choices: inout Choices) {
        let count = 1 + choices.below(6)
        let place = choices.below(58)
        let readableCount = choices.below(count + 1)
        for number in 0..<count {
            let isWritable = number >= readableCount
            let (address, byteCount) = piece(&choices, isWritable: isWritable)
            model.set(
                number, address: address, byteCount, flags: (isWritable ? 2 : 0) | (number + 1 < count ? 1 : 0),
                next: number + 1, table: place)
        }
        let head = choices.below(model.size)
        model.set(
            head, address: VirtqueueModel.table(place), UInt32(count * 16), flags: choices.chance(64) ? 6 : 4, next: 0)
        model.offer(head, number: advance())
    }

    /// Any descriptor, more often nearly right than not.
    private mutating func descriptor(_ choices: inout Choices, table: Int?) {
        let index = choices.below(table == nil ? model.size : 16)
        let isWritable = choices.byte() & 1 != 0
        var (address, byteCount) = piece(&choices, isWritable: isWritable)
        let flags = choices.chance(224) ? UInt16(isWritable ? 2 : 0) : UInt16(choices.byte() & 7)
        let next = choices.below(model.size + 1)
        switch choices.below(8) {
        case 0: address = choices.edge()
        case 1: byteCount = UInt32(truncatingIfNeeded: choices.edge())
        case 2:
            address = VirtqueueModel.table(choices.below(64))
            byteCount = UInt32(choices.below(10) * 16 + (choices.chance(32) ? 8 : 0))
        default: break
        }
        model.set(
            index, address: address, byteCount, flags: flags | (choices.chance(96) ? 1 : 0), next: next, table: table)
    }

    private func piece(_ choices: inout Choices, isWritable: Bool) -> (UInt64, UInt32) {
        let byteCount = UInt32(1 + choices.below(choices.chance(32) ? 4096 : 64))
        // Now and then what is to be read lies where something else may be written.
        if isWritable || choices.chance(4) {
            return (VirtqueueModel.writableBase + UInt64(choices.below(VirtqueueModel.writableByteCount)), byteCount)
        }
        let room = VirtqueueModel.readableByteCount - VirtqueueModel.bytesOffset
        return (VirtqueueModel.readableBase + UInt64(VirtqueueModel.bytesOffset + choices.below(room)), byteCount)
    }

    private mutating func advance() -> Int {
        defer { nextEntry += 1 }
        return nextEntry
    }

    private mutating func kick(_ choices: inout Choices) throws(Finding) -> String? {
        if choices.chance(4) { nextEntry = choices.below(1 << 16) }
        model.setAvailableIndex(nextEntry)
        machine.show(model)
        let error = model.kick()
        guard !model.isSpoiled else { return nil }
        machine.kick()
        if error == nil { try machine.waitForUsed(model.used.count) } else { try machine.waitForNeedsReset() }
        return error
    }

    func compare() throws(Finding) { try machine.compare(model) }
}

extension VirtqueueModel {
    /// Tables begin every 128 bytes.
    static func table(_ place: Int) -> UInt64 { readableBase + UInt64(tablesOffset + place * 128) }

    /// Writes a descriptor of the queue's table or of one elsewhere.
    mutating func set(
        _ index: Int, address: UInt64, _ byteCount: UInt32, flags: UInt16, next: Int, table: Int? = nil
    ) {
        let start = (table.map { Self.tablesOffset + $0 * 128 } ?? 0) + index * 16
        readable.put(address, at: start, byteCount: 8)
        readable.put(UInt64(byteCount), at: start + 8, byteCount: 4)
        readable.put(UInt64(flags), at: start + 12, byteCount: 2)
        readable.put(UInt64(next), at: start + 14, byteCount: 2)
    }

    mutating func offer(_ head: Int, number: Int) {
        readable.put(UInt64(head), at: Self.availableOffset + 4 + number % size * 2, byteCount: 2)
    }

    mutating func setAvailableIndex(_ index: Int) {
        readable.put(UInt64(index & 0xffff), at: Self.availableOffset + 2, byteCount: 2)
    }
}

/// Inputs by seed.
public enum VirtqueueInputs {
    public static func input(seed: UInt64, number: UInt64) -> [UInt8] {
        var random = SeededNumbers(seed: seed, run: number)
        var input = random.bytes(16 + random.below(1 << (5 + random.below(5))))
        // In turn, so that no device depends on luck.
        input[0] = UInt8(number % 2)
        return input
    }
}
