import DMA
import Randomness

/// A random run: operations out of a seed, carried out by the real spaces and by the model, and compared.
///
/// The number of mappings goes up and down between a few and thousands, in tides, so that the spaces change their
/// structure in both directions again and again. Mappings gather around the borders that matter: both ends of the space,
/// 2^39 and 2^48 (for pages of 4096 bytes), and are of one page, of some, of hundreds, or of a million.
struct RandomRun {
    /// A number of mappings that the real spaces may treat differently above and below.
    static let border = 64
    /// The places around which mappings gather, in pages.
    static let pagesAround: UInt64 = 4096
    static let hugePages: UInt64 = 1 << 20

    let seed: UInt64
    let pageSize: UInt64
    private(set) var model: ReferenceModel
    let real: RealSpaces
    var random: SeededNumbers
    private(set) var operationCount = 0
    /// How often each kind of operation was not refused.
    private(set) var successes: [String: Int] = [:]
    /// How often a space came from one side of the border to the other.
    private(set) var crossings = 0
    private(set) var largestCount = 0
    private var isAbove = [false, false]
    /// How many mappings the spaces shall have, and until which operation.
    var tides = [0, 0]
    var nextTurn = 0
    /// Whether mappings need not be made of pages for now.
    var isCrooked = false
    /// Operations that follow from the last.
    var queue: [Operation] = []
    private var history: [(Operation, Outcome)] = []

    init(seed: UInt64, pageSize: UInt64) throws {
        self.seed = seed
        self.pageSize = pageSize
        let pageCounts: [UInt64] = [Self.hugePages * 3 / 2, 4 * Self.pagesAround, Self.pagesAround]
        let objects = [
            try MemoryObject.anonymous(byteCount: Int(pageCounts[0] * pageSize)),
            try MemoryObject.anonymous(byteCount: Int(pageCounts[1] * pageSize)),
            try readOnlyObject(byteCount: pageCounts[2] * pageSize),
        ]
        let files = objects.map { object in
            unsafe ReferenceModel.File(
                byteCount: UInt64(object.byteCount), isWritable: object.isWritable,
                base: UInt(bitPattern: object.bytes.baseAddress))
        }
        model = ReferenceModel(files: files, pageSize: pageSize, rounds: 2)
        real = RealSpaces(files: objects, pageSize: pageSize, rounds: 2)
        random = SeededNumbers(seed: seed)
    }

    /// Carries out one operation; what is different, `nil` when nothing is.
    mutating func step() -> String? {
        if operationCount >= nextTurn { turnTide() }
        let operation = queue.popLast() ?? next()
        operationCount += 1
        return perform(operation)
    }

    /// What the real spaces make of an operation, and the model.
    mutating func perform(_ operation: Operation) -> String? {
        let answer = real.perform(operation)
        let expected = model.perform(operation, knowing: answer)
        if history.count == 64 { history.removeFirst(32) }
        history.append((operation, answer))
        if answer.error == nil { successes[operation.kind, default: 0] += 1 }
        if !isSame(answer, expected, operation) { return "the answer is \(answer), the model's \(expected)" }
        let heard = real.takeHeard()
        if heard != model.heard { return "the devices were told \(heard), the model's \(model.heard)" }
        if !real.peersAgree(revoked: model.revoked) { return "remote memory was not revoked when it had to be" }
        for space in operation.spaces {
            note(space)
            // A look at the whole space costs as much as it has mappings: the more there are, the rarer it is.
            let count = model.spaces[space].entries.count
            if count > 32, random.next() % UInt64(count / 32) != 0 { continue }
            if let difference = differenceOfMappings(in: space) { return difference }
        }
        return nil
    }

    private func isSame(_ answer: Outcome, _ expected: Outcome, _ operation: Operation) -> Bool {
        if case .map(_, .some, _, _, _) = operation, case .placed = expected { return answer.error == nil }
        return answer == expected
    }

    private mutating func note(_ space: Int) {
        let count = model.spaces[space].entries.count
        largestCount = max(largestCount, count)
        if (count > Self.border) != isAbove[space] {
            isAbove[space].toggle()
            crossings += 1
        }
    }

    private func differenceOfMappings(in space: Int) -> String? {
        let mappings = real.spaces[space].mappings()
        let entries = model.spaces[space].entries
        var isSame = mappings.count == entries.count
        var index = 0
        while isSame && index < entries.count {
            let (mapping, entry) = (mappings[index], entries[index])
            isSame =
                mapping.range.first.rawValue == entry.first && mapping.range.last.rawValue == entry.last
                && mapping.rights == entry.rights && mapping.pinCount == entry.pinCount
                && mapping.isBlocked == entry.isBlocked
            index += 1
        }
        if !isSame { return "space \(space) has other mappings" }
        let isConsumed = model.consumers[space] != nil
        return isConsumed && real.pushedRanges(of: space) != entries.map(\.range)
            ? "a consumer has other mappings" : nil
    }

    /// Compares everything: both spaces and all bytes that were ever written.
    func checkEverything() -> String? {
        for space in 0..<2 {
            if let difference = differenceOfMappings(in: space) { return difference }
            if real.spaces[space].alignment != model.alignment(space) { return "space \(space) has another alignment" }
        }
        if !real.peersAreMapped { return "remote memory that is mapped was revoked" }
        for (index, file) in real.files.enumerated() where model.stores[index]?.agrees(with: file) != true {
            return "file \(index) has other bytes"
        }
        return nil
    }

    /// Lets go of everything; what is left that should not be.
    mutating func end() -> String? {
        if let difference = checkEverything() { return difference }
        real.end()
        for space in real.spaces {
            guard (try? space.unmap(.everything)) != nil, space.mappings() == [], space.alignment == 1 else {
                return "something is left in \(space)"
            }
        }
        return nil
    }

    /// The kinds of operations of which some must succeed.
    static let kinds = [
        "map a file", "map remote memory", "map anywhere", "copy", "copy anywhere", "unmap", "unmap a batch", "pin",
        "unpin", "read", "write", "attach", "replace", "detach", "reserve", "release", "allow", "attach a consumer",
        "detach a consumer",
    ]

    var summary: String {
        let counts = Self.kinds.map { "\($0) \(successes[$0, default: 0])" }.joined(separator: ", ")
        return "seed \(seed): at most \(largestCount) mappings, \(crossings) times across \(Self.border); \(counts)"
    }

    /// All that is known of a difference: where it was found, what led there, and both spaces beside the model's.
    func report(_ difference: String) -> String {
        var lines = ["seed \(seed), pages of \(pageSize) bytes, operation \(operationCount): \(difference)"]
        lines.append("the last operations, with the answers of the real spaces:")
        lines += history.suffix(12).map { "  \($0) -> \($1)" }
        for space in 0..<2 {
            lines.append("space \(space), real | model:")
            lines += Drawing(real.spaces[space].mappings(), model.spaces[space].entries.map(\.snapshot)).lines
            lines.append("  reserved \(model.spaces[space].reservations), allowed \(model.spaces[space].allowed)")
        }
        lines.append("attached \(model.attached), obedient \(model.isObedient), pins \(model.pins.map(\.range))")
        lines.append("consumers \(model.consumers.map { $0?.granule })")
        return lines.joined(separator: "\n")
    }
}
