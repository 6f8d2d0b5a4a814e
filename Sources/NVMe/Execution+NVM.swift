import BlockStorage

extension Execution {
    func runNVMCommand() throws(Status) -> Outcome {
        guard let command = NVMCommand(parsing: entry) else { throw .invalidOpcode }
        if case .flush = command {
            guard entry.namespaceID == .first || entry.namespaceID == .all else { throw .invalidNamespaceOrFormat }
        } else {
            guard entry.namespaceID == .first else { throw .invalidNamespaceOrFormat }
        }
        switch command {
        case .flush: try flush()
        case .read(let range, let isDurable):
            let pages = try pages(of: range)
            if isDurable { try flush() }
            try memory.read(range, to: pages)
            engine.update { $0.history.countRead(byteCount: byteCount(of: range)) }
        case .write(let range, let isDurable):
            try checkWritable()
            try memory.write(range, from: try pages(of: range))
            engine.update { $0.history.countWrite(byteCount: byteCount(of: range)) }
            try finishWrite(isDurable: isDurable)
        case .compare(let range, let isDurable):
            let pages = try pages(of: range)
            if isDurable { try flush() }
            try memory.compare(range, with: pages)
            engine.update { $0.history.countRead(byteCount: byteCount(of: range)) }
        case .verify(let range, let isDurable):
            try check(range)
            if isDurable { try flush() }
            try memory.verify(range)
        case .writeZeroes(let range, let isDurable, let deallocates):
            try checkWritable()
            try check(range)
            try changeStore { () throws(BlockStoreError) in
                try engine.store.writeZeroes(range, deallocating: deallocates)
            }
            try finishWrite(isDurable: isDurable)
        case .datasetManagement(let rangeCount, let deallocates):
            try manage(rangeCount, deallocates: deallocates)
        }
        return .ended(.success, result: 0)
    }

    func flush() throws(Status) {
        try changeStore { () throws(BlockStoreError) in try engine.store.flush() }
    }

    /// Deallocates ranges of blocks; the other attributes are hints that a file has no use for.
    private func manage(_ rangeCount: Int, deallocates: Bool) throws(Status) {
        if deallocates { try checkWritable() }
        let byteCount = rangeCount * DatasetRange.byteCount
        let list = try memory.read(
            try pages(of: entry.dataPointer, byteCount: UInt64(byteCount)), byteCount: byteCount)
        let ranges = DatasetRange.parse(list)
        for range in ranges { try check(range) }
        guard deallocates else { return }
        for range in ranges {
            try changeStore { () throws(BlockStoreError) in try engine.store.deallocate(range) }
        }
        try finishWrite(isDurable: false)
    }

    private func check(_ range: BlockRange) throws(Status) {
        guard engine.store.contains(range) else { throw .blockOutOfRange }
    }

    private func checkWritable() throws(Status) {
        guard !engine.store.isReadOnly else { throw .namespaceWriteProtected }
    }

    /// Where the data of a transfer of blocks is, once the transfer is known to be possible.
    private func pages(of range: BlockRange) throws(Status) -> DataPages {
        let byteCount = byteCount(of: range)
        guard byteCount <= ControllerIdentity.maximumTransferByteCount else { throw .invalidField }
        try check(range)
        return try pages(of: entry.dataPointer, byteCount: byteCount)
    }

    /// At most 65 536 blocks, so this does not overflow.
    private func byteCount(of range: BlockRange) -> UInt64 { range.count * engine.identity.blockSize.byteCount }

    /// Makes what was written durable if the host asked for it, or has switched the write cache off.
    private func finishWrite(isDurable: Bool) throws(Status) {
        let isCached = try engine.update(for: token) { $0.operation.features.isWriteCacheEnabled }
        if isDurable || !isCached { try flush() }
    }

    /// Changes the store without guest memory, unless a reset has orphaned the command.
    private func changeStore(_ body: () throws(BlockStoreError) -> Void) throws(Status) {
        guard engine.isCurrent(token.generation) else { throw .abortRequested }
        do throws(BlockStoreError) {
            try body()
        } catch {
            throw Status(writing: error)
        }
    }
}
