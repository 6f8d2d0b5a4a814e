extension WireError {
    /// The Linux error number that answers a request with this fault.
    ///
    /// The standard and the reference server know one answer for a request that cannot be read; the switch stays
    /// exhaustive so that a new case has to choose.
    public var errno: Int32 {
        switch self {
        case .messageTooShort, .messageTooLong, .unknownMessageType, .unknownCommand, .wrongDirection,
            .payloadTooShort, .trailingBytes, .sizeMismatch, .reservedBits, .unknownValue, .conflictingFlags,
            .argumentSizeTooSmall, .argumentSizeTooLarge, .emptyRange, .rangeOverflow, .countTooLarge,
            .wrongDescriptorCount, .brokenCapabilityChain:
            22  // EINVAL
        }
    }

    /// Whether the end of the message is unknown, so that nothing after it can be read and the connection must close.
    public var losesFraming: Bool {
        switch self {
        case .messageTooShort, .messageTooLong, .unknownMessageType:
            true
        case .unknownCommand, .wrongDirection, .payloadTooShort, .trailingBytes, .sizeMismatch, .reservedBits,
            .unknownValue, .conflictingFlags, .argumentSizeTooSmall, .argumentSizeTooLarge, .emptyRange,
            .rangeOverflow, .countTooLarge, .wrongDescriptorCount, .brokenCapabilityChain:
            false
        }
    }
}
