extension Span<UInt8> {
    /// The little-endian integer whose first byte lies at `offset`.
    ///
    /// Precondition: the integer lies inside the span; callers have compared the length before.
    @inline(__always)
    func integer<Value: FixedWidthInteger & UnsignedInteger>(
        at offset: Int, as type: Value.Type = Value.self
    ) -> Value {
        let width = Value.bitWidth / 8
        precondition(offset >= 0 && width <= count - offset, "a field read outside a checked payload")
        var value: Value = 0
        for index in 0..<width {
            value |= Value(truncatingIfNeeded: self[offset + index]) << (8 * index)
        }
        return value
    }

    /// The 32-bit integer at `offset` as a number of bytes or things, which every `Int` of this platform can hold.
    @inline(__always)
    func count32(at offset: Int) -> Int {
        Int(integer(at: offset, as: UInt32.self))
    }

    func requireCount(atLeast minimum: Int) throws(WireError) {
        if count < minimum { throw .payloadTooShort(minimum: minimum, actual: count) }
    }

    func requireCount(exactly expected: Int) throws(WireError) {
        try requireCount(atLeast: expected)
        if count > expected { throw .trailingBytes(expected: expected, actual: count) }
    }

    /// Compares what follows `offset` with the number of bytes that the message itself states.
    func requireData(from offset: Int, statedCount: Int) throws(WireError) {
        let actual = count - offset
        if actual != statedCount { throw .sizeMismatch(stated: UInt64(statedCount), actual: actual) }
    }

    /// Reads the `argsz` that opens most payloads and refuses one that cannot hold the fixed part.
    func argumentSize(atLeast minimum: Int, atMost maximum: Int = Int.max) throws(WireError) -> Int {
        let size = count32(at: 0)
        if size < minimum { throw .argumentSizeTooSmall(minimum: minimum, actual: size) }
        if size > maximum { throw .argumentSizeTooLarge(maximum: maximum, actual: size) }
        return size
    }
}

extension UInt32 {
    func requireOnly(_ knownBits: UInt32) throws(WireError) {
        let unknown = self & ~knownBits
        if unknown != 0 { throw .reservedBits(unknown) }
    }
}

/// The inclusive range that starts at `address`, refused when it is empty or passes the top of the address space.
func checkedRange(address: UInt64, byteCount: UInt64) throws(WireError) -> ClosedRange<UInt64> {
    if byteCount == 0 { throw .emptyRange }
    let (last, overflow) = address.addingReportingOverflow(byteCount - 1)
    if overflow { throw .rangeOverflow(start: address, byteCount: byteCount) }
    return address...last
}
