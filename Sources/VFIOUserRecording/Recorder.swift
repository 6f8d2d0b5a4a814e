public import LinuxHost
public import VFIOUserTransport

/// Writes the conversations of a server into a file.
///
/// Whoever serves a client only copies into memory; a thread of the recorder's own writes to the file, a tenth of a
/// second later at most. What cannot be written ends the recording and nothing else. Any thread may use it; `finish()`
/// must be called before the last reference goes.
public final class Recorder: Sendable {
    /// What can end a recording before its time, or a part of it.
    public enum Trouble: Error, Hashable, Sendable {
        /// The file cannot be written: nothing more is recorded.
        case file(Errno)
        /// The file takes less than there is to record: nothing more is recorded.
        case tooSlow
        /// Memory of a client cannot be looked at, or is too much: its contents are not recorded any more.
        case memory(Errno)
    }

    /// How much may wait for the file, so that a disk that stands still does not cost all memory.
    private static let maximumWaitingByteCount = 256 << 20
    /// How much is written at once if nothing hurries.
    private static let batchByteCount = 256 << 10
    private static let patience = Duration.milliseconds(100)

    private struct State {
        var writer = RecordingWriter()
        var conversationCount: UInt16 = 0
        var numbers: [FileStatus.Identity: UInt32] = [:]
        var lastNumber: UInt32 = 0
        /// Nothing more is taken.
        var isClosed = false
        /// Somebody waits, or has waited, for the thread to end.
        var isFinished = false

        mutating func number(of identity: FileStatus.Identity, isFile: Bool) -> UInt32 {
            if isFile, let number = numbers[identity] { return number }
            lastNumber &+= 1
            if isFile { numbers[identity] = lastNumber }
            return lastNumber
        }
    }

    private let start = MonotonicInstant.now
    private let state = Monitor(State())
    private let thread: OSThread
    private let recordsMemory: Bool
    private let report: @Sendable (Trouble) -> Void

    /// Begins a recording.
    ///
    /// - Parameters:
    ///   - file: empty, and open for writing.
    ///   - served: what is served, for people.
    ///   - wallClock: nanoseconds since 1970.
    ///   - recordsMemory: whether the contents of client memory are recorded too; it takes as long as reading all that
    ///     the client uses of it before every write to a region.
    ///   - report: told of trouble, once of each kind, on any thread; must not take long.
    /// - Throws: `EAGAIN` when there is no room for another thread.
    public init(
        _ file: consuming StorageFile, served: String, wallClock: UInt64, recordsMemory: Bool = false,
        report: @escaping @Sendable (Trouble) -> Void
    ) throws(Errno) {
        self.recordsMemory = recordsMemory
        self.report = report
        state.withLock { state in
            state.writer.appendFileHeader()
            state.writer.append(
                RecordingEntry(time: 0, conversation: 0, event: .served(served, wallClock: wallClock)))
        }
        let box = FileBox(file)
        thread = try OSThread(name: "recorder") { [state] in
            if let error = Recorder.write(state, to: box) {
                report(.file(error))
            }
        }
    }

    /// Puts the recorder before a client's socket: before the first, which begins a conversation, or before the second of
    /// a client whose first it stands before already.
    public func transport(over inner: any Transport, as role: TransportRole = .main) -> any Transport {
        switch role {
        case .main:
            guard let number = beginConversation() else { return inner }
            return RecordingTransport(inner, recorder: self, conversation: number, socket: .main)
        case .twin(let main):
            guard let main = main as? RecordingTransport else { return inner }
            return RecordingTransport(inner, recorder: self, conversation: main.conversation, socket: .twin)
        }
    }

    /// The number of a new conversation; `nil` for more than a recording can number, which go unrecorded.
    private func beginConversation() -> UInt16? {
        let number: UInt16? = state.withLock { state in
            guard !state.isClosed, state.conversationCount < .max else { return nil }
            state.conversationCount += 1
            return state.conversationCount
        }
        if let number { append(.connected, to: number) }
        return number
    }

    /// Writes what is left and ends the recording.
    public func finish() {
        append(.finished, to: 0)
        let isFirst = state.update { state in
            defer { state.isFinished = true }
            state.isClosed = true
            return !state.isFinished
        }
        if isFirst { thread.join() }
    }

    /// Appends memory, of which there may be more than may wait: whoever asked for it waits for the file instead.
    func append(_ memory: RecordedMemory, to conversation: UInt16) {
        _ = state.wait { $0.isClosed || $0.writer.bytes.count < Self.maximumWaitingByteCount / 2 ? true : nil }
        append(.memory(memory), to: conversation)
    }

    func append(_ event: RecordedEvent, to conversation: UInt16) {
        let entry = RecordingEntry(
            time: UInt64(MonotonicInstant.now.nanoseconds - start.nanoseconds), conversation: conversation, event: event
        )
        let outcome = state.withLock { state -> (wakes: Bool, overflows: Bool) in
            guard !state.isClosed else { return (false, false) }
            let before = state.writer.bytes.count
            state.writer.append(entry)
            let after = state.writer.bytes.count
            if after > Self.maximumWaitingByteCount {
                state.isClosed = true
                return (true, true)
            }
            return (before == 0 || (before < Self.batchByteCount && after >= Self.batchByteCount), false)
        }
        if outcome.wakes { state.update { _ in } }
        if outcome.overflows { report(.tooSlow) }
    }

    /// Gives descriptors their numbers in the recording.
    func number(_ descriptions: [DescriptorDescription]) -> [RecordedDescriptor] {
        guard !descriptions.isEmpty else { return [] }
        return state.withLock { state in
            descriptions.map { description in
                let kind: RecordedDescriptor.Kind =
                    switch description.kind {
                    case .file: .memory
                    case .eventCounter: .eventCounter
                    case .socket: .socket
                    case .other: .other
                    }
                return RecordedDescriptor(
                    kind: kind, isWritable: description.isReadWrite,
                    number: state.number(of: description.identity, isFile: kind == .memory),
                    byteCount: UInt64(clamping: description.byteCount))
            }
        }
    }

    var watch: MemoryWatch? { recordsMemory ? MemoryWatch() : nil }

    /// Whether nothing more is recorded.
    var isClosed: Bool { state.withLock { $0.isClosed } }

    func tell(_ trouble: Trouble) { report(trouble) }

    /// The thread that writes. Returns the error that ended it, if one did.
    private static func write(_ state: Monitor<State>, to box: FileBox) -> Errno? {
        var position: Int64 = 0
        while true {
            let deadline = MonotonicInstant.after(patience)
            _ = state.wait { $0.isClosed || !$0.writer.bytes.isEmpty ? true : nil }
            _ = state.wait(until: deadline) { $0.isClosed || $0.writer.bytes.count >= batchByteCount ? true : nil }
            let (bytes, isLast) = state.update { ($0.writer.removeAll(), $0.isClosed) }
            do throws(Errno) {
                try box.write(bytes, at: position)
            } catch {
                state.update { state in
                    state.isClosed = true
                    _ = state.writer.removeAll()
                }
                return error
            }
            position += Int64(bytes.count)
            if isLast { return nil }
        }
    }
}
