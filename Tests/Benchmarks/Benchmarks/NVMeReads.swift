import CBaselines
import Glibc
import LinuxHost
import NVMe

/// Random reads of 4 KiB through an NVMe queue, beside reads of the same file without anything between.
func nvmeReads(_ settings: Settings, _ report: Report) throws {
    let workers = NVMeController.Options(serial: .init(derivedFrom: "")).workers
    report.begin(
        "NVMe, random reads",
        """
        ns for a read of 4 KiB: a driver puts commands into a queue in shared memory, rings doorbells by posted writes, and
        waits for the queue's interrupt, or spins on the completion queue. The controller, with \(workers) threads that
        execute commands, is in a process of its own; all run where the kernel lets them. The file, 64 MiB, is in the page
        cache, so that what is measured is not a disk. The baselines do the same reads with pread: in a loop, and in as many
        threads as the controller has, or the depth if that is less.
        """)
    let file = try ImageFile(blockCount: 16_384)
    let server = try ServerProcess(.nvme(path: file.path))
    let driver = NVMeDriver(server.client, file)
    let rows: [(String, [Figures?])] = [false, true].flatMap { spins in
        [1, 32, 128].map { depth in
            let threads = min(depth, workers)
            let contenders: [(Int) -> Int] = [
                { seed in driver.read(512, depth: depth, spins: spins, seed: seed) },
                { seed in file.read(4096, threads: 1, seed: seed) },
                { seed in file.read(16_384, threads: threads, seed: seed) },
            ]
            let figures = interleaved(contenders, rounds: settings.rounds) { read, round in
                var count = 0
                let time = nanosecondsPerOperation(for: settings.threadedSampleTime, count: 1) { turn in
                    count = read(turn * 31 + round + 1)
                }
                return time / Double(count)
            }
            return ("depth \(depth), driver \(spins ? "spins" : "waits")", figures)
        }
    }
    report.write("")
    report.table(
        "nvme", unit: "ns", heading: "", columns: ["Outboard NVMe", "pread loop", "pread threads"], rows: rows)
    let calls = [1, 32, 128].map { depth in
        let calls = server.systemCalls(count: 512) { _ = driver.read(512, depth: depth, spins: false, seed: depth) }
        if let calls {
            report.record("nvme", "depth \(depth)", "Outboard NVMe", "system calls", Figures([calls]))
        }
        return "\(calls.map { decimal($0) } ?? "unknown") at depth \(depth)"
    }
    report.write("\nSystem calls of the controller's process for a read: \(calls.joined(separator: ", ")).")
}

/// A file whose blocks can be told from each other. It has no name, so that nothing is left whatever happens.
final class ImageFile {
    let blockCount: UInt64
    private let descriptor: OwnedDescriptor

    init(blockCount: Int) throws(Errno) {
        let folder = unsafe getenv("TMPDIR").map { unsafe String(cString: $0) } ?? "/tmp"
        var name = Array("\(folder)/outboard-benchmark-XXXXXX".utf8CString)
        let number = unsafe mkstemp(&name)
        guard number >= 0 else { throw Errno(rawValue: errno) }
        unsafe unlink(name)
        descriptor = OwnedDescriptor(adopting: number)
        self.blockCount = UInt64(blockCount)
        let status = load_fill_file(number, self.blockCount)
        guard status == 0 else { throw Errno(rawValue: status) }
    }

    /// Where other processes find the file as long as this one has it.
    var path: String { "/proc/\(getpid())/fd/\(descriptor.rawValue)" }

    /// Reads random blocks and checks what they hold. Returns `count`.
    func read(_ count: Int, threads: Int, seed: Int) -> Int {
        check("pread", load_pread(descriptor.rawValue, blockCount, count, threads, UInt64(seed)))
        return count
    }
}

/// A driver for the controller that shows an image file.
@safe
final class NVMeDriver {
    private let client: LoadClient
    private let file: ImageFile
    private let driver: OpaquePointer?

    init(_ client: LoadClient, _ file: ImageFile) {
        self.client = client
        self.file = file
        unsafe driver = client.makeDriver()
    }

    deinit { unsafe nvme_load_destroy(driver) }

    /// Reads random blocks and checks what they hold. Returns `count`.
    func read(_ count: Int, depth: Int, spins: Bool, seed: Int) -> Int {
        check("NVMe read", unsafe nvme_load_read(driver, file.blockCount, count, depth, spins, UInt64(seed)))
        return count
    }
}
