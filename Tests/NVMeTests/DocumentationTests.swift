import LinuxHost
import NVMe
import Testing

@Suite struct DocumentationTests {
    @Test func `the article shows the registers that the controller has`() throws {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        let file = try StorageFile(openingPath: "/\(root)/Sources/NVMe/NVMe.docc/NVMe.md", isWritable: false)
        var bytes = [UInt8](repeating: 0, count: Int(try file.status().size))
        unsafe try bytes.withUnsafeMutableBytes { unsafe try file.read(into: $0, at: 0) }
        let article = String(decoding: bytes, as: UTF8.self)
        let table = NVMeController.registerTable
        #expect(table.contains("| 0x14 | 4 | Controller Configuration (CC) | 0x0 | 0 | Enable (EN) | RW |"))
        #expect(article.hasSuffix("\n" + table), "the end of the article should be:\n\(table)")
    }
}
