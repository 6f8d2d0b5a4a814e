import DMA
import LinuxHost
import Testing

@testable import VFIOUserSession

/// Mappings that their client wants read and written as files.
@Suite struct `Memory by file I/O` {
    private let space = IOAddressSpace()
    private let range = IOVARange(first: IOVA(0x1000), last: IOVA(0x1fff))

    private func map() throws -> FileMemory {
        let memory = try FileMemory(
            adopting: try OwnedDescriptor.anonymousMemory(name: "file-io", byteCount: 4096), fileOffset: 0,
            at: range.first, byteCount: range.byteCount, rights: [.read, .write])
        try space.map(.remote(memory), at: range.first, byteCount: range.byteCount, rights: [.read, .write])
        return memory
    }

    /// What a transfer meets that found the mapping, and was held up before it got to the file.
    private func error(of memory: FileMemory, isWrite: Bool) -> DMAError? {
        var bytes = [UInt8](repeating: 1, count: 16)
        return unsafe bytes.withUnsafeMutableBytes { bytes in
            do throws(DMAError) {
                if isWrite {
                    unsafe try memory.write(UnsafeRawBufferPointer(bytes), at: range.first)
                } else {
                    unsafe try memory.read(at: range.first, into: bytes)
                }
                return nil
            } catch {
                return error
            }
        }
    }

    @Test(arguments: [false, true])
    func `once the unmap has returned, a late transfer does not reach the file`(isWrite: Bool) throws {
        let memory = try map()
        #expect(error(of: memory, isWrite: isWrite) == nil)
        try space.unmap(range)
        #expect(error(of: memory, isWrite: isWrite) == .cancelled)
    }
}
