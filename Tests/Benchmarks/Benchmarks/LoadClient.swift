import CBaselines
import Glibc
import LinuxHost

/// The client in C by which servers are measured, on a socket of its own. One thread uses it.
///
/// Where a method does not throw, the server was asked for something that works, and a refusal ends the process.
@safe
final class LoadClient {
    private let socket: UNIXSocket
    private let client: OpaquePointer

    init(_ socket: UNIXSocket) {
        self.socket = socket
        unsafe client = load_client_create(socket.descriptor.rawValue, false)
    }

    deinit { unsafe load_client_destroy(client) }

    /// Whether the client looks for replies all the time instead of letting the kernel wake it.
    var spins = false {
        didSet { unsafe load_client_set_spinning(client, spins) }
    }

    func negotiate() { check("version", unsafe load_client_negotiate(client)) }

    /// Sends any command, and returns what comes back.
    func exchange(_ command: UInt16, _ payload: [UInt8], descriptor: Int32 = -1) throws(Errno) -> Reply {
        var reply = load_reply()
        let status = unsafe load_client_exchange(client, command, payload, payload.count, descriptor, &reply)
        guard status == 0 else { throw Errno(rawValue: status) }
        let bytes = unsafe withUnsafeBytes(of: &reply.payload) { unsafe Array($0.prefix(Int(reply.byte_count))) }
        return Reply(command: reply.command, flags: reply.flags, errorNumber: reply.error, payload: bytes)
    }

    struct Reply: Hashable {
        let command: UInt16
        let flags: UInt32
        let errorNumber: UInt32
        var payload: [UInt8]
    }

    /// A register of the measured device.
    func register(_ offset: Int) -> UInt64 {
        var value: UInt64 = 0
        check("read", unsafe load_client_read(client, 0, UInt64(offset), &value, 8))
        return value
    }

    func readMany(_ count: Int, depth: Int) { check("reads", unsafe load_client_read_many(client, count, depth)) }

    func postMany(_ count: Int) { check("posted writes", unsafe load_client_post_many(client, count)) }

    /// Maps pages, 64 messages at a time unless told otherwise.
    ///
    /// - Returns: how many; fewer than asked for when the server's kernel or the server has no room for more.
    func map(_ pages: Span<UInt64>, of memory: Int32?, depth: Int = 64) -> Int {
        // In pieces, so that it is known how far it went.
        let piece = 256
        var done = 0
        while done < pages.count {
            let part = pages.extracting(done..<min(done + piece, pages.count))
            let status = unsafe part.withPages(of: memory) { unsafe load_client_map(client, $0, depth) }
            if status == ENOMEM || status == ENOSPC { return done }
            check("map", status)
            done += part.count
        }
        return done
    }

    func unmap(_ pages: Span<UInt64>, depth: Int = 64) {
        check("unmap", unsafe pages.withPages(of: nil) { unsafe load_client_unmap(client, $0, depth) })
    }

    func mapAndUnmap(_ pages: Span<UInt64>, of memory: Int32?, depth: Int) {
        check(
            "map and unmap",
            unsafe pages.withPages(of: memory) { unsafe load_client_map_and_unmap(client, $0, depth) })
    }

    /// Maps the memory that `transfer` is about.
    func mapOwnMemory() { check("map", unsafe load_client_map_memory(client)) }

    /// The bytes of that memory that take part in transfers.
    @unsafe var memory: UnsafeMutableRawBufferPointer {
        unsafe UnsafeMutableRawBufferPointer(start: load_client_memory(client), count: Int(MEASURED_DMA_BUFFER_SIZE))
    }

    /// Lets the measured device read the start of the memory, or write there, and serves it meanwhile.
    func transfer(byteCount: Int, deviceReads: Bool) {
        let command = UInt64(deviceReads ? MEASURED_DMA_READ : MEASURED_DMA_WRITE)
        check("transfer", unsafe load_client_transfer(client, command, UInt64(byteCount)))
    }

    /// Sets up the NVMe controller behind the server; the caller destroys what it gets, before the client.
    @unsafe func makeDriver() -> OpaquePointer? {
        var driver: OpaquePointer?
        check("NVMe controller", unsafe nvme_load_create(client, &driver))
        return unsafe driver
    }

    /// Ends the connection.
    func close() { socket.shutdown() }
}

/// Ends the process for a status that is not 0.
func check(_ operation: String, _ status: Int32) {
    if status != 0 { fatalError("\(operation) failed while it was measured: \(Errno(rawValue: status))") }
}

extension Span<UInt64> {
    /// Hands the addresses on as pages of the shared memory, or of none.
    fileprivate func withPages(of memory: Int32?, _ body: (load_pages) -> Int32) -> Int32 {
        unsafe withUnsafeBufferPointer { buffer in
            unsafe body(
                load_pages(
                    addresses: buffer.baseAddress, count: buffer.count, descriptor: memory ?? -1,
                    page_count: UInt64(SharedMemory.pageCount)))
        }
    }
}
