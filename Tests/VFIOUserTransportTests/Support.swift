import LinuxHost
import VFIOUserTransport

/// What one call moved, or the error that it failed with.
enum Outcome: Hashable {
    case bytes([UInt8], descriptorCount: Int, hasLost: Bool)
    case failed(Errno)
}

extension Transport {
    func read(atMost count: Int = 1 << 16, waiting: Bool = false) -> Outcome {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
        defer { unsafe buffer.deallocate() }
        do throws(Errno) {
            let received = unsafe try receive(into: buffer, waiting: waiting)
            return .bytes(
                unsafe Array(buffer[..<received.count]), descriptorCount: received.descriptors.count,
                hasLost: received.lostDescriptors)
        } catch {
            return .failed(error)
        }
    }

    /// Sends bytes with one call, and tells how many were taken.
    func write(_ bytes: [UInt8], _ counters: [EventCounter] = []) throws(Errno) -> Int {
        var bundle = DescriptorBundle(adopting: counters.map(\.rawDescriptor))
        // Lent for the call.
        defer { while let lent = bundle.takeFirst() { _ = lent.take() } }
        var result: Result<Int, Errno> = .success(0)
        unsafe bytes.withUnsafeBytes { buffer in
            do throws(Errno) {
                result = .success(unsafe try send(buffer, descriptors: bundle, waiting: false))
            } catch {
                result = .failure(error)
            }
        }
        return try result.get()
    }

    /// All that comes until the peer closes or nothing is there, whatever fails on the way; an error that stays is
    /// taken for the end after a thousand times.
    func readAll(atMost count: Int = 1 << 16) -> [UInt8] {
        var all: [UInt8] = []
        var failures = 0
        while failures < 1000 {
            switch read(atMost: count) {
            case .bytes(let bytes, _, _):
                if bytes.isEmpty { return all }
                all += bytes
                failures = 0
            case .failed(.interrupted), .failed(.wouldBlock): failures += 1
            case .failed: return all
            }
        }
        return all
    }

    /// Sends all bytes, whatever fails on the way, and tells in what pieces; fewer when the connection ends.
    func writeAll(_ bytes: [UInt8]) -> [Int] {
        var pieces: [Int] = []
        var rest = bytes[...]
        while !rest.isEmpty {
            do throws(Errno) {
                let count = try write(Array(rest))
                pieces.append(count)
                rest = rest.dropFirst(count)
            } catch {
                if error != .interrupted, error != .wouldBlock { break }
            }
        }
        return pieces
    }
}

func text(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 >> 8) } }
