import CHeapCount
import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserNegotiation
import VFIOUserCheck

/// In a process of its own, where nothing else opens a descriptor, maps or allocates.
///
/// `OUTBOARD_WIRE_MAPPINGS` in the environment is how many, one million at most.
@Suite struct `A million mappings` {
    @Test func `S16 S45 S55 a million maps of one file take no descriptor and no mmap, and leave no memory`() async {
        let result = await #expect(processExitsWith: .success, observing: [\.standardOutputContent]) {
            let count = unsafe getenv("OUTBOARD_WIRE_MAPPINGS").flatMap { unsafe Int(String(cString: $0)) }
            do {
                try withServer(of: Edu.makeFunction(dmaMaskBits: 64)) { server in
                    try MappingClient(server, count: count ?? 1_000_000).mapAndUnmap()
                }
            } catch {
                // Thrown on, it would be no more than a signal to the test; of an issue the comment gets there.
                Issue.record(error, "\(error)")
            }
        }
        print(String(decoding: result?.standardOutputContent ?? [], as: UTF8.self), terminator: "")
    }
}

/// A client that maps every page of a file at an address of its own, in an order that goes to and fro between them.
private struct MappingClient {
    private static let page = 0x1000
    /// Where the first page of the file is mapped.
    private static let base = 1 << 32
    /// A byte and a bit for each of a million mappings.
    private static let heapSlack = 1 << 20
    /// The heap itself takes some when it grows: two for every 64 MiB of a thread's, one for an allocation of its own.
    private static let areaSlack = 32

    private let peer: RawPeer
    private let file: ClientMemoryFile
    private let count: Int

    init(_ server: TestServer, count: Int) throws {
        self.count = count
        file = try ClientMemoryFile(byteCount: count * Self.page)
        peer = try server.connect()
        try peer.enableBusMaster()
    }

    func mapAndUnmap() throws {
        // The first mappings and transfers bring what lasts: buffers, tables, threads.
        try map(0..<count / 10)
        try checkPages(of: 0..<count / 10)
        try unmapEverything()
        let before = try Holdings(of: file)
        print("before: \(before)")

        try timed("map", count) { try map(0..<count) }
        let top = try Holdings(of: file)
        print("at the top: \(top), \((top.heapBytes - before.heapBytes) / count) bytes of heap each")
        #expect(top.descriptors == before.descriptors, "\(top), before \(before)")
        // One view of the whole file for all.
        #expect(top.views == before.views + 1, "\(top), before \(before)")
        #expect(top.areas <= before.areas + Self.areaSlack, "\(top), before \(before)")
        try checkPages(of: 0..<count)
        if count == ServerOffer().maximumDMAMappings {
            let oneMore = Payload.map(at: 0, size: UInt64(Self.page))
            // ENOSPC
            #expect(try peer.call(Number.mapDMA, oneMore, [file.number]).error == 28)
        }

        try timed("unmap one by one", count / 2) { try unmap(0..<count / 2) }
        try checkPages(of: count / 2..<count)
        try timed("unmap half of the rest at once", count / 4) { try unmapLowerHalf() }
        try timed("unmap all the rest at once", count / 4) { try unmapEverything() }

        let after = try Holdings(of: file)
        print("after: \(after)")
        #expect(after.descriptors == before.descriptors, "\(after), before \(before)")
        #expect(after.views == before.views, "\(after), before \(before)")
        #expect(after.areas <= before.areas + Self.areaSlack, "\(after), before \(before)")
        #expect(after.heapBytes <= before.heapBytes + Self.heapSlack, "\(after), before \(before)")
    }

    /// Multiplication by a prime that is larger than any count visits each page once.
    private func pageNumber(_ number: Int) -> Int { number * 2_654_435_761 % count }

    private func address(_ number: Int) -> Int { Self.base + pageNumber(number) * Self.page }

    private func map(_ numbers: Range<Int>) throws {
        let template = message(Number.mapDMA, Payload.map(at: 0, size: UInt64(Self.page)))
        let reply = message(Number.mapDMA, flags: HeaderFlags.reply)
        let pipeline = RequestPipeline(peer, template, reply: reply, descriptor: file.number)
        unsafe try pipeline.send(numbers) { number, request, _ in
            let offset = UInt64(pageNumber(number) * Self.page)
            unsafe request.storeBytes(of: offset.littleEndian, toByteOffset: 24, as: UInt64.self)
            unsafe request.storeBytes(of: UInt64(address(number)).littleEndian, toByteOffset: 32, as: UInt64.self)
        }
    }

    private func unmap(_ numbers: Range<Int>) throws {
        let payload = Payload.unmap(at: 0, size: UInt64(Self.page))
        let template = message(Number.unmapDMA, payload)
        let reply = message(Number.unmapDMA, flags: HeaderFlags.reply, payload)
        unsafe try RequestPipeline(peer, template, reply: reply).send(numbers) { number, request, reply in
            let address = UInt64(address(number)).littleEndian
            unsafe request.storeBytes(of: address, toByteOffset: 24, as: UInt64.self)
            unsafe reply.storeBytes(of: address, toByteOffset: 24, as: UInt64.self)
        }
    }

    /// Unmaps the lower half of the addresses, which takes all that is mapped there and nothing else.
    private func unmapLowerHalf() throws {
        let half = UInt64(count / 2 * Self.page)
        try peer.succeed(Number.unmapDMA, Payload.unmap(at: UInt64(Self.base), size: half))
        let rest = count / 2..<count
        let gone = try #require(rest.first { pageNumber($0) < count / 2 })
        let left = try #require(rest.first { pageNumber($0) >= count / 2 })
        try map(gone..<gone + 1)
        let again = Payload.map(at: UInt64(address(left)), size: UInt64(2 * Self.page))
        #expect(try peer.call(Number.mapDMA, again, [file.number]).error == exists)
    }

    private func unmapEverything() throws {
        try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0, flags: 2))
    }

    /// Lets the device copy from one mapped page to another, for some of them from all over the range.
    private func checkPages(of numbers: Range<Int>) throws {
        let byteCount = 64
        let samples = stride(from: numbers.lowerBound, to: numbers.upperBound, by: max(1, numbers.count / 32))
        var source = numbers.upperBound - 1
        for target in samples {
            let text = pattern(byteCount, seed: UInt8(truncatingIfNeeded: target))
            let from = pageNumber(source) * Self.page
            let to = pageNumber(target) * Self.page + Self.page / 2
            file[from..<from + byteCount] = text
            try peer.eduRead(from: UInt64(address(source)), count: byteCount)
            try peer.eduWrite(to: UInt64(address(target) + Self.page / 2), count: byteCount)
            guard file[to..<to + byteCount] == text else { throw WrongPage(number: target, source: source) }
            source = target
        }
    }

    private func timed(_ what: String, _ number: Int, _ body: () throws -> Void) throws {
        let start = MonotonicInstant.now
        try body()
        let nanoseconds = MonotonicInstant.now.nanoseconds - start.nanoseconds
        print("\(what): \(nanoseconds / 1_000_000) ms, \(nanoseconds / Int64(max(1, number))) ns each")
    }
}

private struct WrongPage: Error {
    let number: Int
    let source: Int
}

/// What this process, the client and the server in one, holds at one moment.
private struct Holdings: CustomStringConvertible {
    let descriptors: Int
    /// Mappings of the client's file.
    let views: Int
    /// Mappings of anything. `/proc/self/maps`
    let areas: Int
    let heapBytes: Int
    /// For information: what was freed may still be resident.
    let residentBytes: Int

    init(of file: ClientMemoryFile) throws {
        descriptors = try Open.all().count
        views = try Open.mappingCount(of: file.number)
        areas = try lines(of: "/proc/self/maps").count
        heapBytes = heap_bytes_in_use()
        let pages = Int(try lines(of: "/proc/self/statm")[0].split(separator: " ")[1]) ?? 0
        residentBytes = pages * Int(getpagesize())
    }

    var description: String {
        "\(descriptors) descriptors, \(views) views of the file, \(areas) areas, heap \(heapBytes >> 10) KiB, "
            + "resident \(residentBytes >> 10) KiB"
    }
}
