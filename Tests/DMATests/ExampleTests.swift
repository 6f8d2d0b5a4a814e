import DMA
import Testing

@Suite struct `The example in the documentation` {
    private func example() throws {
        let space = IOAddressSpace()
        let memory = try MemoryObject.anonymous(byteCount: 1 << 20)
        try space.map(.file(memory, offset: 0), at: IOVA(0x8000_0000), byteCount: 1 << 20, rights: [.read, .write])

        let access = DMAAccess(needsPin: true) { range in
            // Somebody unmaps this range: release the pins in it.
        }
        try access.attach(to: space)

        let block = try IOVARange(first: IOVA(0x8000_1000), byteCount: 4096)
        let pinned = try access.pin(block, rights: .write)
        unsafe pinned.forEachSegment { segment in
            unsafe segment.initializeMemory(as: UInt8.self, repeating: 0)
        }
        pinned.unpin()

        try space.unmap(.everything)
        access.destroy()
    }

    @Test func `works, and is shown as it is here`() throws {
        try example()
        let source = try lines(of: #filePath)
        let start = try #require(source.firstIndex { $0.contains("func example() throws {") })
        let body = source[(start + 1)...].prefix { $0 != "    }" }.map { line in
            String(line.dropFirst(8)).split(separator: "unsafe ", omittingEmptySubsequences: false).joined()
        }
        let root = String(#filePath.dropLast("Tests/DMATests/ExampleTests.swift".count))
        let page = try lines(of: root + "Sources/DMA/DMA.docc/DMA.md")
        let code = try #require(page.firstIndex(of: "```swift"))
        #expect(Array(page[(code + 1)...].prefix { $0 != "```" }) == body)
    }
}
