import PCI

/// The registers of the copy engine, in BAR 0.
public enum CopyEngineRegister: Hashable, Sendable {
    case identification, version, pasidLimit, pageRequestCapabilities, control, status
    case commandRingBase, commandRingSize, commandRingHead, commandRingTail
    case workRingBase, workRingSize, workRingHead, workRingTail
    case pageRequestRingBase, pageRequestRingSize, pageRequestRingHead, pageRequestRingTail
    case groupsAnswered, groupsRefused, waitTotal, longestWait

    /// - Parameters:
    ///   - pasidLimit: PASIDs are below.
    ///   - requestsPerGroup, outstandingRequests: how many page requests there may be.
    static func map(
        pasidLimit: Int, requestsPerGroup: Int, outstandingRequests: Int
    ) -> RegisterMap<CopyEngineRegister> {
        let own: [RegisterDeclaration<Self>] = [
            .init(.identification, "Identification", at: 0x00, byteCount: 4, reset: 0x5950_4f43, .readOnly),
            .init(.version, "Version", at: 0x04, byteCount: 4, reset: 1, .readOnly),
            .init(.pasidLimit, "PASID Limit", at: 0x08, byteCount: 4, reset: UInt64(pasidLimit), .readOnly),
            .init(
                .pageRequestCapabilities, "Page Request Capabilities", at: 0x0c, byteCount: 4,
                reset: UInt64(outstandingRequests) << 16 | UInt64(requestsPerGroup),
                fields: [
                    .init("Requests Per Group", 0...15, .readOnly), .init("Outstanding Requests", 16...31, .readOnly),
                ]),
            .init(.control, "Control", at: 0x10, byteCount: 4, fields: [.init("Enable", 0, .readWrite)], hooks: .write),
            .init(
                .status, "Status", at: 0x14, byteCount: 4,
                fields: [
                    .init("Ready", 0, .readOnly), .init("Configuration Error", 8, .readOnly),
                    .init("Command Ring Error", 9, .readOnly), .init("Work Ring Error", 10, .readOnly),
                    .init("Page Request Ring Error", 11, .readOnly), .init("Completion Lost", 12, .readOnly),
                ], hooks: .read),
        ]
        let rings =
            ring(.commandRingBase, .commandRingSize, .commandRingHead, .commandRingTail, "Command Ring", at: 0x20)
            + ring(.workRingBase, .workRingSize, .workRingHead, .workRingTail, "Work Ring", at: 0x40)
            + ring(
                .pageRequestRingBase, .pageRequestRingSize, .pageRequestRingHead, .pageRequestRingTail,
                "Page Request Ring", at: 0x60, isFilledByDevice: true)
        let statistics: [(Self, String)] = [
            (.groupsAnswered, "Page Request Groups Answered"), (.groupsRefused, "Page Request Groups Refused"),
            (.waitTotal, "Nanoseconds Waited For Pages"), (.longestWait, "Longest Wait For Pages"),
        ]
        return RegisterMap(
            own + rings
                + statistics.enumerated().map { number, register in
                    .init(register.0, register.1, at: 0x80 + number * 8, byteCount: 8, .readOnly, hooks: .read)
                })
    }

    /// The registers of a ring: whoever fills it writes its tail, and the other side its head.
    private static func ring(
        _ base: Self, _ size: Self, _ head: Self, _ tail: Self, _ name: String, at offset: Int,
        isFilledByDevice: Bool = false
    ) -> [RegisterDeclaration<Self>] {
        [
            .init(base, name + " Base", at: offset, byteCount: 8, fields: [.init("Address", 6...63, .readWrite)]),
            .init(size, name + " Size", at: offset + 8, byteCount: 4, .readWrite),
            isFilledByDevice
                ? .init(head, name + " Head", at: offset + 12, byteCount: 4, .readWrite, hooks: .write)
                : .init(head, name + " Head", at: offset + 12, byteCount: 4, .readOnly, hooks: .read),
            isFilledByDevice
                ? .init(tail, name + " Tail", at: offset + 16, byteCount: 4, .readOnly, hooks: .read)
                : .init(tail, name + " Tail", at: offset + 16, byteCount: 4, .readWrite, hooks: .write),
        ]
    }
}

/// Bits of the status register.
struct EngineStatus: OptionSet {
    let rawValue: UInt64

    static let ready = EngineStatus(rawValue: 1 << 0)
    static let configurationError = EngineStatus(rawValue: 1 << 8)
    static let commandRingError = EngineStatus(rawValue: 1 << 9)
    static let workRingError = EngineStatus(rawValue: 1 << 10)
    static let pageRequestRingError = EngineStatus(rawValue: 1 << 11)
    static let completionLost = EngineStatus(rawValue: 1 << 12)
}
