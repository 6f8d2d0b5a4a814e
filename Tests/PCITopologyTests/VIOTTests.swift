import PCITopology
import Testing

/// The bytes that pairs of hexadecimal digits stand for.
private func bytes(_ text: String) -> [UInt8] {
    text.split(whereSeparator: \.isWhitespace).map { UInt8($0, radix: 16) ?? 0 }
}

@Suite struct `The VIOT` {
    private func table(_ iommu: String, _ endpoints: String...) throws -> VIOT {
        VIOT(
            iommu: try #require(PCIAddress(iommu)),
            endpoints: try endpoints.map { try #require(PCIAddress($0)) })
    }

    /// Written by hand from the structures of ACPICA's actbl3.h: a header, the IOMMU at 00:03.0, one range of two
    /// functions and two of one. The sum of the bytes is zero.
    @Test func `is the table that was written by hand, byte by byte`() throws {
        let expected = bytes(
            """
            56 49 4f 54  88 00 00 00  00  b4  4f 55 54 42 52 44
            4f 55 54 42 4f 41 52 44  01 00 00 00  4f 55 54 42  01 00 00 00
            04 00  30 00  00 00 00 00 00 00 00 00
            03 00 10 00  00 00  18 00  00 00 00 00 00 00 00 00
            01 00 18 00  20 00 00 00  00 00 00 00  20 00 20 00  30 00  00 00 00 00 00 00
            01 00 18 00  28 00 00 00  00 00 00 00  28 00 29 00  30 00  00 00 00 00 00 00
            01 00 18 00  00 01 00 00  00 00 00 00  00 01 00 01  30 00  00 00 00 00 00 00
            """)
        #expect(expected.count == 136)
        #expect(try table("00:03.0", "00:05.1", "00:04.0", "01:00.0", "00:05.0").bytes == expected)
    }

    @Test(arguments: [1, 2, 64, 32768])
    func `has the right length, checksum and count however many nodes there are`(count: Int) {
        let endpoints = (0..<count).map { PCIAddress(requesterID: UInt16($0 * 2 + 1)) }
        let table = VIOT(iommu: PCIAddress(requesterID: 0), endpoints: endpoints)
        let bytes = table.bytes
        #expect(table.ranges.count == count)
        #expect(bytes.count == 64 + 24 * count)
        #expect(bytes.reduce(0, &+) == 0)
        let length = bytes[4..<8].reversed().reduce(0) { $0 << 8 | Int($1) }
        #expect(length == bytes.count)
        #expect(Int(bytes[36]) | Int(bytes[37]) << 8 == count + 1)
    }

    @Test func `takes in nothing that lies between two endpoints`() throws {
        let table = try table("00:02.0", "00:04.0", "00:04.2", "00:04.3", "00:05.0")
        #expect(table.ranges.map(\.first.description) == ["00:04.0", "00:04.2", "00:05.0"])
        #expect(table.ranges.map(\.last.description) == ["00:04.0", "00:04.3", "00:05.0"])
    }

    @Test func `has a range across buses where their addresses adjoin`() throws {
        let table = try table("00:02.0", "00:1f.7", "01:00.0", "ff:1f.7")
        #expect(table.ranges.map(\.last.description) == ["01:00.0", "ff:1f.7"])
    }

    @Test func `is the same whatever order the endpoints are given in`() throws {
        #expect(try table("00:02.0", "00:04.0", "00:05.0") == table("00:02.0", "00:05.0", "00:04.0", "00:05.0"))
    }

    @Test func `is shown with a line for each node`() throws {
        #expect(
            try table("00:03.0", "00:04.0", "00:05.0", "00:05.1").text == """
                VIOT: 112 bytes, checksum 0x19
                  virtio-iommu: PCI 00:03.0
                  endpoint 0x0020: PCI 00:04.0
                  endpoints 0x0028 to 0x0029: PCI 00:05.0 to 00:05.1

                """)
    }
}
