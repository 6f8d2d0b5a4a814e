import DMA
import PCI
import Synchronization

/// The driver's memory as the device itself uses it: rings and completion records.
///
/// The driver may change any byte at any time, so what is read is read once, as a whole, and looked at afterwards.
struct EngineMemory: Sendable {
    let guest: GuestMemory

    /// The entry at an address of the command or work ring; `nil` when it cannot be read.
    func readDescriptor(at address: IOVA) -> Descriptor? {
        var words = Descriptor.Words(repeating: 0)
        do throws(DMAError) {
            let range = try IOVARange(first: address, byteCount: UInt64(Descriptor.byteCount))
            unsafe try withUnsafeMutableBytes(of: &words) { (bytes) throws(DMAError) in
                unsafe try guest.read(range, into: bytes)
            }
        } catch {
            return nil
        }
        for index in words.indices { words[index] = UInt64(littleEndian: words[index]) }
        return Descriptor(parsing: words)
    }

    /// Writes a record, the byte that the driver waits for after all others. Whether that could be done.
    func write(_ record: CompletionRecord, at address: IOVA) -> Bool {
        guard address.rawValue % UInt64(CompletionRecord.byteCount) == 0 else { return false }
        let contents = record.contents
        guard write(contents.span.extracting(1...), at: IOVA(address.rawValue + 1)) else { return false }
        atomicMemoryFence(ordering: .releasing)
        return write(contents.span.extracting(..<1), at: address)
    }

    /// Writes an entry of the page request ring. Whether that could be done.
    func write(_ entry: PageRequestEntry, at address: IOVA) -> Bool {
        write(entry.contents.span, at: address)
    }

    private func write(_ bytes: Span<UInt8>, at address: IOVA) -> Bool {
        do throws(DMAError) {
            unsafe try bytes.withUnsafeBytes { (bytes) throws(DMAError) in
                unsafe try guest.write(bytes, to: address)
            }
            return true
        } catch {
            return false
        }
    }
}
