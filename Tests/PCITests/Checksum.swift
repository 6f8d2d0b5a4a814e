import DMA
import LinuxHost
import PCI

/// Adds up the bytes of a piece of guest memory, and interrupts when it is done.
final class Checksum: PCIDeviceModel {
    enum Register: Hashable, Sendable {
        case address, byteCount, control, sum

        static let map = RegisterMap<Register>([
            .init(.address, "Address", at: 0x00, byteCount: 8, .readWrite),
            .init(.byteCount, "Byte Count", at: 0x08, byteCount: 4, fields: [.init("Byte Count", 0...15, .readWrite)]),
            .init(
                .control, "Control", at: 0x0c, byteCount: 4,
                fields: [.init("Run", 0, .writeOneToSet), .init("Failed", 1, .readOnly)], hooks: .write),
            .init(.sum, "Sum", at: 0x10, byteCount: 8, .readOnly),
        ])
    }

    private enum Control {
        static let run: UInt64 = 1
        static let failed: UInt64 = 2
    }

    private struct Job {
        let address, byteCount: UInt64
        let memory: GuestMemory?
        let generation: Int
    }

    private struct State {
        var registers = RegisterBank(Register.map)
        var job: Job?
        /// Counts resets, so that a result that comes after one is known to be stale.
        var generation = 0
        var isStopping = false
    }

    private let port: PCIPort
    private let state = Monitor(State())
    private let worker: OSThread

    static func makeFunction() throws(Errno) -> PCIFunction<Checksum> {
        let description = PCIDescription(
            vendorID: 0x1234, deviceID: 0x0ca5, classCode: PCIClassCode(baseClass: 0x12, subclass: 0x00),
            bars: [BaseAddressRegister(0, .memory32, byteCount: 4096)], msi: MSIDescription(vectorCount: 1))
        return try PCIFunction(description) { (port) throws(Errno) in try Checksum(port) }
    }

    private init(_ port: PCIPort) throws(Errno) {
        self.port = port
        worker = try OSThread(name: "checksum") { [state] in
            while let job = Checksum.nextJob(state) { Checksum.finish(job, Checksum.sum(job), state, port) }
        }
    }

    deinit {
        state.update { $0.isStopping = true }
        worker.join()
    }

    func readRegister(bar: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        state.withLock { $0.registers.read(at: Int(offset), byteCount: byteCount) { _ in 0 } }
    }

    func writeRegister(_ value: UInt64, bar: Int, at offset: UInt64, byteCount: Int) {
        state.update { state in
            let writes = state.registers.write(value, at: Int(offset), byteCount: byteCount)
            for write in writes where write.sets(Control.run) && write.old & Control.run == 0 {
                state.job = Job(
                    address: state.registers[.address], byteCount: state.registers[.byteCount], memory: port.memory,
                    generation: state.generation)
            }
        }
    }

    func reset() {
        state.update { $0 = State(generation: $0.generation + 1) }
        port.setInterruptLine(asserted: false)
    }

    private static func nextJob(_ state: Monitor<State>) -> Job? {
        state.wait { state -> Job?? in
            if state.isStopping { return .some(nil) }
            guard let job = state.job else { return nil }
            state.job = nil
            return job
        }
    }

    /// The sum of the bytes; `nil` when there are none, or not all of them can be read.
    private static func sum(_ job: Job) -> UInt64? {
        guard let range = try? IOVARange(first: IOVA(job.address), byteCount: job.byteCount) else { return nil }
        var bytes = [UInt8](repeating: 0, count: Int(job.byteCount))
        let answer: Void? = unsafe bytes.withUnsafeMutableBytes { unsafe try? job.memory?.read(range, into: $0) }
        return answer.map { bytes.reduce(0) { $0 + UInt64($1) } }
    }

    private static func finish(_ job: Job, _ sum: UInt64?, _ state: Monitor<State>, _ port: PCIPort) {
        state.update { state in
            guard state.generation == job.generation else { return }
            state.registers[.sum] = sum ?? 0
            state.registers[.control] = sum == nil ? Control.failed : 0
            port.notify(0)
        }
    }
}
