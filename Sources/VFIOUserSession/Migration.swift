import DMA
import DeviceModel
import LinuxHost
import VFIOUserWire

/// What a session knows of a device that can migrate.
struct Migration {
    /// How long a device may take to come to rest. QEMU gives a reply five seconds.
    static let stopTime = Duration.seconds(3)

    let device: any MigratableDevice
    private(set) var machine = MigrationStateMachine()
    /// What the client has not read yet.
    private var outgoing: [UInt8] = []
    private var outgoingStart = 0
    private var incoming: StateStream.Incoming?
    /// Why the state that is being written cannot be taken, once that is known.
    private var incomingError: StateError?
    /// The ranges whose writes are logged, ascending; `nil` when none are.
    var loggedRanges: [IOVARange]?

    init?(_ device: any Device) {
        guard let device = device as? any MigratableDevice else { return nil }
        self.device = device
    }

    /// Brings the device to a state.
    ///
    /// - Parameter memory: what the device's messages to the client go through; they are cancelled while it comes to rest,
    ///   because the client may be unable to answer them before it has the reply to this.
    /// - Throws: why the device is not there. It is where the last arc that could be followed ends, or in error.
    mutating func bring(to target: MigrationState, _ memory: ClientMemory) throws(RequestRefusal) {
        guard let path = machine.path(to: target) else { throw .noTransition(from: machine.state, to: target) }
        for arc in path {
            try perform(arc.action, memory)
            machine.follow(arc)
        }
    }

    private mutating func perform(
        _ action: MigrationStateMachine.Action, _ memory: ClientMemory
    ) throws(RequestRefusal) {
        switch action {
        case .stop: try stop(memory)
        case .resume: device.resume()
        case .save: setOutgoing(StateStream.opening(of: device) + StateStream.body(of: device))
        case .saveInAdvance: setOutgoing(StateStream.opening(of: device))
        case .forgetSaved: setOutgoing([])
        case .stopAndSave:
            try stop(memory)
            setOutgoing(outgoing[outgoingStart...] + StateStream.body(of: device))
        case .awaitState:
            incoming = StateStream.Incoming(for: device)
            incomingError = nil
        case .restore: try restore()
        }
    }

    private func stop(_ memory: ClientMemory) throws(RequestRefusal) {
        device.beginStop()
        var failure: StopFailure?
        memory.withoutTransfers {
            do throws(StopFailure) {
                try device.finishStop(by: .after(Self.stopTime))
            } catch {
                failure = error
            }
        }
        guard let failure else { return }
        device.resume()
        throw .notStopped(failure)
    }

    private mutating func setOutgoing(_ bytes: some Sequence<UInt8>) {
        outgoing = Array(bytes)
        outgoingStart = 0
    }

    private mutating func restore() throws(RequestRefusal) {
        let stream = incoming
        incoming = nil
        do throws(StateError) {
            if let incomingError { throw incomingError }
            guard var reader = try stream?.finish() else { throw .tooShort }
            try device.restoreState(from: &reader)
        } catch {
            machine.fail()
            throw .badState(error)
        }
    }

    /// The next bytes of the state, at most `count`; fewer when there are no more for now.
    mutating func read(atMost count: Int) throws(RequestRefusal) -> ArraySlice<UInt8> {
        guard machine.state == .preCopy || machine.state == .stopCopy else { throw .wrongState(machine.state) }
        let bytes = outgoing[outgoingStart...].prefix(count)
        outgoingStart += bytes.count
        return bytes
    }

    mutating func write(_ bytes: Span<UInt8>) throws(RequestRefusal) {
        guard machine.state == .resuming else { throw .wrongState(machine.state) }
        do throws(StateError) {
            if let incomingError { throw incomingError }
            try incoming?.append(bytes)
        } catch {
            incomingError = error
            throw .badState(error)
        }
    }

    /// Takes note that the device was reset: it runs from now on.
    mutating func didReset() {
        if !machine.isRunning { device.resume() }
        machine.reset()
        setOutgoing([])
        incoming = nil
        incomingError = nil
    }
}
