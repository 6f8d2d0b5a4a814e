import PCI
import Randomness
import Testing

/// Registers kept one bit at a time, as slowly and plainly as their declarations say it.
private struct BitwiseRegisters {
    struct Hooked: Equatable {
        let id: Int
        let old, new, written: UInt64
    }

    let declarations: [RegisterDeclaration<Int>]
    private var bits: [Int: [Bool]]

    init(_ declarations: [RegisterDeclaration<Int>]) {
        self.declarations = declarations.sorted { $0.offset < $1.offset }
        bits = [:]
        for register in declarations {
            bits[register.id] = (0..<register.byteCount * 8).map { register.resetValue >> UInt64($0) & 1 != 0 }
        }
    }

    private func kind(_ register: RegisterDeclaration<Int>, _ bit: Int) -> FieldAccess? {
        register.fields.first { $0.bits.contains(bit) }?.access
    }

    private func value(_ id: Int) -> UInt64 {
        (bits[id] ?? []).enumerated().reduce(0) { $1.element ? $0 | 1 << UInt64($1.offset) : $0 }
    }

    func read(_ offset: Int, _ byteCount: Int) -> UInt64 {
        var result: UInt64 = 0
        for bit in 0..<byteCount * 8 {
            let place = offset * 8 + bit
            for register in declarations {
                let own = place - register.offset * 8
                guard own >= 0, own < register.byteCount * 8, kind(register, own) != .writeOnly else { continue }
                if bits[register.id]?[own] == true { result |= 1 << UInt64(bit) }
            }
        }
        return result
    }

    mutating func write(_ value: UInt64, _ offset: Int, _ byteCount: Int) -> [Hooked] {
        var hooked: [Hooked] = []
        for register in declarations {
            let before = self.value(register.id)
            var written: UInt64 = 0
            var isTouched = false
            for bit in 0..<byteCount * 8 {
                let own = offset * 8 + bit - register.offset * 8
                guard own >= 0, own < register.byteCount * 8 else { continue }
                isTouched = true
                let one = value >> UInt64(bit) & 1 != 0
                if one { written |= 1 << UInt64(own) }
                switch kind(register, own) {
                case .readWrite, .writeOnly: bits[register.id]?[own] = one
                case .writeOneToClear: if one { bits[register.id]?[own] = false }
                case .writeOneToSet: if one { bits[register.id]?[own] = true }
                case .readOnly, nil: break
                }
            }
            if isTouched, register.hooks.contains(.write) {
                hooked.append(Hooked(id: register.id, old: before, new: self.value(register.id), written: written))
            }
        }
        return hooked
    }
}

/// Registers of every width with fields of every kind, reserved bits and holes between them.
private func randomDeclarations(_ numbers: inout SeededNumbers) -> [RegisterDeclaration<Int>] {
    let kinds: [FieldAccess] = [.readOnly, .readWrite, .writeOneToClear, .writeOneToSet, .writeOnly]
    var declarations: [RegisterDeclaration<Int>] = []
    var offset = 0
    for id in 0..<20 {
        let byteCount = 1 << numbers.below(4)
        offset = (offset + byteCount - 1) / byteCount * byteCount + numbers.below(2) * byteCount
        var fields: [RegisterField] = []
        var bit = 0
        while bit < byteCount * 8 {
            let last = min(bit + numbers.below(12), byteCount * 8 - 1)
            if numbers.below(4) > 0 { fields.append(.init("Field \(bit)", bit...last, kinds[numbers.below(5)])) }
            bit = last + 1
        }
        let declared = fields.reduce(UInt64(0)) { $0 | $1.mask }
        declarations.append(
            .init(
                id, "Register \(id)", at: offset, byteCount: byteCount, reset: numbers.next() & declared,
                fields: fields, hooks: numbers.below(2) == 0 ? .write : []))
        offset += byteCount
    }
    return declarations.shuffled(using: &numbers)
}

@Suite struct `Register bank` {
    @Test(arguments: 1...40 as ClosedRange<UInt64>)
    func `any access anywhere does what the declarations say, bit by bit`(seed: UInt64) {
        var numbers = SeededNumbers(seed: seed)
        let declarations = randomDeclarations(&numbers)
        let map = RegisterMap(declarations)
        var bank = RegisterBank(map)
        var reference = BitwiseRegisters(declarations)
        for step in 0..<400 {
            let (offset, byteCount) = (numbers.below(map.byteCount + 12), 1 + numbers.below(8))
            if numbers.below(2) == 0 {
                let value = numbers.next()
                let hooked = bank.write(value, at: offset, byteCount: byteCount).map {
                    BitwiseRegisters.Hooked(id: $0.id, old: $0.old, new: $0.new, written: $0.written)
                }
                #expect(hooked == reference.write(value, offset, byteCount), "seed \(seed), step \(step)")
            } else {
                let value = bank.read(at: offset, byteCount: byteCount) { _ in 0 }
                #expect(value == reference.read(offset, byteCount), "seed \(seed), step \(step)")
            }
        }
    }

    private enum Register: Hashable { case low, live, high }

    private let map = RegisterMap<Register>([
        .init(.low, "Low", at: 0, byteCount: 4, .readWrite, hooks: .write),
        .init(.live, "Live", at: 4, byteCount: 4, .readOnly, hooks: .read),
        .init(.high, "High", at: 8, byteCount: 8, .readWrite, hooks: .write),
    ])

    @Test func `a register with the read hook is asked once per access and keeps what it answered`() {
        var bank = RegisterBank(map)
        var asked: [Register] = []
        let value = bank.read(at: 2, byteCount: 8) { id in
            asked.append(id)
            return 0x1122_3344
        }
        #expect(asked == [.live])
        #expect(value == 0x1122_3344_0000)
        #expect(bank[.live] == 0x1122_3344)
    }

    @Test func `an access that misses a register with the read hook does not ask it`() {
        var bank = RegisterBank(map)
        _ = bank.read(at: 0, byteCount: 4) { id in
            Issue.record("\(id) was asked")
            return 0
        }
        _ = bank.read(at: 8, byteCount: 8) { id in
            Issue.record("\(id) was asked")
            return 0
        }
    }

    @Test func `a write across two registers tells of each once, with the bits that fell on it`() {
        var bank = RegisterBank(map)
        bank[.low] = 0x0403_0201
        let writes = bank.write(0xffee_ddcc_bbaa, at: 3, byteCount: 6)
        #expect(writes.map(\.id) == [.low, .high])
        #expect(writes.map(\.old) == [0x0403_0201, 0])
        #expect(writes.map(\.new) == [0xaa03_0201, 0xff])
        #expect(writes.map(\.written) == [0xaa00_0000, 0xff])
        #expect(writes[0].sets(0x0a00_0000))
        #expect(!writes[0].sets(0x0400_0000))
    }

    @Test func `accesses past the last register read as zero and change nothing`() {
        var bank = RegisterBank(map)
        #expect(bank.write(.max, at: 16, byteCount: 8).isEmpty)
        #expect(bank.write(.max, at: 1 << 40, byteCount: 8).isEmpty)
        #expect(bank.read(at: 16, byteCount: 8) { _ in .max } == 0)
        #expect(bank.read(at: 1 << 40, byteCount: 8) { _ in .max } == 0)
        #expect(bank.read(at: 12, byteCount: 8) { _ in .max } == 0)
    }

    @Test func `the device sees what reads hide and changes what writes cannot`() {
        let map = RegisterMap<Register>([
            .init(.low, "Low", at: 0, byteCount: 1, reset: 0x10, .readOnly),
            .init(.high, "High", at: 1, byteCount: 1, .writeOnly),
        ])
        var bank = RegisterBank(map)
        _ = bank.write(0x5555, at: 0, byteCount: 2)
        #expect(bank.read(at: 0, byteCount: 2) { _ in 0 } == 0x0010)
        #expect(bank[.high] == 0x55)
        bank[.low] = 0x77
        #expect(bank.read(at: 0, byteCount: 1) { _ in 0 } == 0x77)
    }
}
