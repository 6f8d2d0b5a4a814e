import Glibc

/// Bytes that nobody can foresee, from the kernel.
public enum RandomBytes {
    /// What the kernel gives in one call.
    private static let callLimit = 256

    /// Fills `bytes`. Waits only in the first moments of a machine's life, before the kernel has gathered any.
    /// `getentropy(3)`
    public static func fill(_ bytes: inout MutableSpan<UInt8>) {
        unsafe bytes.withUnsafeMutableBytes { bytes in
            for start in stride(from: 0, to: bytes.count, by: callLimit) {
                let part = unsafe UnsafeMutableRawBufferPointer(
                    rebasing: bytes[start..<min(start + callLimit, bytes.count)])
                let status = unsafe getentropy(part.baseAddress, part.count)
                precondition(status == 0, "the kernel has random bytes")
            }
        }
    }
}
