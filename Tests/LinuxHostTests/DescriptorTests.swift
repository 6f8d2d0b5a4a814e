import LinuxHost
import Testing

@Suite struct `Descriptors` {
    @Test func `an anonymous file has the size asked for and no seals`() throws {
        let descriptor = try OwnedDescriptor.anonymousMemory(name: "test", byteCount: 8192)
        #expect(try descriptor.status().size == 8192)
        #expect(descriptor.seals == [])
        #expect(descriptor.isReadWrite == true)
    }
}
