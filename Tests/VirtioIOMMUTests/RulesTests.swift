import RuleTables
import Testing

@Suite struct `The rules of the device model` {
    @Test func `every rule has tests that exist, or a reason why not`() throws {
        let table = RuleTable(
            of: Rule.all, testedIn: "Tests/VirtioIOMMUTests", on: "Sources/VirtioIOMMU/VirtioIOMMU.docc/Rules.md"
        ) { letter, _ in letter == "V" }
        #expect(try table.problems() == [])
    }

    @Test func `every number is there once, in order`() {
        #expect(Rule.all.map(\.id) == (1...86).map { "V\($0)" })
    }
}
