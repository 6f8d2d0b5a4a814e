/// The end of a command as the controller writes it into a completion queue. Base
/// specification 2.0, section 3.3.3, Common Completion Queue Entry
///
///     dword  bits
///     0              by command
///     2      15:0    submission queue head
///     2      31:16   submission queue identifier
///     3      15:0    command identifier
///     3      16      phase tag
///     3      31:17   status field
struct CompletionEntry {
    static let byteCount = 16

    let result: UInt32
    let submissionQueueHead: UInt16
    let submissionQueue: QueueID
    let commandID: CommandID
    let phase: Bool
    let status: Status

    /// Dwords 0 to 3. The last one holds the phase tag, which tells the host that the others are there.
    var dwords: InlineArray<4, UInt32> {
        [
            result, 0, UInt32(submissionQueue.rawValue) << 16 | UInt32(submissionQueueHead),
            UInt32(status.field) << 17 | (phase ? 1 << 16 : 0) | UInt32(commandID.rawValue),
        ]
    }
}
