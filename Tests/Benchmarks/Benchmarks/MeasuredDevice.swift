import CBaselines
import CProcessCounters
import DMA
import DeviceModel
import LinuxHost

/// The device that is measured, as a device of Outboard; the baseline server has the same in C, and `CBaselines.h` says
/// what its registers are.
///
/// A thread of its own transfers memory, because the connection's may not wait for the client.
final class MeasuredDevice: Device {
    let regions: [Region] = (0..<9).map { index in
        switch index {
        case 0: Region(byteCount: UInt64(MEASURED_REGION_SIZE))
        case 7: Region(byteCount: UInt64(MEASURED_CONFIGURATION_SIZE))
        default: .absent
        }
    }
    let interrupts = InterruptSet(counts: [:])

    private let access = DMAAccess(needsPin: true, onUnmap: { _ in })
    private let registers = Monitor(Registers())
    private let engine: Engine
    private let thread: OSThread

    private struct Registers {
        var storage = [UInt8](repeating: 0, count: Int(MEASURED_STORAGE_SIZE))
        var transfer = Transfer()
        var probe: UInt64 = 0
    }

    init() throws(Errno) {
        let engine = Engine(access)
        self.engine = engine
        thread = try OSThread(name: "transfers") { engine.run() }
    }

    deinit {
        engine.stop()
        thread.join()
        access.destroy()
    }

    func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        let place = Int(offset)
        if index == 0, place + bytes.count <= Int(MEASURED_STORAGE_SIZE) {
            registers.withLock { registers in
                for number in bytes.indices { bytes[number] = registers.storage[place + number] }
            }
            return
        }
        let value = index == 0 && bytes.count == 8 ? register(at: place) : 0
        for number in bytes.indices { bytes[number] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(number % 8))) }
    }

    func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        let place = Int(offset)
        guard index == 0 else { return }
        if place + bytes.count <= Int(MEASURED_STORAGE_SIZE) {
            registers.withLock { registers in
                for number in bytes.indices { registers.storage[place + number] = bytes[number] }
            }
        } else if bytes.count == 8 {
            setRegister(at: place, to: bytes.indices.reversed().reduce(0) { $0 << 8 | UInt64(bytes[$1]) })
        }
    }

    func reset() {
        engine.reset()
        registers.withLock { $0 = Registers() }
    }

    func attach(to space: IOAddressSpace) throws(DMAError) { try access.attach(to: space) }

    func detach() {
        do throws(DMAError) {
            try access.detach()
        } catch {
            fail("detach", error)
        }
    }

    private func register(at offset: Int) -> UInt64 {
        if offset == MEASURED_ALLOCATIONS { return count_of_allocations() }
        let (transfer, probe) = registers.withLock { ($0.transfer, $0.probe) }
        switch offset {
        case MEASURED_PROBE: return load(probe)
        case MEASURED_DMA_ADDRESS: return transfer.address
        case MEASURED_DMA_COUNT: return transfer.byteCount
        case MEASURED_DMA_COMPLETION: return transfer.completion
        default: return 0
        }
    }

    private func setRegister(at offset: Int, to value: UInt64) {
        let transfer = registers.withLock { registers -> Transfer in
            switch offset {
            case MEASURED_PROBE: registers.probe = value
            case MEASURED_DMA_ADDRESS: registers.transfer.address = value
            case MEASURED_DMA_COUNT: registers.transfer.byteCount = value
            case MEASURED_DMA_COMPLETION: registers.transfer.completion = value
            default: break
            }
            return registers.transfer
        }
        if offset == MEASURED_DMA_COMMAND { engine.begin(transfer, command: value) }
    }

    /// The eight bytes at an address if a descriptor leads to them, all ones otherwise.
    private func load(_ address: UInt64) -> UInt64 {
        var value = UInt64.max
        do throws(DMAError) {
            let range = try IOVARange(first: IOVA(address), byteCount: 8)
            // The memory is there while the closure runs.
            unsafe try access.withMemory(range, rights: .read) { unsafe value = $0.loadUnaligned(as: UInt64.self) }
            return value
        } catch {
            return .max
        }
    }
}

/// What the registers of a transfer say.
private struct Transfer {
    var address: UInt64 = 0
    var byteCount: UInt64 = 0
    var completion: UInt64 = 0
}

/// The buffer of the device, and the thread that fills it from client memory or empties it there.
@safe
private final class Engine: @unchecked Sendable {  // Only the thread touches the buffer while a transfer is under way.
    private let access: DMAAccess
    private let state = Monitor(State())
    private let buffer: UnsafeMutableRawBufferPointer

    private struct State {
        var next: Order?
        var isBusy = false
        var isStopping = false
    }

    private struct Order {
        let transfer: Transfer
        let reads: Bool
    }

    init(_ access: DMAAccess) {
        self.access = access
        unsafe buffer = .allocate(byteCount: Int(MEASURED_DMA_BUFFER_SIZE), alignment: 64)
        clear()
    }

    deinit { unsafe buffer.deallocate() }

    private func clear() { unsafe buffer.initializeMemory(as: UInt8.self, repeating: 0) }

    func stop() { state.update { $0.isStopping = true } }

    /// Begins a transfer, once the one before has ended.
    func begin(_ transfer: Transfer, command: UInt64) {
        guard command == MEASURED_DMA_READ || command == MEASURED_DMA_WRITE else { return }
        state.update { $0.next = Order(transfer: transfer, reads: command == MEASURED_DMA_READ) }
    }

    /// Returns when nothing is transferred any more. That does not take long: while a device is reset, its messages fail.
    func reset() {
        state.update { $0.next = nil }
        state.wait { $0.isBusy ? nil : () }
        clear()
    }

    func run() {
        while let order = next() {
            var status = UInt64(perform(order) ? MEASURED_DMA_SUCCEEDED : MEASURED_DMA_FAILED)
            // Nobody is left to be told when this fails.
            _ = unsafe try? withUnsafeBytes(of: &status) { (bytes) throws(DMAError) in
                try unsafe access.write(bytes, to: IOVA(order.transfer.completion))
            }
            state.update { $0.isBusy = false }
        }
    }

    /// Waits for something to do; `nil` when the thread is to end.
    private func next() -> Order? {
        state.wait { state -> Order?? in
            if state.isStopping { return .some(nil) }
            guard let order = state.next else { return nil }
            state.next = nil
            state.isBusy = true
            return order
        }
    }

    private func perform(_ order: Order) -> Bool {
        let transfer = order.transfer
        guard transfer.byteCount <= UInt64(MEASURED_DMA_BUFFER_SIZE) else { return false }
        guard transfer.byteCount > 0 else { return true }
        let part = unsafe UnsafeMutableRawBufferPointer(rebasing: buffer[..<Int(transfer.byteCount)])
        do throws(DMAError) {
            let range = try IOVARange(first: IOVA(transfer.address), byteCount: transfer.byteCount)
            if order.reads {
                try unsafe access.read(range, into: part)
            } else {
                try unsafe access.write(UnsafeRawBufferPointer(part), to: range.first)
            }
            return true
        } catch {
            return false
        }
    }
}
