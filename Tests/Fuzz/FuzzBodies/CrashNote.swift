import Glibc
import LinuxHost
import Synchronization

/// Says which input it was when the process dies of it: a trap says no more than where in the code.
public enum CrashNote {
    private static let number = Atomic<UInt64>(0)
    private static let options = Monitor("")
    /// Installs the handlers, once.
    private static let isInstalled: Bool = {
        for signal in [SIGILL, SIGTRAP, SIGSEGV, SIGBUS, SIGABRT, SIGFPE] {
            Glibc.signal(signal) { signal in CrashNote.tell(signal) }
        }
        return true
    }()

    /// Keeps `number`, to be printed behind `options` should this be the end.
    public static func leave(_ number: UInt64, _ options: @autoclosure () -> String) {
        if number != Self.number.exchange(number, ordering: .relaxed) &+ 1 || !isInstalled {
            let options = options()
            Self.options.withLock { $0 = options }
        }
    }

    private static func tell(_ signal: Int32) {
        Glibc.signal(signal, SIG_DFL)
        let options = Self.options.withLock { $0 }
        let text = Array("FOUND: signal \(signal)\nplay it alone with: \(options)\(number.load(ordering: .relaxed))\n".utf8)
        _ = unsafe write(1, text, text.count)
        raise(signal)
    }
}
