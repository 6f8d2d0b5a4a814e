import CHeapCount
import Edu
import Glibc
import LinuxHost
import Testing
import VFIOUserCheck

/// In a process of their own, where nothing else opens a descriptor or allocates.
@Suite struct Leaks {
    @Test func `S16 S100 ten thousand clients leave no descriptor and no memory behind`() async {
        await #expect(processExitsWith: .success) {
            try withServer(of: Edu.makeFunction()) { server in
                let memory = try ClientMemoryFile(byteCount: 0x10000)
                let counters = try eventCounters(2)
                var descriptorCount = 0
                var byteCount = 0
                for number in 1...10_000 {
                    let peer = try server.connect()
                    try peer.succeed(Number.mapDMA, Payload.map(at: 0, size: 0x10000), [memory.number])
                    try peer.succeed(Number.mapDMA, Payload.map(at: 0x10000, size: 0x10000))
                    try peer.connect(Interrupt.intx, to: [counters[0]])
                    try peer.setInterrupts(
                        SetFlags.descriptors | SetFlags.unmask, index: Interrupt.intx, count: 1, [counters[1]])
                    if number % 2 == 0 { try peer.succeed(Number.unmapDMA, Payload.unmap(at: 0, size: 0x10000)) }
                    peer.close()
                    server.waitForGoneClients(number)
                    if number == 1000 {
                        descriptorCount = try Open.all().count
                        byteCount = heap_bytes_in_use()
                    }
                }
                try eventually { try Open.all().count <= descriptorCount }
                let growth = heap_bytes_in_use() - byteCount
                // Nine thousand clients: a leak of eight bytes for each would be more than this.
                if growth > 65536 { throw Growth(bytes: growth) }
            }
        }
    }
}

private struct Growth: Error {
    let bytes: Int
}
