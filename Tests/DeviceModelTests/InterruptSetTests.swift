import DeviceModel
import LinuxHost
import Testing

/// Connects `count` vectors of a kind from `start` on to counters of their own.
private func connect(
    _ interrupts: InterruptSet, _ kind: InterruptKind, _ count: Int = 1, from start: Int = 0
) throws -> [EventCounter] {
    let counters = try (0..<count).map { _ in try EventCounter() }
    interrupts.connect(kind, from: start, to: counters)
    return counters
}

extension [EventCounter] {
    /// What each has counted since the last call.
    fileprivate func drain() -> [UInt64] { map { $0.drain() } }
}

@Suite struct `Message-signalled interrupts` {
    let interrupts = InterruptSet(counts: [.msi: 8, .msix: 16, .error: 1])

    @Test func `kinds that were left out have no vectors`() {
        #expect(InterruptKind.allCases.map(interrupts.count) == [0, 8, 16, 1, 0])
    }

    @Test(arguments: [InterruptKind.msi, .msix, .error])
    func `a raised vector signals its own counter once per raise`(kind: InterruptKind) throws {
        let counters = try connect(interrupts, kind, interrupts.count(kind))
        let last = counters.count - 1
        interrupts.raise(kind, last)
        interrupts.raise(kind, last)
        var expected = [UInt64](repeating: 0, count: counters.count)
        expected[last] = 2
        #expect(counters.drain() == expected)
        #expect(!interrupts.isPending(kind, last))
    }

    @Test func `what is raised before a counter is connected is told once, on connecting`() throws {
        interrupts.raise(.msix, 3)
        interrupts.raise(.msix, 3)
        #expect(interrupts.isPending(.msix, 3))
        let counters = try connect(interrupts, .msix, 4)
        #expect(counters.drain() == [0, 0, 0, 1])
        #expect(!interrupts.isPending(.msix, 3))
    }

    @Test func `what is raised while a vector is masked is told once, on unmasking`() throws {
        let counters = try connect(interrupts, .msix, 2)
        interrupts.mask(.msix, 1)
        interrupts.raise(.msix, 0)
        interrupts.raise(.msix, 1)
        interrupts.raise(.msix, 1)
        #expect(counters.drain() == [1, 0])
        #expect(interrupts.isPending(.msix, 1))
        interrupts.unmask(.msix, 1)
        interrupts.unmask(.msix, 1)
        #expect(counters.drain() == [0, 1])
    }

    @Test func `a mask outlasts the replacement of the counter`() throws {
        _ = try connect(interrupts, .msix, 1)
        interrupts.mask(.msix, 0)
        interrupts.raise(.msix, 0)
        let counters = try connect(interrupts, .msix, 1)
        #expect(counters.drain() == [0])
        interrupts.unmask(.msix, 0)
        #expect(counters.drain() == [1])
    }

    @Test func `the newest counter is signalled, and the one it replaced no more`() throws {
        let old = try connect(interrupts, .msi, 8)
        let new = try connect(interrupts, .msi, 1, from: 5)
        interrupts.raise(.msi, 4)
        interrupts.raise(.msi, 5)
        #expect(old.drain() == [0, 0, 0, 0, 1, 0, 0, 0])
        #expect(new.drain() == [1])
    }

    @Test func `a replaced counter is not kept`() throws {
        weak var old: EventCounter?
        do {
            let counter = try EventCounter()
            old = counter
            interrupts.connect(.msi, from: 0, to: [counter])
        }
        #expect(old != nil)
        interrupts.connect(.msi, from: 0, to: [try EventCounter()])
        #expect(old == nil)
    }

    @Test func `connecting a range leaves the vectors around it alone`() throws {
        let counters = try connect(interrupts, .msix, 16)
        interrupts.connect(.msix, from: 6, to: [nil, nil])
        for vector in 0..<16 { interrupts.raise(.msix, vector) }
        #expect(counters.drain() == (0..<16).map { $0 == 6 || $0 == 7 ? 0 : 1 })
        let late = try connect(interrupts, .msix, 2, from: 6)
        #expect(late.drain() == [1, 1])
    }

    @Test func `connecting nothing switches a kind on`() {
        #expect(!interrupts.isEnabled(.msix))
        interrupts.connect(.msix, from: 0, to: [nil])
        #expect(interrupts.isEnabled(.msix))
        #expect(!interrupts.isEnabled(.msi))
    }

    @Test func `disabling disconnects, unmasks and forgets one kind`() throws {
        let counters = try connect(interrupts, .msix, 2)
        let others = try connect(interrupts, .msi, 1)
        interrupts.mask(.msix, 0)
        interrupts.raise(.msix, 0)
        interrupts.disable(.msix)
        #expect(!interrupts.isEnabled(.msix))
        #expect(!interrupts.isPending(.msix, 0))
        interrupts.connect(.msix, from: 0, to: counters)
        #expect(counters.drain() == [0, 0])
        interrupts.raise(.msix, 0)
        interrupts.raise(.msi, 0)
        #expect(counters.drain() == [1, 0])
        #expect(others.drain() == [1])
    }

    @Test func `forgetting what was raised keeps connections and masks`() throws {
        let counters = try connect(interrupts, .msix, 2)
        interrupts.mask(.msix, 1)
        interrupts.raise(.msix, 1)
        interrupts.raise(.msix, 9)
        interrupts.forgetPending()
        #expect(!interrupts.isPending(.msix, 1))
        #expect(!interrupts.isPending(.msix, 9))
        interrupts.unmask(.msix, 1)
        #expect(counters.drain() == [0, 0])
        interrupts.raise(.msix, 0)
        #expect(counters.drain() == [1, 0])
    }

    @Test func `a trigger signals even a masked vector and leaves nothing pending`() throws {
        let counters = try connect(interrupts, .msix, 1)
        interrupts.mask(.msix, 0)
        interrupts.trigger(.msix, 0)
        interrupts.trigger(.msix, 7)
        #expect(counters.drain() == [1])
        #expect(!interrupts.isPending(.msix, 0))
        #expect(!interrupts.isPending(.msix, 7))
    }

    @Test func `disconnecting everything leaves no counter to signal`() throws {
        let counters = try connect(interrupts, .msix, 1) + connect(interrupts, .msi, 1) + connect(interrupts, .error, 1)
        interrupts.disconnectAll()
        interrupts.raise(.msix, 0)
        interrupts.raise(.msi, 0)
        interrupts.raise(.error, 0)
        #expect(counters.drain() == [0, 0, 0])
        #expect(InterruptKind.allCases.allSatisfy { !interrupts.isEnabled($0) })
    }

    @Test func `the observer is called when a kind is switched, and with no lock held`() throws {
        let calls = Monitor(0)
        interrupts.onSwitch { [interrupts] in calls.withLock { $0 += interrupts.isEnabled(.msix) ? 1 : 100 } }
        let counters = try connect(interrupts, .msix, 2)
        interrupts.connect(.msix, from: 0, to: counters)
        interrupts.connect(.msix, from: 0, to: [nil, nil])
        #expect(calls.withLock { $0 } == 1)
        interrupts.disable(.msix)
        interrupts.disable(.msix)
        #expect(calls.withLock { $0 } == 101)
        interrupts.disconnectAll()
        #expect(calls.withLock { $0 } == 101)
    }

    @Test func `a client reaches the vectors up to the last that is connected`() throws {
        #expect(interrupts.connectedCount(.msi) == 0)
        _ = try connect(interrupts, .msi, 1, from: 4)
        #expect(interrupts.connectedCount(.msi) == 5)
        _ = try connect(interrupts, .msi, 2)
        #expect(interrupts.connectedCount(.msi) == 5)
        interrupts.connect(.msi, from: 4, to: [nil])
        #expect(interrupts.connectedCount(.msi) == 2)
        interrupts.disable(.msi)
        #expect(interrupts.connectedCount(.msi) == 0)
    }

    @Test func `raising a vector that does not exist is a bug of the device`() async {
        await #expect(processExitsWith: .failure) {
            InterruptSet(counts: [.msix: 4]).raise(.msix, 4)
        }
        await #expect(processExitsWith: .failure) {
            InterruptSet(counts: [.msix: 4]).raise(.msix, -1)
        }
    }

    @Test(arguments: [(InterruptKind.intx, 2), (.msi, 33), (.msix, 2049), (.error, 2), (.request, -1)])
    func `a function cannot have more vectors than the standard gives it`(kind: InterruptKind, count: Int) async {
        await #expect(processExitsWith: .failure) { [number = kind.rawValue as Int, count = count as Int] in
            _ = InterruptSet(counts: [InterruptKind.allCases[number]: count])
        }
    }
}

@Suite struct `Interrupt line` {
    let interrupts = InterruptSet(counts: [.intx: 1, .msi: 1])

    @Test func `S80 an asserted line is told once until it is unmasked`() throws {
        let counters = try connect(interrupts, .intx)
        interrupts.setLine(asserted: true)
        interrupts.setLine(asserted: true)
        interrupts.setLine(asserted: false)
        interrupts.setLine(asserted: true)
        #expect(counters.drain() == [1])
    }

    @Test func `S78 unmasking tells again of a line that is still asserted`() throws {
        let counters = try connect(interrupts, .intx)
        interrupts.setLine(asserted: true)
        #expect(counters.drain() == [1])
        interrupts.unmask(.intx, 0)
        #expect(counters.drain() == [1])
        interrupts.setLine(asserted: false)
        interrupts.unmask(.intx, 0)
        #expect(counters.drain() == [0])
    }

    @Test func `a line that was released while it was masked is not told on unmasking`() throws {
        let counters = try connect(interrupts, .intx)
        interrupts.mask(.intx, 0)
        interrupts.setLine(asserted: true)
        interrupts.setLine(asserted: false)
        interrupts.unmask(.intx, 0)
        #expect(counters.drain() == [0])
        interrupts.setLine(asserted: true)
        #expect(counters.drain() == [1])
    }

    @Test func `a line that rises while it is masked is told on unmasking`() throws {
        let counters = try connect(interrupts, .intx)
        interrupts.mask(.intx, 0)
        interrupts.setLine(asserted: true)
        #expect(counters.drain() == [0])
        interrupts.unmask(.intx, 0)
        #expect(counters.drain() == [1])
    }

    @Test func `a line that is asserted when the counter is connected is told at once`() throws {
        interrupts.setLine(asserted: true)
        let counters = try connect(interrupts, .intx)
        #expect(counters.drain() == [1])
    }

    @Test func `a pulse that nobody was connected to hear is gone`() throws {
        interrupts.setLine(asserted: true)
        interrupts.setLine(asserted: false)
        let counters = try connect(interrupts, .intx)
        #expect(counters.drain() == [0])
    }

    @Test func `replacing the counter of a line that was told does not tell it again`() throws {
        let old = try connect(interrupts, .intx)
        interrupts.setLine(asserted: true)
        let new = try connect(interrupts, .intx)
        #expect(old.drain() == [1])
        #expect(new.drain() == [0])
        interrupts.unmask(.intx, 0)
        #expect(old.drain() == [0])
        #expect(new.drain() == [1])
    }

    @Test func `the level of the line outlasts disabling`() throws {
        let old = try connect(interrupts, .intx)
        interrupts.setLine(asserted: true)
        interrupts.disable(.intx)
        let new = try connect(interrupts, .intx)
        #expect(old.drain() == [1])
        #expect(new.drain() == [1])
    }

    @Test func `disabling the line lets go of the client's controls, disabling anything else does not`() throws {
        var controls = InterruptControls()
        controls.unmask = try EventCounter()
        interrupts.controls = controls
        interrupts.disable(.msi)
        #expect(interrupts.controls.unmask != nil)
        interrupts.disable(.intx)
        #expect(interrupts.controls.unmask == nil)
    }

    @Test func `forgetting what was raised does not forget a line that is still asserted`() throws {
        interrupts.setLine(asserted: true)
        interrupts.forgetPending()
        let counters = try connect(interrupts, .intx)
        #expect(counters.drain() == [1])
    }

    @Test func `a device without the line may set it to no effect`() {
        let interrupts = InterruptSet(counts: [.msi: 1])
        interrupts.setLine(asserted: true)
        #expect(interrupts.count(.intx) == 0)
    }
}
