import ArgumentParser
import LinuxHost
import Logging
import VFIOUserRecording

/// The options of `outboard serve` that write down what is said.
struct RecordingOptions: ParsableArguments {
    @Option(
        help: .init(
            "Write every message to a new file, which outboard decode and outboard replay read.", valueName: "file"))
    var record: String?

    @Flag(
        help: """
            Record the contents of the client's memory too, as far as it changes, before each write to a region. Slow: \
            it reads all memory that the guest uses each time.
            """)
    var recordMemory = false

    func validate() throws {
        if recordMemory && record == nil { throw ValidationError("--record-memory needs --record FILE") }
    }

    /// The recorder that the options ask for; `nil` without them.
    ///
    /// - Parameter isOneOfSeveral: whether others record too; then the file is called after the device as well.
    /// - Throws: `Failure` when the file cannot be created.
    func recorder(of deviceName: String, _ logger: Logger, isOneOfSeveral: Bool = false) throws -> Recorder? {
        guard let record = record.map({ isOneOfSeveral ? "\($0).\(deviceName)" : $0 }) else { return nil }
        do throws(Errno) {
            return try Recorder(
                StorageFile(creatingPath: record), served: deviceName,
                wallClock: WallClock.nanoseconds, recordsMemory: recordMemory
            ) { trouble in
                switch trouble {
                case .file(let error):
                    logger.error("recording ended: its file cannot be written", metadata: ["cause": "\(error)"])
                case .tooSlow: logger.error("recording ended: its file takes too little")
                case .memory(let error):
                    logger.error("memory is not recorded any more", metadata: ["cause": "\(error)"])
                }
            }
        } catch {
            throw Failure(message: "\(record): \(error)")
        }
    }
}
