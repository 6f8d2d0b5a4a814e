import DeviceModel

extension PCIDescription {
    /// The windows of the function by VFIO index: six BARs, no ROM, configuration space, no VGA.
    var regions: [Region] {
        var regions = [Region](repeating: .absent, count: 9)
        for bar in bars {
            let memory = memory.first { $0.bar == bar.index }
            regions[bar.index] = Region(byteCount: bar.byteCount, memory: memory?.mappable)
        }
        regions[PCIRegion.configuration] = Region(byteCount: UInt64(configurationByteCount))
        return regions
    }
}

/// Indices of a PCI device's regions. `VFIO_PCI_*_REGION_INDEX`
public enum PCIRegion {
    public static let rom = 6
    public static let configuration = 7
    public static let vga = 8
}

extension PCIFunction {
    public func readRegion(_ index: Int, at offset: UInt64, into bytes: inout MutableSpan<UInt8>) {
        var done = 0
        while done < bytes.count {
            let place = offset + UInt64(done)
            let byteCount = naturalAccess(at: place, remaining: bytes.count - done)
            let value = read(index, at: place, byteCount: byteCount)
            for byte in 0..<byteCount { bytes[done + byte] = value.byte(byte) }
            done += byteCount
        }
    }

    public func writeRegion(_ index: Int, at offset: UInt64, from bytes: Span<UInt8>) {
        var done = 0
        while done < bytes.count {
            let place = offset + UInt64(done)
            let byteCount = naturalAccess(at: place, remaining: bytes.count - done)
            var value: UInt64 = 0
            for byte in 0..<byteCount { value |= UInt64(bytes[done + byte]) << UInt64(byte * 8) }
            write(value, index, at: place, byteCount: byteCount)
            done += byteCount
        }
    }

    /// The widest naturally aligned access, of at most eight bytes, that begins at `offset`.
    private func naturalAccess(at offset: UInt64, remaining: Int) -> Int {
        var byteCount = 8
        while byteCount > remaining || offset % UInt64(byteCount) != 0 { byteCount /= 2 }
        return byteCount
    }

    private func read(_ index: Int, at offset: UInt64, byteCount: Int) -> UInt64 {
        if index == PCIRegion.configuration {
            let isBusy = model.hasPendingTransactions
            // Outside of the port's lock, which is taken after the model's own.
            if let access = port.update({ $0.windowAccess(touchedAt: Int(offset), byteCount: byteCount) }) {
                let value = access.target.map { read($0.bar, at: $0.offset, byteCount: $0.byteCount) } ?? 0
                port.update { $0.configuration[.windowData] = value & 0xffff_ffff }
            }
            return port.update {
                $0.readConfiguration(at: Int(offset), byteCount: byteCount, hasPendingTransactions: isBusy)
            }
        }
        guard port.isPoweredOn else { return .max }
        if let memory = memory[index], memory.contains(offset) { return memory.read(at: offset, byteCount: byteCount) }
        guard let structure = msixStructure(bar: index, at: offset) else {
            return model.readRegister(bar: index, at: offset, byteCount: byteCount)
        }
        return port.update { state in
            switch structure {
            case .table(let offset): state.msixTable.read(at: offset, byteCount: byteCount)
            case .pending(let offset):
                MSIXTable.pendingBits(
                    at: offset, byteCount: byteCount,
                    isPending: { state.msixTable.pending[$0] || interrupts.isPending(.msix, $0) },
                    vectorCount: state.msixTable.vectorCount)
            }
        }
    }

    private func write(
        _ value: UInt64, _ index: Int, at offset: UInt64, byteCount: Int, isFromWindow: Bool = false
    ) {
        if index == PCIRegion.configuration {
            let wasBusMaster = port.isBusMaster
            let (wantsReset, access) = port.update { state in
                let wantsReset = state.writeConfiguration(value, at: Int(offset), byteCount: byteCount)
                return (wantsReset, state.windowAccess(touchedAt: Int(offset), byteCount: byteCount))
            }
            if let access, let target = access.target {
                write(access.data, target.bar, at: target.offset, byteCount: target.byteCount, isFromWindow: true)
            }
            if wantsReset { reset() }
            if !wasBusMaster, port.isBusMaster { model.didBecomeBusMaster() }
            return
        }
        guard port.isPoweredOn else { return }
        if let memory = memory[index], memory.contains(offset) {
            memory.write(value, at: offset, byteCount: byteCount)
            return
        }
        switch msixStructure(bar: index, at: offset) {
        case .table(let offset):
            // The window is in configuration space, which is passed on by clients that keep the table themselves too.
            port.update {
                $0.msixTable.write(value, at: offset, byteCount: byteCount, countsAsProgramming: !isFromWindow)
            }
        case .pending: break
        case nil: model.writeRegister(value, bar: index, at: offset, byteCount: byteCount)
        }
    }

    private enum MSIXStructure {
        case table(Int), pending(Int)
    }

    /// Which MSI-X structure, if any, lies at an offset of a BAR, and how far into it. Both begin and end at multiples
    /// of eight, so a naturally aligned access never straddles an edge.
    private func msixStructure(bar: Int, at offset: UInt64) -> MSIXStructure? {
        guard let msix = port.description.msix else { return nil }
        if bar == msix.tableBar, msix.tableRange.contains(offset) {
            return .table(Int(offset - msix.tableRange.lowerBound))
        }
        if bar == msix.pendingBar, msix.pendingRange.contains(offset) {
            return .pending(Int(offset - msix.pendingRange.lowerBound))
        }
        return nil
    }
}
