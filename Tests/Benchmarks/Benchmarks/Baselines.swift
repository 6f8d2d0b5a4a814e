import CBaselines
import DMA

// The baselines in C as contenders. Each class owns one structure and calls it; the three differ in nothing but the names
// of the functions. An address of the object is valid as long as the object lives, which the contender keeps.

private func check(_ status: Int32) throws(DMAError) {
    guard status == 0 else { throw DMAError(errno: status) }
}

extension AccessRights {
    /// `BASELINE_READ` and `BASELINE_WRITE` have the same values.
    fileprivate var baseline: UInt8 { rawValue }
}

extension MemoryObject {
    fileprivate func address(_ offset: Int) -> UnsafeMutablePointer<UInt8>? {
        unsafe bytes.baseAddress?.advanced(by: offset).assumingMemoryBound(to: UInt8.self)
    }
}

extension baseline_pin {
    fileprivate var value: UInt64 { unsafe UnsafeRawPointer(memory).loadUnaligned(as: UInt64.self) }
}

/// A sorted array that is searched without branches.
@safe
final class ArrayContender: Contender, @unchecked Sendable {  // The structure locks itself, if it was asked to.
    private let array: OpaquePointer
    private let memory: MemoryObject

    init(_ memory: MemoryObject, locked: Bool) {
        unsafe array = sorted_array_create(locked)
        self.memory = memory
    }

    deinit { unsafe sorted_array_destroy(array) }

    func map(_ range: IOVARange, offset: Int, rights: AccessRights) throws(DMAError) {
        try check(
            unsafe sorted_array_map(
                array, range.first.rawValue, range.last.rawValue, memory.address(offset), rights.baseline))
    }

    func unmap(_ range: IOVARange) throws(DMAError) -> UInt64 {
        var byteCount: UInt64 = 0
        try check(unsafe sorted_array_unmap(array, range.first.rawValue, range.last.rawValue, &byteCount))
        return byteCount
    }

    func load(_ iova: IOVA) throws(DMAError) -> UInt64 {
        var value: UInt64 = 0
        try check(unsafe sorted_array_load(array, iova.rawValue, &value))
        return value
    }

    func read(_ iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try check(unsafe sorted_array_read(array, iova.rawValue, buffer.baseAddress, buffer.count))
    }

    func pinAndUnpin(_ range: IOVARange) throws(DMAError) {
        unsafe sorted_array_unpin(array, try pin(range))
    }

    func hold(_ range: IOVARange) throws(DMAError) -> HeldPin {
        let pin = unsafe try pin(range)
        return unsafe HeldPin(value: pin.value) { [self] in unsafe sorted_array_unpin(array, pin) }
    }

    private func pin(_ range: IOVARange) throws(DMAError) -> baseline_pin {
        var pin = unsafe baseline_pin()
        try check(
            unsafe sorted_array_pin(
                array, range.first.rawValue, Int(range.byteCount), AccessRights.read.baseline, &pin))
        return unsafe pin
    }
}

/// A red-black tree.
@safe
final class TreeContender: Contender, @unchecked Sendable {  // The structure locks itself, if it was asked to.
    private let tree: OpaquePointer
    private let memory: MemoryObject

    init(_ memory: MemoryObject, locked: Bool) {
        unsafe tree = tree_create(locked)
        self.memory = memory
    }

    deinit { unsafe tree_destroy(tree) }

    var isSound: Bool { unsafe tree_is_sound(tree) }

    func map(_ range: IOVARange, offset: Int, rights: AccessRights) throws(DMAError) {
        try check(
            unsafe tree_map(tree, range.first.rawValue, range.last.rawValue, memory.address(offset), rights.baseline))
    }

    func unmap(_ range: IOVARange) throws(DMAError) -> UInt64 {
        var byteCount: UInt64 = 0
        try check(unsafe tree_unmap(tree, range.first.rawValue, range.last.rawValue, &byteCount))
        return byteCount
    }

    func load(_ iova: IOVA) throws(DMAError) -> UInt64 {
        var value: UInt64 = 0
        try check(unsafe tree_load(tree, iova.rawValue, &value))
        return value
    }

    func read(_ iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try check(unsafe tree_read(tree, iova.rawValue, buffer.baseAddress, buffer.count))
    }

    func pinAndUnpin(_ range: IOVARange) throws(DMAError) {
        unsafe tree_unpin(tree, try pin(range))
    }

    func hold(_ range: IOVARange) throws(DMAError) -> HeldPin {
        let pin = unsafe try pin(range)
        return unsafe HeldPin(value: pin.value) { [self] in unsafe tree_unpin(tree, pin) }
    }

    private func pin(_ range: IOVARange) throws(DMAError) -> baseline_pin {
        var pin = unsafe baseline_pin()
        try check(
            unsafe tree_pin(tree, range.first.rawValue, Int(range.byteCount), AccessRights.read.baseline, &pin))
        return unsafe pin
    }
}

/// A page table whose readers are protected by epochs.
@safe
final class RadixContender: Contender, @unchecked Sendable {  // Made for threads.
    private let radix: OpaquePointer
    private let memory: MemoryObject

    init(_ memory: MemoryObject) {
        unsafe radix = radix_create()
        self.memory = memory
    }

    deinit { unsafe radix_destroy(radix) }

    func map(_ range: IOVARange, offset: Int, rights: AccessRights) throws(DMAError) {
        try check(
            unsafe radix_map(radix, range.first.rawValue, range.last.rawValue, memory.address(offset), rights.baseline))
    }

    func unmap(_ range: IOVARange) throws(DMAError) -> UInt64 {
        var byteCount: UInt64 = 0
        try check(unsafe radix_unmap(radix, range.first.rawValue, range.last.rawValue, &byteCount))
        return byteCount
    }

    func load(_ iova: IOVA) throws(DMAError) -> UInt64 {
        var value: UInt64 = 0
        try check(unsafe radix_load(radix, iova.rawValue, &value))
        return value
    }

    func read(_ iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try check(unsafe radix_read(radix, iova.rawValue, buffer.baseAddress, buffer.count))
    }

    func pinAndUnpin(_ range: IOVARange) throws(DMAError) {
        unsafe radix_unpin(radix, try pin(range))
    }

    func hold(_ range: IOVARange) throws(DMAError) -> HeldPin {
        let pin = unsafe try pin(range)
        return unsafe HeldPin(value: pin.value) { [self] in unsafe radix_unpin(radix, pin) }
    }

    private func pin(_ range: IOVARange) throws(DMAError) -> baseline_pin {
        var pin = unsafe baseline_pin()
        try check(
            unsafe radix_pin(radix, range.first.rawValue, Int(range.byteCount), AccessRights.read.baseline, &pin))
        return unsafe pin
    }
}
