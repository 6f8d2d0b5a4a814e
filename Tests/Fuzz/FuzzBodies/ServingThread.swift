import DeviceModel
import LinuxHost
import VFIOUserServer
import VFIOUserSession

/// The server of all sessions: one thread, which serves one client after another.
final class ServingThread: Sendable {
    /// What the server said about a session.
    struct Account: Sendable {
        var refusals: [RequestRefusal] = []
        var ending: ServerEvent.Ending?
        var failure: String?
    }

    private enum Work {
        case idle(Account)
        case asked(any Device, UNIXSocket)
        case serving
    }

    private struct State {
        var work = Work.idle(Account())
        var isStopping = false
    }

    private let state: Monitor<State>
    private let account: Monitor<Account>
    private let stop: EventCounter
    private let thread: OSThread

    init() throws(Errno) {
        let state = Monitor(State())
        let account = Monitor(Account())
        let stop = try EventCounter()
        thread = try OSThread(name: "server") {
            while Self.serveNext(state, account, stop) {
                let said = account.withLock { said in
                    defer { said = Account() }
                    return said
                }
                state.update { $0.work = .idle(said) }
            }
        }
        self.state = state
        self.account = account
        self.stop = stop
    }

    deinit {
        state.update { $0.isStopping = true }
        thread.join()
    }

    /// Lets the server take a client. Its end of the socket is the server's from now on.
    func serve(_ device: any Device, _ socket: consuming UNIXSocket) {
        state.update { $0.work = .asked(device, socket) }
    }

    /// Orders the server to leave its client.
    func interrupt() { stop.signal() }

    /// Waits until the server has done with the client and keeps nothing of it.
    func waitUntilIdle() throws(Finding) -> Account {
        let said = state.wait(until: .after(.seconds(60))) { state -> Account? in
            if case .idle(let account) = state.work { account } else { nil }
        }
        stop.drain()
        guard let said else { throw Finding("the server does not leave a client that is gone") }
        return said
    }

    /// Serves one client; false when there will be no more. The socket is closed when this returns.
    @inline(never)
    private static func serveNext(
        _ state: Monitor<State>, _ account: Monitor<Account>, _ stop: EventCounter
    ) -> Bool {
        let job = state.wait { state -> (any Device, UNIXSocket)?? in
            if case .asked(let device, let socket) = state.work {
                state.work = .serving
                return .some((device, socket))
            }
            return state.isStopping ? .some(nil) : nil
        }
        guard let (device, socket) = job else { return false }
        let server = Server(device: device) { event in
            account.withLock { account in
                switch event {
                case .refused(_, let refusal): account.refusals.append(refusal)
                case .clientGone(let ending): account.ending = ending
                case .clientNotServed(let error): account.failure = "\(error)"
                default: break
                }
            }
        }
        server.serve(socket, until: stop)
        return true
    }
}
