import BlockStorage
import DMA

/// One command being executed by a worker, from its entry to its status.
struct Execution {
    enum Outcome {
        case ended(Status, result: UInt32)
        /// Completed later, by an event or when a queue has drained.
        case parked
        /// To be executed again, because the controller was stopped: guest memory may have failed for no fault of the host.
        case interrupted
    }

    let engine: NVMeEngine
    let token: CommandToken
    let entry: SubmissionEntry
    let memory: CommandMemory
    /// How often the controller had been told to stand still when the command was handed out.
    let stops: Int

    func run() -> Outcome {
        do throws(Status) {
            // Neither fused commands nor scatter-gather lists are on offer.
            guard !entry.isFused, !entry.usesScatterGatherList else { throw .invalidField }
            return token.submissionQueue == .admin ? try runAdminCommand() : try runNVMCommand()
        } catch {
            // No command changes the controller before its last access to guest memory, so it can be executed anew.
            if error == .dataTransferError, engine.wasStopped(since: stops) { return .interrupted }
            if error.isLogged { log(error) }
            return .ended(error, result: 0)
        }
    }

    /// The guest memory that the command's data occupies.
    func pages(of pointer: DataPointer, byteCount: UInt64) throws(Status) -> DataPages {
        guard byteCount <= ControllerIdentity.maximumTransferByteCount else { throw .invalidField }
        let pageByteCount = try engine.update(for: token) { $0.operation.memoryPageByteCount }
        return try DataPages(pointer, byteCount: byteCount, pageByteCount: pageByteCount) {
            (address, count) throws(Status) in try memory.readAddresses(at: address, count: count)
        }
    }

    private func log(_ status: Status) {
        let block = token.submissionQueue == .admin ? 0 : UInt64(entry.dword(11)) << 32 | UInt64(entry.dword(10))
        engine.update { state in
            guard state.isCurrent(token.generation) else { return }
            state.history.log(token.submissionQueue, entry.commandID, status, block: block, entry.namespaceID)
        }
    }
}
