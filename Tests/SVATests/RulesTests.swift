import RuleTables
import Testing

@Suite struct `The rules` {
    @Test func `every rule has tests that exist, or a reason why not`() throws {
        let table = RuleTable(
            of: Rule.all, testedIn: "Tests/SVATests", on: "Sources/SVA/SVA.docc/Rules.md"
        ) { letter, _ in "RS".contains(letter) }
        #expect(try table.problems() == [])
    }

    @Test func `every number is there once, in order`() {
        let numbers = (93...145).map { "R\($0)" } + (1...12).map { "S\($0)" }
        #expect(Rule.all.map(\.id) == numbers)
    }
}
