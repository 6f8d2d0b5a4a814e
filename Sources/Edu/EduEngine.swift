import DMA
import LinuxHost
import PCI

/// The thread that computes factorials and moves bytes.
struct EduEngine {
    let port: PCIPort
    let state: Monitor<EduState>
    let addressMask: UInt64

    private enum Work {
        case factorial(of: UInt64, generation: Int)
        case transfer(Transfer)
    }

    private struct Transfer {
        let source, destination, byteCount: UInt64
        let isFromDevice: Bool
        let generation: Int
        /// How often the device had been told to stand still.
        let stops: Int
        /// The guest memory there was when the driver started the transfer.
        let memory: GuestMemory?
    }

    func run() {
        while let work = nextWork() {
            switch work {
            case .factorial(let number, let generation): finish(factorial(number), generation)
            case .transfer(let transfer): perform(transfer)
            }
            state.update { $0.activity.isWorking = false }
        }
    }

    /// Waits for something to do; `nil` when the device goes.
    private func nextWork() -> Work? {
        state.wait { state -> Work?? in
            if state.activity.isEnding { return .some(nil) }
            if state.activity.isStopped { return nil }
            let registers = state.registers
            if registers[.dmaCommand] & EduDMACommand.start != 0 {
                state.activity.isWorking = true
                state.activity.isTransferring = true
                return .transfer(
                    Transfer(
                        source: registers[.dmaSource], destination: registers[.dmaDestination],
                        byteCount: registers[.dmaCount],
                        isFromDevice: registers[.dmaCommand] & EduDMACommand.fromDevice != 0,
                        generation: state.generation, stops: state.activity.stops, memory: state.transferMemory))
            }
            if registers[.status] & EduStatus.computing != 0 {
                state.activity.isWorking = true
                return .factorial(of: registers[.factorial], generation: state.generation)
            }
            return nil
        }
    }

    /// The factorial modulo 2^32, as the register holds it. From 34 on it is zero, so that the loop is a short one
    /// whatever the guest asks for.
    private func factorial(_ number: UInt64) -> UInt64 {
        var result: UInt32 = 1
        var factor = UInt32(truncatingIfNeeded: number)
        while factor > 0 && result != 0 {
            result &*= factor
            factor -= 1
        }
        return UInt64(result)
    }

    private func finish(_ result: UInt64, _ generation: Int) {
        state.update { state in
            guard state.generation == generation else { return }
            state.registers[.factorial] = result
            state.registers[.status] &= ~EduStatus.computing
            if state.registers[.status] & EduStatus.raiseInterrupt != 0 { state.raise(EduInterrupt.factorial) }
            state.tell(port)
        }
    }

    /// Moves the bytes. The device has no way to report an address that is not there, or a range that is not all in its
    /// memory: such a transfer moves nothing and ends like any other.
    private func perform(_ transfer: Transfer) {
        let local = transfer.isFromDevice ? transfer.source : transfer.destination
        let remote = (transfer.isFromDevice ? transfer.destination : transfer.source) & addressMask
        var received: [UInt8]?
        var hasFailed = false
        if let place = place(of: local, byteCount: transfer.byteCount), !place.isEmpty {
            if transfer.isFromDevice {
                let bytes = state.withLock { Array($0.memory[place]) }
                unsafe bytes.withUnsafeBytes { bytes in
                    let written: Void? = unsafe try? transfer.memory?.write(bytes, to: IOVA(rawValue: remote))
                    hasFailed = written == nil
                }
            } else {
                received = transfer.memory.flatMap { read(remote, byteCount: place.count, from: $0) }
                hasFailed = received == nil
            }
        }
        state.update { state in
            state.activity.isTransferring = false
            guard state.generation == transfer.generation else { return }
            // The transfer is still to be made when the device goes on, here or elsewhere.
            if hasFailed, state.activity.stops != transfer.stops { return }
            if let received, let place = place(of: local, byteCount: transfer.byteCount) {
                state.memory.replaceSubrange(place, with: received)
            }
            state.registers[.dmaCommand] &= ~EduDMACommand.start
            if state.registers[.dmaCommand] & EduDMACommand.raiseInterrupt != 0 { state.raise(EduInterrupt.dma) }
            state.tell(port)
        }
    }

    private func read(_ address: UInt64, byteCount: Int, from memory: GuestMemory) -> [UInt8]? {
        guard let range = try? IOVARange(first: IOVA(rawValue: address), byteCount: UInt64(byteCount)) else {
            return nil
        }
        var bytes = [UInt8](repeating: 0, count: byteCount)
        do throws(DMAError) {
            try fill(&bytes, from: range, memory)
            return bytes
        } catch {
            return nil
        }
    }

    private func fill(_ bytes: inout [UInt8], from range: IOVARange, _ memory: GuestMemory) throws(DMAError) {
        var failure: DMAError?
        unsafe bytes.withUnsafeMutableBytes { buffer in
            do throws(DMAError) {
                unsafe try memory.read(range, into: buffer)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }

    /// Which bytes of the device's memory a range of the engine's addresses means; `nil` when it is not all in there.
    private func place(of address: UInt64, byteCount: UInt64) -> Range<Int>? {
        guard address >= Edu.memoryBase, byteCount <= Edu.memoryByteCount,
            address - Edu.memoryBase <= Edu.memoryByteCount - byteCount
        else { return nil }
        let first = Int(address - Edu.memoryBase)
        return first..<first + Int(byteCount)
    }
}
