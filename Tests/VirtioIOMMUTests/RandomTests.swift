import DMA
import IOMMUTestDriver
import LinuxHost
import Randomness
import Testing
import VirtioIOMMU

/// What an IOMMU does, in the simplest words: for each domain the mappings as a list, for each endpoint its domain.
private struct Model {
    struct Mapping {
        let first, last, physical: UInt64
        let flags: UInt32
    }

    struct Domain {
        let isBypass: Bool
        var mappings: [Mapping] = []
    }

    var domains: [UInt32: Domain] = [:]
    var attachments: [UInt32: UInt32] = [:]
    /// Guest memory: the ranges of addresses that there are.
    var memory: [ClosedRange<UInt64>]
    static let limit: UInt64 = 1 << 48

    mutating func attach(_ endpoint: UInt32, _ domain: UInt32, isBypass: Bool) -> UInt8 {
        if let known = domains[domain] {
            if known.isBypass != isBypass { return Status.invalid }
        } else {
            domains[domain] = Domain(isBypass: isBypass)
        }
        leave(endpoint, unless: domain)
        attachments[endpoint] = domain
        return Status.ok
    }

    mutating func detach(_ endpoint: UInt32, _ domain: UInt32) -> UInt8 {
        guard attachments[endpoint] == domain else { return Status.invalid }
        leave(endpoint, unless: nil)
        return Status.ok
    }

    private mutating func leave(_ endpoint: UInt32, unless domain: UInt32?) {
        guard let old = attachments[endpoint], old != domain else { return }
        attachments[endpoint] = nil
        if !attachments.values.contains(old) { domains[old] = nil }
    }

    mutating func map(_ domain: UInt32, _ mapping: Mapping) -> UInt8 {
        guard let known = domains[domain] else { return Status.notFound }
        guard !known.isBypass, mapping.first < mapping.last else { return Status.invalid }
        let isAligned = [mapping.first, mapping.last &+ 1, mapping.physical].allSatisfy { $0 % page == 0 }
        guard isAligned, mapping.last < Self.limit else { return Status.outOfRange }
        let overlaps = known.mappings.contains { $0.first <= mapping.last && mapping.first <= $0.last }
        if overlaps { return Status.invalid }
        domains[domain]?.mappings.append(mapping)
        return Status.ok
    }

    mutating func unmap(_ domain: UInt32, _ first: UInt64, _ last: UInt64) -> UInt8 {
        guard let known = domains[domain] else { return Status.notFound }
        guard !known.isBypass, first <= last else { return Status.invalid }
        let touched = known.mappings.filter { $0.first <= last && first <= $0.last }
        guard touched.allSatisfy({ first <= $0.first && $0.last <= last }) else { return Status.outOfRange }
        domains[domain]?.mappings.removeAll { first <= $0.first && $0.last <= last }
        return Status.ok
    }

    /// Where in guest memory an access of one byte gets; `nil` if it is refused.
    func physical(_ endpoint: UInt32, _ address: UInt64, write: Bool) -> UInt64? {
        guard let domain = attachments[endpoint].flatMap({ domains[$0] }), !domain.isBypass else { return address }
        let mapping = domain.mappings.first { ($0.first...$0.last).contains(address) }
        guard let mapping, mapping.flags & (write ? 2 : 1) != 0, mapping.flags & 4 == 0 else { return nil }
        let physical = mapping.physical + (address - mapping.first)
        return memory.contains { $0.contains(physical) } ? physical : nil
    }
}

@Suite struct `Random requests` {
    private static let extraPlace: UInt64 = 1 << 32
    private static let extraByteCount: UInt64 = 8 * page

    /// Single requests and batches of them; devices that come and go; guest memory that comes and goes.
    @Test(arguments: 1...8)
    func `V85 come to what a simple model says`(seed: Int) throws {
        var numbers = SeededNumbers(seed: UInt64(seed))
        let driver = try IOMMUDriver()
        let devices = try (1...3 as ClosedRange<UInt32>).map {
            try Confined(driver, id: $0, reserved: [])
        }
        let extra = try MemoryObject.anonymous(byteCount: Int(Self.extraByteCount))
        let everything = 0...UInt64(driver.memory.byteCount) - 1
        var model = Model(memory: [everything])
        driver.start()
        for step in 0..<1500 {
            switch numbers.next(below: 20) {
            case 0:
                let device = devices[Int(numbers.next(below: 3))]
                if device.isConnected { device.leave() } else { try device.connect() }
            case 1:
                if model.memory.count == 1 {
                    try driver.space.map(
                        .file(extra, offset: 0), at: IOVA(Self.extraPlace), byteCount: Self.extraByteCount,
                        rights: [.read, .write])
                    model.memory.append(Self.extraPlace...Self.extraPlace + Self.extraByteCount - 1)
                } else {
                    try driver.space.unmap(IOVARange(first: IOVA(Self.extraPlace), byteCount: Self.extraByteCount))
                    model.memory.removeLast()
                }
            case 2:
                driver.start()
                model = Model(memory: model.memory)
            default:
                var batch: [[UInt8]] = []
                var wanted: [UInt8] = []
                for _ in 0...numbers.next(below: 12) {
                    let (bytes, status) = request(&numbers, &model)
                    batch.append(bytes)
                    wanted.append(status)
                }
                let statuses = driver.send(batch: batch)
                #expect(statuses == wanted, "seed \(seed), step \(step)")
                if statuses != wanted { return }
            }
            for device in devices where device.isConnected {
                for _ in 0..<4 {
                    let address = numbers.next(below: 24) * page + numbers.next(below: page)
                    let write = numbers.next(below: 2) == 0
                    try compare(device, address, write, model, driver, extra, "seed \(seed), step \(step)")
                }
            }
        }
    }

    private func request(_ numbers: inout SeededNumbers, _ model: inout Model) -> ([UInt8], UInt8) {
        let domain = UInt32(numbers.next(below: 3))
        let endpoint = UInt32(numbers.next(below: 3) + 1)
        let first = numbers.next(below: 24) * page + (numbers.next(below: 30) == 0 ? 1 : 0)
        let last = first &+ (numbers.next(below: 5) * page) &- (numbers.next(below: 30) == 0 ? 2 : 1)
        switch numbers.next(below: 10) {
        case 0:
            let isBypass = numbers.next(below: 8) == 0
            return (
                RequestBytes.attach(endpoint, to: domain, flags: isBypass ? 1 : 0),
                model.attach(endpoint, domain, isBypass: isBypass)
            )
        case 1:
            return (RequestBytes.detach(endpoint, from: domain), model.detach(endpoint, domain))
        case 2, 3, 4:
            let end = numbers.next(below: 20) == 0 ? UInt64.max : last
            return (RequestBytes.unmap(domain, first, end), model.unmap(domain, first, end))
        default:
            let isFar = numbers.next(below: 3) == 0
            let place = isFar ? Self.extraPlace - 2 * page : data
            let mapping = Model.Mapping(
                first: first, last: last, physical: place + numbers.next(below: 12) * page,
                flags: numbers.next(below: 3) == 0 ? UInt32(numbers.next(below: 8)) : 3)
            return (
                RequestBytes.map(domain, mapping.first, mapping.last, to: mapping.physical, flags: mapping.flags),
                model.map(domain, mapping)
            )
        }
    }

    private func compare(
        _ device: Confined, _ address: UInt64, _ write: Bool, _ model: Model, _ driver: IOMMUDriver,
        _ extra: MemoryObject, _ place: Comment
    ) throws {
        func byte(_ physical: UInt64) -> UInt8 {
            physical < Self.extraPlace
                ? driver[physical] : unsafe extra.bytes[Int(physical - Self.extraPlace)]
        }
        guard let physical = model.physical(device.id, address, write: write) else {
            #expect(throws: DMAError.self, place) {
                if write { try device.write([0], to: address) } else { _ = try device.read(address) }
            }
            return
        }
        if write {
            // In bypass the address may be one of the driver's rings.
            guard physical >= data else { return }
            let value = byte(physical) &+ 1
            try device.write([value], to: address)
            #expect(byte(physical) == value, place)
        } else {
            #expect(try device.read(address) == [byte(physical)], place)
        }
    }
}
