/// Which faults to make in a conversation, and how often.
///
/// Faults belong to places in the stream of bytes, not to moments: each direction is seen as blocks of 64 bytes, and
/// what happens in a block follows from the seed and the block's number. So the same bytes meet the same faults, however
/// fast they come and in however many pieces. Rates are shares of those blocks, or of descriptors where they are about
/// these.
public struct FaultPlan: Hashable, Sendable {
    /// How often something happens.
    public struct Rate: Hashable, Sendable {
        public let partsPerMillion: UInt64

        public static let never = Rate(partsPerMillion: 0)

        public static func percent(_ percent: UInt64) -> Rate { Rate(partsPerMillion: min(percent, 100) * 10_000) }

        init(partsPerMillion: UInt64) {
            self.partsPerMillion = min(partsPerMillion, 1_000_000)
        }
    }

    /// The longest delay.
    public static let maximumDelay = Duration.seconds(1)

    public var seed: UInt64 = 0
    /// A read ends somewhere in the block.
    public var shortReads = Rate.never
    /// A write ends somewhere in the block, but not before a message's header is out: clients read that in one piece, and
    /// the kernel does not take less at once.
    public var shortWrites = Rate.never
    /// A read or write at the block's start fails with `EINTR`, up to three times in a row.
    public var interruptions = Rate.never
    /// As `interruptions`, with `EAGAIN`.
    public var refusals = Rate.never
    /// A read or write at the block's start takes up to `delay` longer.
    public var delays = Rate.never
    /// At most `maximumDelay`.
    public var delay = Duration.milliseconds(1)
    /// A descriptor is closed on its way, which the receiver hears of as the kernel would tell it. `MSG_CTRUNC`
    public var lostDescriptors = Rate.never
    /// The first of several descriptors of a message becomes the last.
    public var swappedDescriptors = Rate.never
    /// A bit of the block changes.
    public var flippedBits = Rate.never
    /// The connection ends somewhere in the block.
    public var cuts = Rate.never
    /// The connection ends when so many bytes have gone either way.
    public var cutAfter: UInt64?

    public init() {}

    /// Whether both sides must come to the same results as without any faults.
    public var isHarmless: Bool {
        lostDescriptors == .never && swappedDescriptors == .never && flippedBits == .never && cuts == .never
            && cutAfter == nil
    }
}

/// Why a text is no plan of faults.
public enum FaultPlanError: Error, Hashable, Sendable, CustomStringConvertible {
    case unknownName(String)
    case repeated(String)
    /// What stands where, and what should.
    case badValue(name: String, value: String, expected: String)

    public var description: String {
        switch self {
        case .unknownName(let name):
            "there is no fault \"\(name)\"; there are \(FaultPlan.names.joined(separator: ", "))"
        case .repeated(let name): "\(name) is there twice"
        case .badValue(let name, let value, let expected): "\(name)=\(value): \(expected) is needed"
        }
    }
}

extension FaultPlan {
    private static let rates: [(name: String, rate: any WritableKeyPath<FaultPlan, Rate> & Sendable)] = [
        ("short-reads", \.shortReads), ("short-writes", \.shortWrites), ("interruptions", \.interruptions),
        ("refusals", \.refusals), ("delays", \.delays), ("lost-descriptors", \.lostDescriptors),
        ("swapped-descriptors", \.swappedDescriptors), ("flipped-bits", \.flippedBits), ("cuts", \.cuts),
    ]

    /// The names of faults in a text.
    public static var names: [String] { ["seed"] + rates.map(\.name) + ["delay", "cut-after"] }

    /// Reads `NAME=VALUE,…`, each name at most once: `seed` and `cut-after` take a number, `delay` a time like `200us`,
    /// `5ms` or `1s`, and everything else a share like `20%` or `0.5%`. A `delay` alone delays a tenth of the blocks.
    public init(parsing text: String) throws(FaultPlanError) {
        var seen: Set<String> = []
        for item in text.split(separator: ",", omittingEmptySubsequences: false) {
            let parts = item.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let name = String(parts[0])
            guard FaultPlan.names.contains(name) else { throw .unknownName(name) }
            guard seen.insert(name).inserted else { throw .repeated(name) }
            try set(name, to: parts.count == 2 ? String(parts[1]) : "")
        }
        if seen.contains("delay"), !seen.contains("delays") { delays = .percent(10) }
    }

    private mutating func set(_ name: String, to value: String) throws(FaultPlanError) {
        switch name {
        case "seed":
            guard let number = value.decimalNumber else {
                throw .badValue(name: name, value: value, expected: "a number")
            }
            seed = number
        case "cut-after":
            guard let number = value.decimalNumber else {
                throw .badValue(name: name, value: value, expected: "a number of bytes")
            }
            cutAfter = number
        case "delay":
            guard let time = Duration(shortTime: value), time <= FaultPlan.maximumDelay else {
                throw .badValue(name: name, value: value, expected: "a time up to 1s, such as 200us or 5ms,")
            }
            delay = time
        default:
            guard let rate = Rate(parsing: value) else {
                throw .badValue(name: name, value: value, expected: "a share from 0% to 100%")
            }
            for entry in FaultPlan.rates where entry.name == name { self[keyPath: entry.rate] = rate }
        }
    }
}

extension FaultPlan.Rate {
    /// Reads digits, perhaps a point and up to four more, and a percent sign.
    fileprivate init?(parsing text: String) {
        guard text.last == "%" else { return nil }
        let parts = text.dropLast().split(separator: ".", maxSplits: 1, omittingEmptySubsequences: false)
        guard let whole = String(parts[0]).decimalNumber, whole <= 100 else { return nil }
        var millionths = whole * 10_000
        if parts.count == 2 {
            let digits = String(parts[1])
            guard digits.utf8.count <= 4, let fraction = digits.decimalNumber else { return nil }
            millionths += (digits.utf8.count..<4).reduce(fraction) { value, _ in value * 10 }
        }
        guard millionths <= 1_000_000 else { return nil }
        self.init(partsPerMillion: millionths)
    }
}

extension Duration {
    fileprivate init?(shortTime text: String) {
        for (unit, scale) in [("us", Duration.microseconds(1)), ("ms", .milliseconds(1)), ("s", .seconds(1))]
        where text.hasSuffix(unit) {
            guard let number = String(text.dropLast(unit.count)).decimalNumber, number <= 1_000_000 else { continue }
            self = scale * Int(number)
            return
        }
        return nil
    }
}

extension String {
    /// The number that the text writes with digits and nothing else.
    fileprivate var decimalNumber: UInt64? {
        utf8.allSatisfy { (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) } ? UInt64(self) : nil
    }
}
