import CopyEngine
import Edu
import Foundation
import NVMe
import PCI
import Testing
import Virtio

/// A page of documentation with the table of some registers in it.
struct RegisterPage: CustomTestStringConvertible, Sendable {
    let path: String
    /// What the declarations say.
    let table: String

    var testDescription: String { path }

    /// Every page; a new device adds a line.
    static let all = [
        RegisterPage(path: "Sources/Edu/Edu.docc/Registers.md", table: EduRegister.map.markdownTable),
        RegisterPage(path: "Sources/CopyEngine/CopyEngine.docc/Registers.md", table: CopyEngine.registerTable),
        RegisterPage(path: "Sources/NVMe/NVMe.docc/NVMe.md", table: NVMeController.registerTable),
        RegisterPage(path: "Sources/Virtio/Virtio.docc/Registers.md", table: CommonRegister.map.markdownTable),
        RegisterPage(
            path: "Sources/PCI/PCI.docc/ConfigurationSpace.md", table: RegisterMap(.withEverything).markdownTable),
    ]

    /// Set to have the tests write what is generated instead of comparing them.
    static let variable = "OUTBOARD_WRITE_DOCUMENTATION"
}

extension PCIDescription {
    /// The function whose configuration space the documentation shows.
    static let withEverything = PCIDescription(
        vendorID: 0x1234, deviceID: 0x5678, classCode: PCIClassCode(baseClass: 0xff, subclass: 0),
        bars: [
            BaseAddressRegister(0, .memory64, byteCount: 1 << 14),
            BaseAddressRegister(2, .memory32, byteCount: 1 << 12),
            BaseAddressRegister(3, .io, byteCount: 1 << 5),
        ],
        msi: MSIDescription(vectorCount: 8),
        msix: MSIXDescription(vectorCount: 64, bar: 0, tableOffset: 0x2000, pendingOffset: 0x3000),
        serialNumber: 0x0123_4567_89ab_cdef,
        vendorCapabilities: [
            VendorCapability("Vendor", body: [0x01, 0x11, 0x22, 0x33, 0x44]), .window("Window", type: 5),
        ])
}

/// A text with a table in it: the lines from the table's head on that begin with a bar.
struct TextWithTable {
    let before, table, after: String

    init?(_ text: String, head: String) {
        guard let start = text.range(of: head + "\n")?.lowerBound else { return nil }
        var end = start
        while end < text.endIndex, text[end] == "|" {
            end = text[end...].firstIndex(of: "\n").map(text.index(after:)) ?? text.endIndex
        }
        before = String(text[..<start])
        table = String(text[start..<end])
        after = String(text[end...])
    }
}

@Suite struct `Register tables` {
    @Test(arguments: RegisterPage.all)
    func `the documentation shows the registers as they are declared`(page: RegisterPage) throws {
        let head = try #require(page.table.split(separator: "\n").first.map(String.init))
        let text = try #require(
            TextWithTable(try SourceTree.read(page.path), head: head), "\(page.path) has no table that begins \(head)")
        if ProcessInfo.processInfo.environment[RegisterPage.variable] != nil {
            try SourceTree.write(text.before + page.table + text.after, to: page.path)
        } else {
            #expect(
                text.table == page.table,
                "run `\(RegisterPage.variable)=1 swift test --filter TidyTests` to write the table anew")
        }
    }

    @Test func `every page with a register table is kept in step`() throws {
        let pages = try SourceTree.files(in: ["Sources"], endings: ["md"])
            .filter { $0.text.contains("| Offset | Bytes | Register |") }.map(\.path)
        #expect(Set(pages) == Set(RegisterPage.all.map(\.path)))
    }

    @Test func `a table is found between other lines`() throws {
        let text = try #require(TextWithTable("a\n| x |\n| y |\nb | c\n", head: "| x |"))
        #expect([text.before, text.table, text.after] == ["a\n", "| x |\n| y |\n", "b | c\n"])
        #expect(TextWithTable("a\n| x | y |\n", head: "| x |") == nil)
        #expect(TextWithTable("| x |\n| y |", head: "| x |")?.table == "| x |\n| y |")
    }
}

@Suite struct `Code in the documentation` {
    /// Pages that show a whole file, and the file that is built.
    private static let pages = [("Sources/PCI/PCI.docc/WritingADevice.md", "Tests/PCITests/Checksum.swift")]

    @Test(arguments: pages)
    func `a page shows the file that is built`(page: String, source: String) throws {
        let text = try SourceTree.read(page)
        let block = try #require(text.firstMatch(of: #/(?s)```swift\n(.*?)```\n/#), "\(page) has no code")
        let code = try SourceTree.read(source)
        if ProcessInfo.processInfo.environment[RegisterPage.variable] != nil {
            let (before, after) = (text[..<block.1.startIndex], text[block.1.endIndex...])
            try SourceTree.write(before + code + after, to: page)
        } else {
            #expect(String(block.1) == code, "run the tests with \(RegisterPage.variable)=1 to copy \(source) anew")
        }
    }
}
