import LinuxHost
import VFIOUserTransport
import VFIOUserWire

/// A transport that tells a recorder what crosses another one: exactly what a session sends and receives.
final class RecordingTransport: Transport {
    let conversation: UInt16
    private let inner: any Transport
    private let recorder: Recorder
    private let socket: RecordedSocket
    private let state: Monitor<State>

    private struct State {
        var received = MessageAssembler()
        var sent = MessageAssembler()
        var watch: MemoryWatch?
        var ending = RecordedEnding.serverClosed
        var hasEnded = false
    }

    init(_ inner: any Transport, recorder: Recorder, conversation: UInt16, socket: RecordedSocket) {
        self.inner = inner
        self.recorder = recorder
        self.conversation = conversation
        self.socket = socket
        state = Monitor(State(watch: socket == .main ? recorder.watch : nil))
    }

    deinit { end() }

    var pollDescriptor: Int32 { inner.pollDescriptor }

    func receive(into buffer: UnsafeMutableRawBufferPointer, waiting: Bool) throws(Errno) -> ReceivedBytes {
        do throws(Errno) {
            let received = unsafe try inner.receive(into: buffer, waiting: waiting)
            if received.count == 0 {
                state.withLock { $0.ending = .clientLeft }
            } else {
                let bytes = unsafe UnsafeRawBufferPointer(rebasing: buffer[..<received.count])
                unsafe record(bytes, from: received.descriptors, lost: received.lostDescriptors)
            }
            return received
        } catch {
            fail(error)
            throw error
        }
    }

    func send(
        _ bytes: UnsafeRawBufferPointer, descriptors: borrowing DescriptorBundle, waiting: Bool
    ) throws(Errno) -> Int {
        let count: Int
        do throws(Errno) {
            count = unsafe try inner.send(bytes, descriptors: descriptors, waiting: waiting)
        } catch {
            fail(error)
            throw error
        }
        let recorded = describe(descriptors)
        state.withLock { state in
            unsafe state.sent.append(
                UnsafeRawBufferPointer(rebasing: bytes[..<count]), recorded, lost: false)
            while let message = state.sent.next() { write(message, .toClient) }
        }
        return count
    }

    func shutdown() {
        end()
        inner.shutdown()
    }

    private func record(_ bytes: UnsafeRawBufferPointer, from bundle: borrowing DescriptorBundle, lost: Bool) {
        let recorded = describe(bundle)
        var trouble: Errno?
        state.withLock { state in
            unsafe state.received.append(bytes, recorded, lost: lost)
            if state.watch != nil, recorder.isClosed { state.watch = nil }
            do throws(Errno) {
                try state.watch?.begin(recorded, bundle)
            } catch {
                (trouble, state.watch) = (error, nil)
            }
            while let message = state.received.next() {
                do throws(Errno) {
                    try state.watch?.handle(message) { write($0) }
                } catch {
                    (trouble, state.watch) = (error, nil)
                }
                write(message, .toServer)
            }
        }
        if let trouble { recorder.tell(.memory(trouble)) }
    }

    private func describe(_ bundle: borrowing DescriptorBundle) -> [RecordedDescriptor] {
        // A descriptor that `fstat` refuses cannot have come through a socket.
        recorder.number((try? bundle.describe()) ?? [])
    }

    private func write(_ message: MessageAssembler.Assembled, _ direction: RecordedDirection) {
        recorder.append(.message(recorded(message, direction)), to: conversation)
    }

    private func write(_ memory: RecordedMemory) {
        recorder.append(memory, to: conversation)
    }

    private func recorded(_ message: MessageAssembler.Assembled, _ direction: RecordedDirection) -> RecordedMessage {
        RecordedMessage(
            direction: direction, socket: socket, descriptors: message.descriptors,
            lostDescriptors: message.lostDescriptors, bytes: message.bytes)
    }

    private func fail(_ error: Errno) {
        guard error != .wouldBlock, error != .interrupted else { return }
        state.withLock { $0.ending = .failed(error.rawValue) }
    }

    /// Ends the conversation, once.
    private func end() {
        state.withLock { state in
            guard !state.hasEnded else { return }
            state.hasEnded = true
            if let rest = state.received.rest() {
                recorder.append(.fragment(recorded(rest, .toServer)), to: conversation)
            }
            if let rest = state.sent.rest() {
                recorder.append(.fragment(recorded(rest, .toClient)), to: conversation)
            }
            if socket == .main { recorder.append(.disconnected(state.ending), to: conversation) }
        }
    }
}
