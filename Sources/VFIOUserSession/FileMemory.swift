import DMA
import LinuxHost

/// The memory of one mapping whose client wants its file read and written instead of mapped.
///
/// It can show files that have no pages to map, and files that shrink, which here only makes transfers fail. Nobody can
/// pin it. Access by file I/O in `VFIO_USER_DMA_MAP`.
final class FileMemory: RemoteMemory {
    private struct State {
        var isRevoked = false
        var transferCount = 0
    }

    /// How long an unmap waits for transfers under way. A file system that takes longer is not one of this kernel's own
    /// but perhaps the client's, which must not hold us up; what then comes late is its own file's.
    private static let revocationWait: Duration = .seconds(1)

    private let state = Monitor(State())
    private let file: StorageFile
    private let fileOffset: UInt64
    private let base: IOVA

    /// Takes over the descriptor of a mapping of `byteCount` bytes at `base`.
    ///
    /// - Throws: `ENODEV` for what has no bytes at offsets, `EINVAL` for a file that ends before the mapping does,
    ///   `EPERM` for a mapping that may be written of a descriptor that may not.
    init(
        adopting descriptor: consuming OwnedDescriptor, fileOffset: UInt64, at base: IOVA, byteCount: UInt64,
        rights: AccessRights
    ) throws(DMAError) {
        do throws(Errno) {
            file = StorageFile(adopting: descriptor)
            self.fileOffset = fileOffset
            self.base = base
            let status = try file.status()
            guard status.kind == .regular || status.kind == .blockDevice else { throw .noSuchDevice }
            // A range whose last byte is the very last there could be has an end beyond all numbers.
            let (end, overflow) = fileOffset.addingReportingOverflow(byteCount)
            guard !overflow, end <= UInt64(Int64.max) else { throw .invalidArgument }
            // Files that the kernel makes up have bytes and say that they have none.
            let isShort = status.kind == .regular && status.size > 0 && UInt64(status.size) < end
            guard !isShort else { throw .invalidArgument }
            guard !rights.contains(.write) || file.descriptor.isReadWrite else { throw .notPermitted }
        } catch {
            throw DMAError(error)
        }
    }

    func read(at iova: IOVA, into buffer: UnsafeMutableRawBufferPointer) throws(DMAError) {
        try begin()
        defer { end() }
        do throws(Errno) {
            unsafe try file.read(into: buffer, at: offset(of: iova))
        } catch {
            throw DMAError(error)
        }
    }

    func write(_ bytes: UnsafeRawBufferPointer, at iova: IOVA) throws(DMAError) {
        try begin()
        defer { end() }
        do throws(Errno) {
            unsafe try file.write(bytes, at: offset(of: iova))
        } catch {
            throw DMAError(error)
        }
    }

    /// The client is told that the mapping is gone once this returns, and may use the file for something else.
    func revoke() {
        state.withLock { $0.isRevoked = true }
        _ = state.wait(until: .after(Self.revocationWait)) { $0.transferCount == 0 ? () : nil }
    }

    private func begin() throws(DMAError) {
        try state.withLock { (state) throws(DMAError) in
            guard !state.isRevoked else { throw .cancelled }
            state.transferCount += 1
        }
    }

    private func end() {
        state.update { $0.transferCount -= 1 }
    }

    /// Transfers stay within their mapping, so that neither step overflows.
    private func offset(of iova: IOVA) -> Int64 {
        Int64(fileOffset + (iova.rawValue - base.rawValue))
    }
}
