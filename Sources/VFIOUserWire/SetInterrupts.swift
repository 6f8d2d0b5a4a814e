/// A request to do something with some vectors of an interrupt index.
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 4 | size of this request (`argsz`) |
/// | 4 | 4 | flags: data bit 0 none, 1 booleans, 2 descriptors; action bit 3 mask, 4 unmask, 5 trigger |
/// | 8 | 4 | index |
/// | 12 | 4 | first vector |
/// | 16 | 4 | number of vectors |
/// | 20 | … | one byte for each vector, with booleans |
///
/// The reply has no payload. `VFIO_USER_DEVICE_SET_IRQS`
public struct SetInterrupts: Hashable, Sendable {
    public enum Action: Hashable, Sendable, CaseIterable {
        case mask
        case unmask
        case trigger
    }

    public enum Data: Hashable, Sendable, CaseIterable {
        /// The action is done to every vector of the range, now.
        case none
        /// The action is done where the vector's byte is not zero, now.
        case booleans
        /// The action is tied to the vector's descriptor; with no descriptor the tie is undone.
        case descriptors
    }

    public static let byteCount = 20
    /// Where in the payload the booleans lie, one byte for each vector.
    public static let booleansOffset = 20

    public var action: Action
    public var data: Data
    public var index: UInt32
    public var start: UInt32
    public var count: UInt32

    public init(action: Action, data: Data, index: UInt32, start: UInt32, count: UInt32) {
        self.action = action
        self.data = data
        self.index = index
        self.start = start
        self.count = count
    }

    /// Whether this turns the whole index off: the one request that may name no vector.
    public var disablesIndex: Bool { count == 0 }

    /// The vectors it is about. Precondition: they do not pass 2³², as `init(parsing:)` ensures.
    public var vectors: Range<UInt32> { start..<(start + count) }

    public init(parsing payload: Span<UInt8>) throws(WireError) {
        try payload.requireCount(atLeast: SetInterrupts.byteCount)
        _ = try payload.argumentSize(atLeast: SetInterrupts.byteCount)
        let flags: UInt32 = payload.integer(at: 4)
        try flags.requireOnly(Flags.dataMask | Flags.actionMask)
        switch flags & Flags.dataMask {
        case Flags.none: data = .none
        case Flags.booleans: data = .booleans
        case Flags.descriptors: data = .descriptors
        default: throw .conflictingFlags(flags)
        }
        switch flags & Flags.actionMask {
        case Flags.mask: action = .mask
        case Flags.unmask: action = .unmask
        case Flags.trigger: action = .trigger
        default: throw .conflictingFlags(flags)
        }
        index = payload.integer(at: 8)
        start = payload.integer(at: 12)
        count = payload.integer(at: 16)
        if start.addingReportingOverflow(count).overflow {
            throw .rangeOverflow(start: UInt64(start), byteCount: UInt64(count))
        }
        if count == 0 && (start != 0 || data != .none || action != .trigger) { throw .emptyRange }
        if data == .booleans {
            try payload.requireData(from: SetInterrupts.booleansOffset, statedCount: Int(count))
        }
    }

    /// Writes the fixed part; booleans follow.
    public func write(to writer: inout MessageWriter) {
        let dataFlag =
            switch data {
            case .none: Flags.none
            case .booleans: Flags.booleans
            case .descriptors: Flags.descriptors
            }
        let actionFlag =
            switch action {
            case .mask: Flags.mask
            case .unmask: Flags.unmask
            case .trigger: Flags.trigger
            }
        let booleanCount = data == .booleans ? Int(count) : 0
        writer.append(count32: SetInterrupts.byteCount + booleanCount)
        writer.append(dataFlag | actionFlag)
        writer.append(index)
        writer.append(start)
        writer.append(count)
    }

    private enum Flags {
        static let none: UInt32 = 1 << 0
        static let booleans: UInt32 = 1 << 1
        static let descriptors: UInt32 = 1 << 2
        static let mask: UInt32 = 1 << 3
        static let unmask: UInt32 = 1 << 4
        static let trigger: UInt32 = 1 << 5
        static let dataMask = none | booleans | descriptors
        static let actionMask = mask | unmask | trigger
    }
}
