/// A register that only has to be told that something was written to it, and so can be told by an event counter instead
/// of a message.
///
/// A client that knows of it signals the counter, or has the kernel do so in the guest's stead (`ioeventfd`), and the
/// session writes to the device as if a message had come. Any number of signals between two looks at the counter are one
/// write. A write of another width or value than rings the doorbell comes by message, as without it.
public struct Doorbell: Hashable, Sendable {
    /// A write that rings a doorbell. KVM knows these three kinds.
    public enum Trigger: Hashable, Sendable {
        /// Of one value, of 1, 2, 4 or 8 bytes.
        case value(UInt64, byteCount: Int)
        /// Of any value, of 1, 2, 4 or 8 bytes.
        case anyValue(byteCount: Int)
        /// Of any value and width.
        case anyWrite
    }

    /// The VFIO index of the region; never I/O space.
    public let region: Int
    /// Where in the region the register is, in bytes.
    public let offset: UInt64
    /// What the device is written when the doorbell is rung, least significant byte first. A counter carries no value, so
    /// it is the same for all triggers.
    public let value: UInt64
    /// 1, 2, 4 or 8 bytes.
    public let byteCount: Int
    /// The writes that ring it. They share one counter.
    public let triggers: [Trigger]

    /// - Precondition: widths are 1, 2, 4 or 8; values fit them; there is a trigger.
    public init(region: Int, offset: UInt64, value: UInt64, byteCount: Int, rungBy triggers: [Trigger]) {
        precondition(!triggers.isEmpty, "a doorbell that nothing rings")
        precondition(Self.isWrite(value, byteCount), "a doorbell writes a value of 1, 2, 4 or 8 bytes")
        for trigger in triggers {
            switch trigger {
            case .value(let value, let byteCount):
                precondition(Self.isWrite(value, byteCount), "a doorbell is rung by a value of 1, 2, 4 or 8 bytes")
            case .anyValue(let byteCount):
                precondition(Self.isWrite(0, byteCount), "a doorbell is rung by writes of 1, 2, 4 or 8 bytes")
            case .anyWrite: break
            }
        }
        self.region = region
        self.offset = offset
        self.value = value
        self.byteCount = byteCount
        self.triggers = triggers
    }

    private static func isWrite(_ value: UInt64, _ byteCount: Int) -> Bool {
        [1, 2, 4, 8].contains(byteCount) && (byteCount == 8 || value >> UInt64(byteCount * 8) == 0)
    }
}
