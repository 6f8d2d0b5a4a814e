import DMA
import Randomness

/// Whether all contenders do the same: they are driven by the same random operations, and their answers compared.
struct SelfTest {
    let steps: Int
    private let seed: UInt64 = 0x0b0a
    /// The pages that the operations are about.
    private let pageCount: UInt64 = 192
    private let maximumPins = 6

    init(steps: Int) { self.steps = steps }

    /// Returns what differs, `nil` when nothing does.
    func run() throws -> String? {
        if let difference = try compareAnswers() { return difference }
        for kind in ContenderKind.forThreads {
            if let fault = try ThreadTest(kind).run() { return "\(kind.name): \(fault)" }
        }
        return nil
    }

    private func compareAnswers() throws -> String? {
        let memory = try SharedMemory.make()
        let kinds = ContenderKind.allCases
        let subjects = kinds.map { $0.make(memory, patience: false) }
        var random = SeededNumbers(seed: seed)
        /// Of each pin, what each contender holds.
        var pins: [[HeldPin]] = []
        defer {
            for pin in pins.joined() { pin.release() }
        }
        for step in 0..<steps {
            let operation = Operation.random(pageCount: pageCount, pinCount: pins.count, using: &random)
            var held: [HeldPin] = []
            let answers = subjects.enumerated().map { index, subject in
                operation.answer(of: subject, pins.map { $0[index] }, &held)
            }
            if case .release(let pin) = operation { pins.remove(at: pin) }
            if !held.isEmpty { pins.append(held) }
            if answers.contains(where: { $0 != answers[0] }) {
                let lines = zip(kinds, answers).map { "  \($0.name): \($1)" }
                return "seed \(seed), step \(step), \(operation):\n" + lines.joined(separator: "\n")
            }
            if step % 64 == 0, subjects.contains(where: { ($0 as? TreeContender)?.isSound == false }) {
                return "seed \(seed), step \(step), \(operation): the tree is out of balance"
            }
            if pins.count > maximumPins {
                for pin in pins.removeFirst() { pin.release() }
            }
        }
        return nil
    }
}

/// One thing that is asked of all.
private enum Operation {
    case map(IOVARange, offset: Int, AccessRights)
    case unmap(IOVARange)
    case load(IOVA)
    case pin(IOVARange)
    case release(Int)

    static func random(pageCount: UInt64, pinCount: Int, using random: inout SeededNumbers) -> Operation {
        let pageSize = SharedMemory.pageSize
        let page = UInt64.random(in: 0..<pageCount, using: &random)
        let base: UInt64 = 0x7fff_f000_0000 + page * pageSize
        func range(pages: UInt64) -> IOVARange {
            IOVARange(first: IOVA(base), last: IOVA(base + pages * pageSize - 1))
        }
        switch Int.random(in: 0..<100, using: &random) {
        case 0..<25:
            let pages = UInt64.random(in: 1...8, using: &random)
            let offset = Int.random(in: 0...SharedMemory.pageCount - Int(pages), using: &random) * Int(pageSize)
            let rights: [AccessRights] = [.read, .write, [.read, .write], [.read, .write]]
            return .map(range(pages: pages), offset: offset, rights[Int.random(in: 0..<4, using: &random)])
        case 25..<40:
            return .unmap(range(pages: UInt64.random(in: 1...12, using: &random)))
        case 40..<41:
            return .unmap(IOVARange(first: IOVA(0), last: IOVA(1 << 48 - 1)))
        case 41..<80:
            return .load(IOVA(base + UInt64.random(in: 0..<pageSize / 8, using: &random) * 8))
        case 80..<90 where pinCount > 0:
            return .release(Int.random(in: 0..<pinCount, using: &random))
        default:
            return .pin(range(pages: 1))
        }
    }

    /// - Parameters:
    ///   - pins: those that the contender holds.
    ///   - held: the pin is added to it that this operation makes.
    func answer(of contender: any Contender, _ pins: [HeldPin], _ held: inout [HeldPin]) -> Result<UInt64, DMAError> {
        do throws(DMAError) {
            switch self {
            case .map(let range, let offset, let rights):
                try contender.map(range, offset: offset, rights: rights)
                return .success(0)
            case .unmap(let range):
                return .success(try contender.unmap(range))
            case .load(let iova):
                let value = try contender.load(iova)
                let line = iova.isAligned(to: 64) ? try contender.readLine(iova)[0] : value
                return .success(line == value ? value : 0)
            case .pin(let range):
                let pin = try contender.hold(range)
                held.append(pin)
                return .success(pin.value)
            case .release(let number):
                pins[number].release()
                return .success(0)
            }
        } catch {
            return .failure(error)
        }
    }
}
