import Testing
import VFIOUserTransport

private func errorOf(_ text: String) -> FaultPlanError? {
    do throws(FaultPlanError) {
        _ = try FaultPlan(parsing: text)
        return nil
    } catch {
        return error
    }
}

@Suite struct `Plans of faults` {
    @Test func `every name of a plan is understood`() throws {
        let plan = try FaultPlan(
            parsing: """
                seed=7,short-reads=20%,short-writes=0.5%,interruptions=1%,refusals=100%,delays=3%,delay=200us,\
                lost-descriptors=0.0001%,swapped-descriptors=12.25%,flipped-bits=0%,cuts=1.5%,cut-after=4096
                """)
        var expected = FaultPlan()
        expected.seed = 7
        expected.shortReads = .percent(20)
        expected.interruptions = .percent(1)
        expected.refusals = .percent(100)
        expected.delays = .percent(3)
        expected.delay = .microseconds(200)
        expected.cutAfter = 4096
        #expect(plan.shortWrites.partsPerMillion == 5000)
        #expect(plan.lostDescriptors.partsPerMillion == 1)
        #expect(plan.swappedDescriptors.partsPerMillion == 122_500)
        #expect(plan.cuts.partsPerMillion == 15_000)
        expected.shortWrites = plan.shortWrites
        expected.lostDescriptors = plan.lostDescriptors
        expected.swappedDescriptors = plan.swappedDescriptors
        expected.cuts = plan.cuts
        #expect(plan == expected)
        #expect(!plan.isHarmless)
    }

    @Test func `a delay alone delays some, and what only slows or splits is harmless`() throws {
        let plan = try FaultPlan(
            parsing: "delay=1s,short-reads=50%,short-writes=50%,interruptions=9%,refusals=9%,lost-descriptors=0%")
        #expect(plan.delays == .percent(10) && plan.delay == .seconds(1))
        #expect(plan.isHarmless)
        #expect(try FaultPlan(parsing: "delay=5ms,delays=0%").delays == .never)
        for text in ["lost-descriptors=1%", "swapped-descriptors=1%", "flipped-bits=1%", "cuts=1%", "cut-after=9"] {
            #expect(try !FaultPlan(parsing: text).isHarmless)
        }
    }

    @Test(arguments: ["", "speed=9", "seed=1,", ",seed=1", "Seed=1", " seed=1", "=5"])
    func `an unknown name is refused`(text: String) {
        guard case .unknownName = errorOf(text) else {
            Issue.record("\(text): \(String(describing: errorOf(text)))")
            return
        }
    }

    @Test(
        arguments: [
            "seed", "seed=", "seed=-1", "seed=+1", "seed=0x10", "seed=18446744073709551616", "short-reads=20",
            "short-reads=101%", "short-reads=100.0001%", "short-reads=1.%", "short-reads=.5%", "short-reads=1.00001%",
            "short-reads=%", "short-reads=-1%", "delay=5", "delay=ms", "delay=1001ms", "delay=2s", "delay=1m",
            "delay=1.5ms", "cut-after=1k", "cuts=1%=", "delay=99999999999999999999ms",
        ])
    func `a value that makes no sense is refused`(text: String) {
        guard case .badValue = errorOf(text) else {
            Issue.record("\(text): \(String(describing: errorOf(text)))")
            return
        }
    }

    @Test func `a name that is there twice is refused`() {
        #expect(errorOf("seed=1,cuts=1%,seed=1") == .repeated("seed"))
    }
}
