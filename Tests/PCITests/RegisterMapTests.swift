import PCI
import Testing

@Suite struct `Register map` {
    @Test func `registers are listed by their place, whatever the order of their declarations`() {
        let map = RegisterMap<Int>([
            .init(1, "Second", at: 8, byteCount: 4, .readOnly), .init(0, "First", at: 4, byteCount: 2, .readOnly),
        ])
        #expect(map.declarations.map(\.id) == [0, 1])
        #expect(map.byteCount == 12)
    }

    @Test func `a map without registers is empty`() {
        var bank = RegisterBank(RegisterMap<Int>([]))
        #expect(bank.map.byteCount == 0)
        #expect(bank.write(.max, at: 0, byteCount: 8).isEmpty)
        #expect(bank.read(at: 0, byteCount: 8) { _ in .max } == 0)
    }

    @Test func `a field knows its bits and its value`() {
        #expect(RegisterField("Low", 0...3, .readOnly).mask == 0xf)
        #expect(RegisterField("Bit", 63, .readOnly).mask == 1 << 63)
        #expect(RegisterField("All", 0...63, .readOnly).mask == .max)
        #expect(RegisterField("Middle", 4...11, .readOnly).value(in: 0xabcde) == 0xcd)
    }

    @Test func `the table has a line for every field and says each register once`() {
        let map = RegisterMap<Int>([
            .init(
                0, "Control", at: 0x10, byteCount: 2, reset: 0x8001,
                fields: [.init("Go", 15, .writeOneToSet), .init("Mode", 0...2, .readWrite)]),
            .init(1, "Data", at: 0x14, byteCount: 4, .writeOnly),
        ])
        #expect(
            map.markdownTable == """
                | Offset | Bytes | Register | Reset | Bits | Field | Access |
                |---|---|---|---|---|---|---|
                | 0x10 | 2 | Control | 0x8001 | 2:0 | Mode | RW |
                | | | | | 15 | Go | RW1S |
                | 0x14 | 4 | Data | 0x0 | 31:0 | Data | WO |

                """)
    }

    @Test func `a register without fields has a line of its own`() {
        let map = RegisterMap<Int>([.init(0, "Reserved", at: 0, byteCount: 4, fields: [])])
        #expect(map.markdownTable.contains("| 0x0 | 4 | Reserved | 0x0 | | | |\n"))
    }
}

/// What no table of registers can say; each traps when the map is made.
@Suite struct `Impossible register maps` {
    @Test func `overlapping registers`() async {
        await #expect(processExitsWith: .failure) {
            _ = RegisterMap<Int>([
                .init(0, "A", at: 0, byteCount: 4, .readOnly), .init(1, "B", at: 3, byteCount: 1, .readOnly),
            ])
        }
    }

    @Test func `one identifier for two registers`() async {
        await #expect(processExitsWith: .failure) {
            _ = RegisterMap<Int>([
                .init(0, "A", at: 0, byteCount: 4, .readOnly), .init(0, "B", at: 4, byteCount: 4, .readOnly),
            ])
        }
    }

    @Test(arguments: [0, 3, 5, 16, -1])
    func `a register of an odd width`(byteCount: Int) async {
        await #expect(processExitsWith: .failure) { [byteCount = byteCount as Int] in
            _ = RegisterMap<Int>([.init(0, "A", at: 0, byteCount: byteCount, fields: [])])
        }
    }

    @Test func `a register before the start`() async {
        await #expect(processExitsWith: .failure) {
            _ = RegisterMap<Int>([.init(0, "A", at: -4, byteCount: 4, fields: [])])
        }
    }

    @Test(arguments: [1, 2, 6, 12])
    func `a register that is not naturally aligned`(offset: Int) async {
        await #expect(processExitsWith: .failure) { [offset = offset as Int] in
            _ = RegisterMap<Int>([.init(0, "A", at: offset, byteCount: 8, .readWrite)])
        }
    }

    @Test func `a field outside its register`() async {
        await #expect(processExitsWith: .failure) {
            _ = RegisterMap<Int>([.init(0, "A", at: 0, byteCount: 1, fields: [.init("F", 4...8, .readOnly)])])
        }
    }

    @Test func `overlapping fields`() async {
        await #expect(processExitsWith: .failure) {
            _ = RegisterMap<Int>([
                .init(
                    0, "A", at: 0, byteCount: 1, fields: [.init("F", 0...4, .readOnly), .init("G", 4, .readWrite)])
            ])
        }
    }

    @Test func `a reset value in a reserved bit`() async {
        await #expect(processExitsWith: .failure) {
            _ = RegisterMap<Int>([
                .init(0, "A", at: 0, byteCount: 1, reset: 0x10, fields: [.init("F", 0...3, .readOnly)])
            ])
        }
    }
}
