import BlockStorage
import Testing

@Suite struct ByteSizeTests {
    @Test(
        arguments: [
            ("0", 0), ("512", 512), ("64K", 65536), ("64k", 65536), ("10MiB", 10 << 20), ("1GiB", 1 << 30),
            ("1G", 1 << 30), ("1g", 1 << 30), ("2TiB", 2 << 40), ("3P", 3 << 50), ("15E", 15 << 60),
            ("18446744073709551615", .max), ("007K", 7168),
        ] as [(String, UInt64)])
    func `sizes as people write them`(text: String, byteCount: UInt64) {
        #expect(ByteSize(text)?.byteCount == byteCount)
    }

    @Test(
        arguments: [
            "", " ", "K", "GiB", "-1", "+1", "1.5G", "1 G", " 1G", "1G ", "1MB", "1B", "1KB", "1GI", "1GiBB", "1gib",
            "0x10", "1X", "16E", "18446744073709551616", "99999999999999999999G", "1\u{661}", "1i", "1iB",
        ])
    func `what is no size is refused`(text: String) {
        #expect(ByteSize(text) == nil)
    }

    @Test(
        arguments: [
            (0, "0"), (512, "512"), (1024, "1KiB"), (1 << 30, "1GiB"), (3 << 29, "1536MiB"), (.max, "\(UInt64.max)"),
            (1 << 63, "8EiB"),
        ] as [(UInt64, String)])
    func `a size is told with the largest unit that divides it`(byteCount: UInt64, text: String) {
        #expect(ByteSize(byteCount: byteCount).description == text)
        #expect(ByteSize(text)?.byteCount == byteCount)
    }
}
