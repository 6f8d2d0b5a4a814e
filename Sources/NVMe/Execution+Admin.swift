import BlockStorage

extension Execution {
    func runAdminCommand() throws(Status) -> Outcome {
        guard let command = AdminCommand(parsing: entry) else { throw .invalidOpcode }
        switch command {
        case .identify(let command): try identify(command)
        case .getLogPage(let command): try getLogPage(command)
        case .getFeatures(let command): return .ended(.success, result: try getFeature(command))
        case .setFeatures(let command): return .ended(.success, result: try setFeature(command))
        case .createCompletionQueue(let command):
            try engine.update(for: token) { (state) throws(Status) in try state.create(command) }
        case .createSubmissionQueue(let command):
            try engine.update(for: token) { (state) throws(Status) in try state.create(command) }
        case .deleteCompletionQueue(let queue):
            try engine.update(for: token) { (state) throws(Status) in try state.deleteCompletionQueue(queue) }
        case .deleteSubmissionQueue(let queue):
            try engine.update(for: token) { (state) throws(Status) in
                try state.deleteSubmissionQueue(queue, for: entry.commandID)
            }
            return .parked
        case .abort(let queue, let command):
            // Only parked requests wait anywhere: what was fetched is being executed, what was not cannot be known.
            let isAborted = try engine.update(for: token) { state in
                queue == .admin && state.abortEventRequest(command)
            }
            return .ended(.success, result: isAborted ? 0 : 1)
        case .asynchronousEventRequest:
            try engine.update(for: token) { (state) throws(Status) in
                try state.parkEventRequest(entry.commandID)
            }
            return .parked
        }
        return .ended(.success, result: 0)
    }

    private func identify(_ command: Identify) throws(Status) {
        guard let structure = IdentifyStructure(rawValue: command.structure) else { throw .invalidField }
        let namespace = engine.identity.namespace
        var empty: [UInt8] { [UInt8](repeating: 0, count: Identify.byteCount) }
        let bytes: [UInt8]
        switch structure {
        case .controller: bytes = engine.identity.controllerBytes
        case .namespace:
            try checkNamespace(command.namespace)
            bytes = namespace.bytes
        case .namespaceDescriptors:
            try checkNamespace(command.namespace)
            bytes = namespace.descriptorBytes
        case .independentNamespace:
            try checkNamespace(command.namespace)
            bytes = namespace.independentBytes
        case .activeNamespaces: bytes = try activeNamespaces(after: command.namespace)
        case .commandSetActiveNamespaces:
            try checkCommandSet(command.commandSet)
            bytes = try activeNamespaces(after: command.namespace)
        case .commandSetNamespace:
            try checkCommandSet(command.commandSet)
            try checkNamespace(command.namespace)
            // No protection information, so nothing to say of its formats.
            bytes = empty
        case .commandSetController:
            try checkCommandSet(command.commandSet)
            // No limits but those of the commands' own fields for Verify, Write Zeroes and Dataset Management.
            bytes = empty
        }
        try send(bytes, to: command.dataPointer)
    }

    private func checkNamespace(_ namespace: NamespaceID) throws(Status) {
        guard namespace == .first else { throw .invalidNamespaceOrFormat }
    }

    private func checkCommandSet(_ commandSet: UInt8) throws(Status) {
        let nvm: UInt8 = 0
        guard commandSet == nvm else { throw .invalidField }
    }

    /// A list of those above `namespace`, which is a number to start from here and may be zero.
    private func activeNamespaces(after namespace: NamespaceID) throws(Status) -> [UInt8] {
        guard namespace.rawValue < .max - 1 else { throw .invalidNamespaceOrFormat }
        var list = StructureBytes(byteCount: Identify.byteCount)
        if namespace.rawValue < NamespaceID.first.rawValue { list.set(NamespaceID.first.rawValue, at: 0) }
        return list.bytes
    }

    private func getLogPage(_ command: GetLogPage) throws(Status) {
        guard let page = LogPage(rawValue: command.page) else { throw .invalidLogPage }
        guard command.byteCount <= ControllerIdentity.maximumTransferByteCount, !command.usesIndexOffset else {
            throw .invalidField
        }
        if page == .health {
            // One page for all of the controller: there is none for a namespace.
            guard command.namespace == .none || command.namespace == .all else { throw .invalidField }
        }
        let eventCount = try engine.update(for: token) { $0.operation.events.count }
        let contents = try contents(of: page)
        guard command.offset % 4 == 0, command.offset <= UInt64(contents.count) else { throw .invalidField }
        let part = contents.dropFirst(Int(command.offset)).prefix(Int(command.byteCount))
        // What a host asks for beyond the end of a page is undefined; it gets zeroes.
        try send(
            part + [UInt8](repeating: 0, count: Int(command.byteCount) - part.count), to: command.dataPointer)
        if !command.retainsEvent {
            try engine.update(for: token) { state in
                state.operation.events.didRead(page, madeAfter: eventCount)
                state.deliverEvents()
            }
        }
    }

    private func contents(of page: LogPage) throws(Status) -> [UInt8] {
        switch page {
        case .supportedLogPages: ConstantLogPages.supportedLogPages
        case .errorInformation: try engine.update(for: token) { $0.history.errorBytes }
        case .health:
            try engine.update(for: token) { state in
                state.history.healthBytes(hasTemperatureWarning: state.operation.features.hasTemperatureWarning)
            }
        case .firmwareSlot: ConstantLogPages.firmwareSlot(ControllerIdentity.firmware)
        case .commandEffects: ConstantLogPages.commandEffects
        case .featureEffects: ConstantLogPages.featureEffects
        case .managementCommandEffects: ConstantLogPages.managementCommandEffects
        }
    }

    private func getFeature(_ command: GetFeatures) throws(Status) -> UInt32 {
        guard let feature = FeatureID(rawValue: command.feature), let selection = command.selection else {
            throw .invalidField
        }
        if feature.isNamespaceSpecific, command.namespace != .first { throw .invalidNamespaceOrFormat }
        switch selection {
        case .capabilities: return feature.capabilities
        case .current:
            return try engine.update(for: token) { (state) throws(Status) in
                try state.operation.features.value(of: feature, command.selector)
            }
        case .initial, .saved:
            return try Features(queuePairs: engine.identity.queuePairs).value(of: feature, command.selector)
        }
    }

    private func setFeature(_ command: SetFeatures) throws(Status) -> UInt32 {
        guard let feature = FeatureID(rawValue: command.feature) else { throw .invalidField }
        guard !command.isSaved else { throw .featureNotSaveable }
        if feature.isNamespaceSpecific {
            guard command.namespace == .first || command.namespace == .all else { throw .invalidNamespaceOrFormat }
        } else {
            guard command.namespace == .none || command.namespace == .all else { throw .featureNotNamespaceSpecific }
        }
        let result = try engine.update(for: token) { (state) throws(Status) in
            let hasQueues = state.hasQueues
            let result = try state.operation.features.set(feature, to: command.value, hasQueues: hasQueues)
            let features = state.operation.features
            if features.wantsTemperatureEvents, features.hasTemperatureWarning {
                state.operation.events.raise(.temperatureThreshold)
                state.deliverEvents()
            }
            return result
        }
        // What was completed while the cache was on may still be in it.
        if feature == .volatileWriteCache, command.value & 1 == 0 { try flush() }
        return result
    }

    private func send(_ bytes: [UInt8], to pointer: DataPointer) throws(Status) {
        try memory.write(bytes, to: pages(of: pointer, byteCount: UInt64(bytes.count)))
    }
}
