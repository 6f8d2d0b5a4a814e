public import DeviceModel
public import LinuxHost
public import PCI

/// Migration. A factorial or a transfer that is under way when the device stops is begun anew where it goes on.
extension Edu: MigratablePCIDeviceModel {
    /// Registers and memory as a driver left them.
    public struct SavedState {
        let registers: RegisterBank<EduRegister>
        let memory: [UInt8]
    }

    public var stateIdentity: StateIdentity {
        StateIdentity(
            device: "edu", version: 1,
            properties: [.init("DMA address bits", "\(64 - addressMask.leadingZeroBitCount)")])
    }

    public func beginStop() {
        state.update { state in
            state.activity.isStopped = true
            state.activity.stops += 1
        }
    }

    public func finishStop(by deadline: MonotonicInstant) throws(StopFailure) {
        guard state.wait(until: deadline, { $0.activity.isWorking ? nil : () }) != nil else { throw .tookTooLong }
    }

    public func resume() {
        state.update { state in
            state.activity.isStopped = false
            state.transferMemory = port.memory
        }
    }

    public func saveState(into writer: inout StateWriter) {
        state.withLock { state in
            state.registers.save(into: &writer)
            writer.append(bytes: state.memory)
        }
    }

    public func readState(from reader: inout StateReader) throws(StateError) -> SavedState {
        let registers = try RegisterBank(
            EduRegister.map, from: &reader, changedByDevice: [.status, .interruptStatus])
        return SavedState(registers: registers, memory: try reader.bytes(Int(Edu.memoryByteCount)))
    }

    public func adopt(_ saved: SavedState) {
        state.update { state in
            state = EduState(after: state)
            state.registers = saved.registers
            state.memory = saved.memory
            port.setInterruptLine(asserted: state.registers[.interruptStatus] != 0)
        }
    }
}
