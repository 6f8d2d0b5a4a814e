import JSONText
import VFIOUserWire

extension Capabilities {
    /// Who wrote a document: the two sides may say different things.
    enum Author {
        case client
        case server
    }

    /// Room for a hundred times what clients send.
    private static let limits = JSONLimits(maximumByteCount: 16 << 10, maximumDepth: 16)
    private static let rootKey = "capabilities"

    /// Reads what follows the version numbers in a payload: nothing at all, or a document and its NUL.
    init(parsing payload: Span<UInt8>, from author: Author) throws(NegotiationError) {
        self.init()
        let start = VersionMessage.capabilitiesOffset
        if payload.count == start { return }
        if payload[payload.count - 1] != 0 { throw .notTerminated }
        var text: [UInt8] = []
        text.reserveCapacity(payload.count - start)
        for offset in start..<(payload.count - 1) { text.append(payload[offset]) }
        try self.init(parsing: text, from: author)
    }

    /// Reads a document without its NUL.
    init(parsing text: [UInt8], from author: Author) throws(NegotiationError) {
        self.init()
        let document: JSONValue
        do {
            document = try JSONValue(parsing: text, limits: Capabilities.limits)
        } catch {
            throw .notJSON(error)
        }
        guard let root = document.members else { throw .notAnObject }
        guard let capabilities = root[Capabilities.rootKey] else { return }
        guard let members = capabilities.members else { throw .notAnObject }
        try parse(members, from: author)
    }

    /// Reads the keys it knows; others are of other versions and mean nothing here.
    private mutating func parse(_ members: [JSONValue.Member], from author: Author) throws(NegotiationError) {
        let limits = Bounds(author)
        maximumMessageDescriptors = try members.count(.maximumMessageDescriptors, in: 0...limits.messageDescriptors)
        maximumTransferSize = try members.count(.maximumTransferSize, in: 1...limits.transferSize)
        maximumDMAMappings = try members.count(.maximumDMAMappings, in: 1...limits.dmaMappings)
        pageSizes = try members.pageMultiple(.pageSizes, upTo: UInt64.max).map(PageSizes.init(rawValue:))
        writeMultiple = try members.boolean(.writeMultiple)
        if let migration = try members.object(.migration) {
            self.migration = try Migration(parsing: migration, largestBitmap: limits.bitmapSize)
            // A client may leave it to the server; a server that leaves it out is unreadable to one of the clients.
            if author == .server && self.migration?.pageSize == nil { throw .missing(.migrationPageSize) }
        }
        if let twinSocket = try members.object(.twinSocket) {
            self.twinSocket = try TwinSocket(parsing: twinSocket, from: author)
        }
    }

    /// What each side may say.
    private struct Bounds {
        let messageDescriptors, transferSize, dmaMappings: Int
        let bitmapSize: UInt64

        init(_ author: Author) {
            switch author {
            case .client:
                messageDescriptors = CapabilityLimits.proposed
                transferSize = CapabilityLimits.proposed
                dmaMappings = CapabilityLimits.proposed
                bitmapSize = UInt64(CapabilityLimits.proposed)
            case .server:
                messageDescriptors = CapabilityLimits.answeredMessageDescriptors
                transferSize = CapabilityLimits.answeredTransferSize
                dmaMappings = CapabilityLimits.answeredDMAMappings
                bitmapSize = CapabilityLimits.answeredBitmapSize
            }
        }
    }
}

extension Capabilities.Migration {
    init(parsing members: [JSONValue.Member], largestBitmap: UInt64) throws(NegotiationError) {
        pageSize = try members.pageMultiple(.migrationPageSize, upTo: UInt64(UInt32.max))
        maximumBitmapSize = try members.number(.migrationMaximumBitmapSize, in: 1...Int128(largestBitmap))
            .map { UInt64($0) }
    }
}

extension Capabilities.TwinSocket {
    init(parsing members: [JSONValue.Member], from author: Capabilities.Author) throws(NegotiationError) {
        isSupported = try members.boolean(.twinSocketSupported) ?? false
        // A client has no descriptor to speak of, whatever it writes here.
        if author == .server && isSupported {
            let last = CapabilityLimits.answeredMessageDescriptors - 1
            descriptorIndex = try members.count(.twinSocketDescriptorIndex, in: 0...last)
            if descriptorIndex == nil { throw .missing(.twinSocketDescriptorIndex) }
        }
    }
}

extension Capabilities {
    /// The document with its NUL, shortest form.
    func text() throws(NegotiationError) -> [UInt8] {
        do {
            return try JSONValue.object([.init(Capabilities.rootKey, .object(members))]).text() + [0]
        } catch {
            throw .notWritable(error)
        }
    }

    private var members: [JSONValue.Member] {
        var members: [JSONValue.Member] = []
        members.append(.maximumMessageDescriptors, maximumMessageDescriptors.map { .integer(Int128($0)) })
        members.append(.maximumTransferSize, maximumTransferSize.map { .integer(Int128($0)) })
        members.append(.maximumDMAMappings, maximumDMAMappings.map { .integer(Int128($0)) })
        members.append(.pageSizes, pageSizes.map { .integer(Int128($0.rawValue)) })
        members.append(.twinSocket, twinSocket.map { .object($0.members) })
        members.append(.writeMultiple, writeMultiple.map { .boolean($0) })
        members.append(.migration, migration.map { .object($0.members) })
        return members
    }
}

extension Capabilities.TwinSocket {
    fileprivate var members: [JSONValue.Member] {
        var members: [JSONValue.Member] = []
        members.append(.twinSocketSupported, .boolean(isSupported))
        members.append(.twinSocketDescriptorIndex, descriptorIndex.map { .integer(Int128($0)) })
        return members
    }
}

extension Capabilities.Migration {
    fileprivate var members: [JSONValue.Member] {
        var members: [JSONValue.Member] = []
        members.append(.migrationPageSize, pageSize.map { .integer(Int128($0)) })
        members.append(.migrationMaximumBitmapSize, maximumBitmapSize.map { .integer(Int128($0)) })
        return members
    }
}

extension [JSONValue.Member] {
    fileprivate mutating func append(_ key: CapabilityKey, _ value: JSONValue?) {
        if let value { append(JSONValue.Member(key.rawValue, value)) }
    }

    fileprivate func number(
        _ key: CapabilityKey, in range: ClosedRange<Int128>
    ) throws(NegotiationError) -> Int128? {
        guard let value = self[key.rawValue] else { return nil }
        guard let number = value.wholeNumber else { throw .wrongType(key) }
        if !range.contains(number) { throw .outOfRange(key) }
        return number
    }

    fileprivate func count(_ key: CapabilityKey, in range: ClosedRange<Int>) throws(NegotiationError) -> Int? {
        try number(key, in: Int128(range.lowerBound)...Int128(range.upperBound)).map { Int($0) }
    }

    fileprivate func pageMultiple(_ key: CapabilityKey, upTo maximum: UInt64) throws(NegotiationError) -> UInt64? {
        guard let number = try number(key, in: Int128(CapabilityLimits.pageSize)...Int128(maximum)) else { return nil }
        if number % Int128(CapabilityLimits.pageSize) != 0 { throw .outOfRange(key) }
        return UInt64(number)
    }

    fileprivate func boolean(_ key: CapabilityKey) throws(NegotiationError) -> Bool? {
        guard let value = self[key.rawValue] else { return nil }
        guard let boolean = value.boolean else { throw .wrongType(key) }
        return boolean
    }

    fileprivate func object(_ key: CapabilityKey) throws(NegotiationError) -> [JSONValue.Member]? {
        guard let value = self[key.rawValue] else { return nil }
        guard let members = value.members else { throw .wrongType(key) }
        return members
    }
}
