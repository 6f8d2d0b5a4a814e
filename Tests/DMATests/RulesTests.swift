import RuleTables
import Testing

@Suite struct `The rules` {
    @Test func `every rule has tests that exist, or a reason why not`() throws {
        let table = RuleTable(
            of: Rule.all, testedIn: "Tests", on: "Sources/DMA/DMA.docc/Rules.md"
        ) { letter, number in
            // The rules of shared address spaces and of faults come after those of accesses, in a module of their own.
            "RML".contains(letter) && (letter != "R" || number <= 92)
        }
        #expect(try table.problems() == [])
    }

    @Test func `every number is there once, in order`() {
        let numbers = (13...92).map { "R\($0)" } + (1...61).map { "M\($0)" } + (1...24).map { "L\($0)" }
        #expect(Rule.all.map(\.id) == ["R1–R12"] + numbers)
    }
}
