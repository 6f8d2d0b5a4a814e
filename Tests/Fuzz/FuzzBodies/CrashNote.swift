import Glibc
import LinuxHost

/// Says which input it was when the process dies of it: a trap says no more than where in the code, if that.
///
/// The inputs are played by a child, whose number of the day the parent can read.
public enum CrashNote {
    /// Runs `body` in a child process, before there are threads.
    ///
    /// - Parameters:
    ///   - body: told where to leave the number of each input before it is played; what it returns is the status.
    ///   - options: what is printed before the number of the input that a signal ended.
    public static func run(options: String, _ body: (_ leave: (UInt64) -> Void) -> Int32) throws -> Int32 {
        let page = unsafe mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)
        guard let page = unsafe page, unsafe page != MAP_FAILED else { throw Errno(rawValue: errno) }
        defer { unsafe munmap(page, 4096) }
        let number = unsafe page.bindMemory(to: UInt64.self, capacity: 1)
        fflush(nil)
        let child = fork()
        guard child >= 0 else { throw Errno(rawValue: errno) }
        if child == 0 {
            let status = body { unsafe number.pointee = $0 }
            fflush(nil)
            _exit(status)
        }
        var status: Int32 = 0
        while unsafe waitpid(child, &status, 0) < 0, errno == EINTR {}
        let signal = status & 0x7f
        if signal == 0 { return status >> 8 & 0xff }
        print("FOUND: signal \(signal)")
        print("play it alone with: \(options)\(unsafe number.pointee)")
        print("0 passed, 1 failed, 0 skipped")
        return 1
    }
}
