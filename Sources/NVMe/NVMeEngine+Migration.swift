import BlockStorage
import DeviceModel
import LinuxHost
import PCI

/// Standing still, and going on.
///
/// Workers that are with a command when the controller is stopped see it through as far as they get: guest memory is closed
/// to them and messages to the client are cancelled, so that what needs either fails at once, and only the store is waited
/// for. Whatever the host has not been told the end of is kept, as a command to execute once more, as a completion that is
/// due, or as a completion that has its slot. Executing a command once more does no harm: the host has been promised nothing
/// about its buffers and blocks until it sees the completion.
extension NVMeEngine {
    func wasStopped(since stops: Int) -> Bool { state.withLock { $0.wasStopped(since: stops) } }

    func beginStop() {
        update { state in
            state.activity.isStopped = true
            state.activity.stops += 1
            state.activity.stopFlush = .requested
        }
    }

    func finishStop(by deadline: MonotonicInstant) throws(StopFailure) {
        let result = rest.wait(until: deadline) { _ in
            state.withLock { state -> Result<Void, StopFailure>? in
                guard state.activity.executing == 0 else { return nil }
                switch state.activity.stopFlush {
                case .none, .requested, .underWay: return nil
                case .done: return .success(())
                case .failed: return .failure(.storageFailed)
                }
            }
        }
        guard let result else { throw .tookTooLong }
        try result.get()
    }

    func resume() {
        update { state in
            state.activity.isStopped = false
            state.activity.stopFlush = .none
        }
    }

    /// Makes what was written durable. A stop that has been given up meanwhile, or begun anew, is not concerned.
    func flushForStop(_ stops: Int) {
        var hasFailed = false
        do throws(BlockStoreError) {
            try store.flush()
        } catch {
            hasFailed = true
        }
        update { state in
            guard !state.wasStopped(since: stops), state.activity.isStopped else { return }
            state.activity.stopFlush = hasFailed ? .failed : .done
        }
    }

    /// Puts another controller's state into the place of this one's, and has the line follow it.
    func adopt(_ other: ControllerState) {
        update { state in
            state.adopt(other)
            state.activity.isLineShown = !state.isLineAsserted
        }
    }
}
