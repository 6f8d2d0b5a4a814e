import DeviceModel
import LinuxHost
import Testing

/// Runs `bodies` on threads of their own, all at once, and waits for them to end.
private func concurrently(_ bodies: [@Sendable () -> Void]) throws {
    let threads = try bodies.enumerated().map { number, body in try OSThread(name: "test \(number)", body) }
    for thread in threads { thread.join() }
}

@Suite struct `Interrupts from several threads` {
    @Test func `no interrupt is lost while its counter is being replaced`() throws {
        let interrupts = InterruptSet(counts: [.msix: 4])
        let counters = try (0..<4).map { _ in try EventCounter() }
        let raises = 20_000
        let raisers = (0..<4).map { vector in
            { @Sendable in for _ in 0..<raises { interrupts.raise(.msix, vector) } }
        }
        let connector = { @Sendable in
            for _ in 0..<2_000 {
                interrupts.connect(.msix, from: 0, to: counters)
                interrupts.connect(.msix, from: 1, to: [counters[1], counters[2]])
            }
        }
        interrupts.connect(.msix, from: 0, to: counters)
        try concurrently(raisers + [connector])
        #expect(counters.map { $0.drain() } == [UInt64](repeating: UInt64(raises), count: 4))
    }

    @Test func `the last raise is always told, however masks and counters come and go`() throws {
        let interrupts = InterruptSet(counts: [.msix: 2])
        let counters = try (0..<2).map { _ in try EventCounter() }
        let raiser = { @Sendable in
            for _ in 0..<10_000 {
                interrupts.raise(.msix, 0)
                interrupts.raise(.msix, 1)
            }
        }
        let masker = { @Sendable in
            for _ in 0..<5_000 {
                interrupts.mask(.msix, 0)
                interrupts.unmask(.msix, 0)
            }
        }
        let connector = { @Sendable in
            for _ in 0..<5_000 {
                interrupts.connect(.msix, from: 1, to: [nil])
                interrupts.connect(.msix, from: 1, to: [counters[1]])
            }
        }
        interrupts.connect(.msix, from: 0, to: counters)
        try concurrently([raiser, masker, connector])
        for vector in 0..<2 {
            #expect(!interrupts.isPending(.msix, vector))
            #expect((1...10_000).contains(counters[vector].drain()))
        }
    }

    @Test func `a line that ends up asserted is told, whoever masks and unmasks meanwhile`() throws {
        let interrupts = InterruptSet(counts: [.intx: 1])
        let counter = try EventCounter()
        interrupts.connect(.intx, from: 0, to: [counter])
        let device = { @Sendable in
            for number in 0..<10_001 { interrupts.setLine(asserted: number % 2 == 0) }
        }
        let client = { @Sendable in
            for _ in 0..<10_000 {
                interrupts.unmask(.intx, 0)
                interrupts.mask(.intx, 0)
            }
        }
        try concurrently([device, client])
        counter.drain()
        interrupts.unmask(.intx, 0)
        #expect(counter.drain() == 1)
    }

    @Test func `clients come and go while the device raises`() throws {
        let interrupts = InterruptSet(counts: [.intx: 1, .msi: 32, .msix: 64])
        let device = { @Sendable in
            for number in 0..<20_000 {
                interrupts.raise(.msix, number % 64)
                interrupts.raise(.msi, number % 32)
                interrupts.setLine(asserted: number % 3 == 0)
            }
        }
        let client = { @Sendable in
            for _ in 0..<200 {
                guard let counter = try? EventCounter() else { return }
                interrupts.connect(.msix, from: 0, to: [EventCounter?](repeating: counter, count: 64))
                interrupts.connect(.intx, from: 0, to: [counter])
                interrupts.mask(.msix, 63)
                interrupts.disconnectAll()
            }
        }
        try concurrently([device, device, client, client])
        interrupts.disconnectAll()
        let counter = try EventCounter()
        interrupts.connect(.msix, from: 0, to: [EventCounter?](repeating: counter, count: 64))
        #expect(counter.drain() == 0)
        interrupts.raise(.msix, 63)
        #expect(counter.drain() == 1)
    }
}
