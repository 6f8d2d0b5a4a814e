import Glibc
import LinuxHost
import Testing

@Suite struct `Snapshots of files` {
    @Test func `pages at the very end of what a file can be are seen`() throws {
        let last = Int64.max / 4096 * 4096 - 4096
        let file = try OwnedDescriptor.anonymousMemory(name: "snapshot", byteCount: 0)
        try #require(ftruncate(file.rawValue, Int(Int64.max)) == 0)
        var byte: UInt8 = 7
        try #require(unsafe pwrite(file.rawValue, &byte, 1, Int(last)) == 1)
        var snapshot = FileSnapshot(of: try file.duplicate())
        var seen: [Int64] = []
        for range in [last..<Int64.max, last - (1 << 20)..<last + 4096, 0..<0, last..<last] {
            byte += 1
            try #require(unsafe pwrite(file.rawValue, &byte, 1, Int(last)) == 1)
            try snapshot.update(range) { offset, bytes in
                seen.append(offset)
                #expect(bytes.first == byte)
            }
        }
        #expect(seen == [last, last])
    }
}
