import DeviceModel

/// A function's configuration space, MSI-X table and interrupt line: all that reset rebuilds.
struct PCIFunctionState: Sendable {
    let description: PCIDescription
    var configuration: RegisterBank<ConfigurationRegister>
    var msixTable: MSIXTable
    /// What the device does to its line, whether or not anybody hears of it. The device lowers it when it is reset.
    var isLineAsserted = false
    /// MSI vectors that were raised while they could not be told.
    var msiPending: UInt64 = 0
    /// Whether the function stands still to be migrated: it starts no access and tells no interrupt.
    var isStopped = false

    init(_ description: PCIDescription) {
        self.init(
            description, RegisterBank(RegisterMap(description)),
            MSIXTable(vectorCount: description.msix?.vectorCount ?? 0, isProgrammed: false))
    }

    init(
        _ description: PCIDescription, _ configuration: RegisterBank<ConfigurationRegister>, _ msixTable: MSIXTable
    ) {
        self.description = description
        self.configuration = configuration
        self.msixTable = msixTable
    }

    mutating func reset() {
        let wasStopped = isStopped
        self = PCIFunctionState(
            description, RegisterBank(configuration.map),
            MSIXTable(vectorCount: msixTable.vectorCount, isProgrammed: msixTable.isProgrammed))
        // Whether it goes on is not the guest's to say.
        isStopped = wasStopped
    }

    var isBusMaster: Bool {
        configuration[.command] & Command.busMaster != 0 && isPoweredOn && !isStopped
    }

    /// Whether the function is in D0; in D3hot it answers in configuration space only and starts nothing.
    var isPoweredOn: Bool {
        !description.hasPowerManagement
            || configuration[.powerManagementControl] & PowerControl.state == PowerControl.d0
    }
}

/// Configuration space.
extension PCIFunctionState {
    mutating func readConfiguration(
        at offset: Int, byteCount: Int, hasPendingTransactions: Bool
    ) -> UInt64 {
        let status = Status.interrupt
        let asserted = isLineAsserted
        let (configuration, pending) = (self.configuration, msiPending)
        return self.configuration.read(at: offset, byteCount: byteCount) { register in
            switch register {
            case .status: configuration[.status] & ~status | (asserted ? status : 0)
            case .deviceStatus:
                configuration[.deviceStatus] & ~ExpressDevice.transactionsPending
                    | (hasPendingTransactions ? ExpressDevice.transactionsPending : 0)
            case .msiPending: pending
            default: configuration[register]
            }
        }
    }

    /// - Returns: whether the write asked for a function-level reset.
    mutating func writeConfiguration(_ value: UInt64, at offset: Int, byteCount: Int) -> Bool {
        var wantsReset = false
        for write in configuration.write(value, at: offset, byteCount: byteCount) {
            switch write.id {
            case .deviceControl:
                if write.sets(ExpressDevice.initiateFunctionLevelReset) { wantsReset = true }
            case .powerManagementControl:
                // D1 and D2 are not supported, and asking for an unsupported state changes nothing.
                let state = write.new & PowerControl.state
                if state != PowerControl.d0 && state != PowerControl.d3hot {
                    configuration[write.id] = write.new & ~PowerControl.state | write.old & PowerControl.state
                }
            default: break
            }
        }
        return wantsReset
    }
}

/// Interrupts.
extension PCIFunctionState {
    /// Whether vectors go out through MSI-X: the guest has said so in configuration space, or the client by connecting
    /// vectors, which is how a client that emulates the capability itself says it.
    func usesMSIX(_ interrupts: InterruptSet) -> Bool {
        guard description.msix != nil else { return false }
        return configuration[.msixControl] & MSIXControl.enable != 0 || interrupts.isEnabled(.msix)
    }

    func usesMSI(_ interrupts: InterruptSet) -> Bool {
        guard description.msi != nil, !usesMSIX(interrupts) else { return false }
        return configuration[.msiControl] & MSIControl.enable != 0 || interrupts.isEnabled(.msi)
    }

    mutating func raise(_ vector: Int, _ interrupts: InterruptSet) {
        if usesMSIX(interrupts) {
            guard vector < msixTable.vectorCount else { return }
            msixTable.setPending(vector, true)
        } else if let msi = description.msi, usesMSI(interrupts) {
            msiPending |= 1 << UInt64(vector % usableVectors(of: msi, interrupts))
        }
    }

    /// How many MSI vectors the guest grants; a device that would like more has them share. Where a client keeps the
    /// capability to itself, what it connects is the grant.
    private func usableVectors(of msi: MSIDescription, _ interrupts: InterruptSet) -> Int {
        let control = configuration[.msiControl]
        if control & MSIControl.enable != 0 { return min(MSIControl.allocatedVectors(control), msi.vectorCount) }
        let connected = interrupts.connectedCount(.msi)
        return connected == 0 ? msi.vectorCount : connected
    }

    /// Tells whatever may be told: pending vectors that nothing masks, and the line. A message is a write to memory, so
    /// it needs the bus master bit; the line does not. In D3hot a function interrupts nobody.
    mutating func deliver(to interrupts: InterruptSet) {
        guard !isStopped else { return }
        let usesMSIX = usesMSIX(interrupts)
        let usesMSI = usesMSI(interrupts)
        if usesMSIX, isBusMaster, configuration[.msixControl] & MSIXControl.functionMask == 0 {
            for vector in 0..<msixTable.vectorCount where msixTable.pending[vector] && !msixTable.isMasked(vector) {
                msixTable.setPending(vector, false)
                interrupts.raise(.msix, vector)
            }
        }
        if usesMSI, isBusMaster, msiPending != 0 {
            let masked = description.msi?.hasMasking == true ? configuration[.msiMask] : 0
            for vector in 0..<32 where (msiPending & ~masked) >> UInt64(vector) & 1 != 0 {
                msiPending &= ~(1 << UInt64(vector))
                interrupts.raise(.msi, vector)
            }
        }
        let isDisabled = configuration[.command] & Command.interruptDisable != 0
        interrupts.setLine(asserted: isLineAsserted && isPoweredOn && !isDisabled && !usesMSIX && !usesMSI)
    }
}
